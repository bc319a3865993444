"""Mean teacher: its loss and weight against their formulas, and trainings against a plain loop and a stopped run."""

from __future__ import annotations

import math
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch.utils.data import default_collate

from conftest import PLAIN, ROOT, TINY
from mlla_seg import SegmentationDataModule, SegmentationModule
from mlla_seg.errors import InputError
from mlla_seg.training.ema import WarmEMA, ema_of
from mlla_seg.training.losses import segmentation_loss
from mlla_seg.training.mean_teacher import consistency_loss, ramped, teacher_callbacks
from samples import write_array

STEPS, RATE = 4, 1e-2


@pytest.fixture(scope="module")
def more(tmp_path_factory):
    """Folder of unlabelled volumes of the phantom's kind."""
    folder = tmp_path_factory.mktemp("more")
    for k in range(2):
        write_array(folder / f"new_{k}.h5", image=np.random.default_rng(k).random((4, 32, 32)).astype(np.float32))
    return folder


def test_the_weight_rises_along_a_gaussian():
    assert ramped(0.0, 0.5) == pytest.approx(math.exp(-5))
    assert ramped(0.25, 0.5) == pytest.approx(math.exp(-1.25))
    assert ramped(0.5, 0.5) == ramped(0.9, 0.5) == ramped(0.0, 0.0) == 1


@pytest.mark.parametrize("regions", [False, True])
def test_the_loss_is_the_mean_square_over_classes_and_valid_pixels(regions):
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(2, 3, 4, 4, generator=generator) for _ in range(2))
    valid = torch.rand(2, 4, 4, generator=generator) > 0.3
    ours.requires_grad_()
    kind = torch.sigmoid if regions else lambda x: x.softmax(1)
    expected = (kind(ours) - kind(theirs)).square().movedim(1, -1)[valid].mean()
    loss = consistency_loss(ours, theirs, valid, regions)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert (ours.grad.movedim(1, -1)[~valid] == 0).all()
    ours.grad = None
    nothing = consistency_loss(ours, theirs * torch.nan, torch.zeros_like(valid), regions)
    nothing.backward()
    assert nothing == 0


def test_another_average_of_weights_is_refused():
    assert [type(one) for one in teacher_callbacks(Trainer(**PLAIN))] == [WarmEMA]
    assert teacher_callbacks(Trainer(**PLAIN, callbacks=[WarmEMA(0.5)])) == []
    with pytest.raises(InputError, match=r"by mlla_seg.training.ema.WarmEMA, not by EMAWeightAveraging"):
        teacher_callbacks(Trainer(**PLAIN, callbacks=[EMAWeightAveraging()]))


def plain_loop(network, data):
    """Train as a script would, and return the weights and the averaged ones."""
    average, optimizer = deepcopy(network).eval(), torch.optim.SGD(network.parameters(), lr=RATE)
    network.train()
    keys = iter(data.train_dataloader().sampler)
    for step in range(STEPS):
        batch = default_collate([data.pairs[next(keys)] for _ in range(2)])
        further = batch["unlabelled"]
        logits = network.segment(torch.cat((batch["image"], further["image"])))
        loss = segmentation_loss(logits[:2], batch["mask"])
        if step:
            with torch.no_grad():
                wanted = average.segment(further["plain"]).softmax(1)
            squares = (logits[2:].softmax(1) - wanted).square().mean(1)
            weight = 3.0 * math.exp(-5 * (1 - min(1, step / STEPS / 0.5)) ** 2)
            loss = loss + weight * squares[further["valid"]].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        keep = min(0.99, (1 + step) / (10 + step)) if step else 0.0
        with torch.no_grad():
            for old, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
                old.copy_(old.lerp(new, 1 - keep) if old.is_floating_point() else new)
    return network.state_dict(), average.state_dict()


def test_training_equals_a_plain_loop(tmp_path, phantom_root, more):
    where = {"card": "phantom", "root": str(phantom_root), "cache_dir": str(tmp_path), "unlabelled": str(more)}
    data = SegmentationDataModule(**where, batch_size=2, crop=[32, 32], intensity=0.5, num_workers=0)
    how = {"optimizer": "sgd", "lr": RATE, "weight_decay": 0.0, "schedule": "constant", "warmup": 0.0}
    how |= {"drop_path_rate": 0.0, "consistency": 3.0, "consistency_rampup": 0.5}
    module = SegmentationModule("mlla_test", decoder_depths=[1, 1, 1], spec=data.spec, **how)
    network = deepcopy(module.network)
    module.configure_optimizers = lambda: torch.optim.SGD(module.network.parameters(), lr=RATE)  # without momentum
    module.total_steps, module.on_train_start = STEPS, lambda: None  # which set the rates of the schedule
    trainer = Trainer(**PLAIN, max_epochs=1, limit_train_batches=STEPS, limit_val_batches=0)
    trainer.fit(module, data)
    assert trainer.global_step == STEPS
    weights, averages = plain_loop(network, data)
    assert not torch.equal(weights["head.weight"], averages["head.weight"])
    average = ema_of(trainer).module.network.state_dict()
    for name, value in averages.items():
        torch.testing.assert_close(average[name], value, rtol=1e-5, atol=1e-6, msg=name)
        torch.testing.assert_close(module.network.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_a_stopped_run_goes_on_as_if_nothing_had_been(cli, phantom_root, more):
    options = [f"--config={ROOT / 'configs/demo.yaml'}", f"--data.root={phantom_root}", "--data.crop=[32,32]", *TINY]
    options += [f"--data.unlabelled={more}", "--data.intensity=0.5", "--trainer.max_epochs=1"]
    options += ["--trainer.limit_train_batches=3", "--trainer.limit_val_batches=1", "--model.consistency=5"]
    cli("fit", *options, "--trainer.logger.init_args.name=whole")
    kill = "--trainer.callbacks=[{class_path: killer.Kill, init_args: {name: SIGTERM, step: 2}}]"
    with pytest.raises(SystemExit):
        cli("fit", *options, kill, "--trainer.logger.init_args.name=parts")
    cli("fit", *options, "--trainer.logger.init_args.name=parts", "--ckpt_path=last")
    last = [Path(f"runs/{name}/version_0/checkpoints/last.ckpt") for name in ("whole", "parts")]
    whole, parts = (torch.load(path, weights_only=True) for path in last)
    for kind in ("state_dict", "current_model_state"):
        assert all(torch.equal(value, parts[kind][name]) for name, value in whole[kind].items())
    assert whole["epoch_loss"] == parts["epoch_loss"]
    scored = ("--trainer.limit_val_batches=1", "--distances=false")
    cli("validate", *options, *scored, f"--ckpt_path={last[0]}", "--data.unlabelled=gone")
