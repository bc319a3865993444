"""Supervised pretraining equals a plain loop, step by step: augmentation, Mixup, schedule, average and MESA."""

from __future__ import annotations

import math
import random
from copy import deepcopy

import numpy as np
import pytest
import torch
from class_folders import CLASSES, write_class_folders
from lightning.pytorch import Callback, Trainer
from PIL import Image
from timm.data import Mixup, create_transform
from torch.nn import functional as F

from conftest import PLAIN
from mlla_seg.errors import InputError
from mlla_seg.models.mlla import MLLA, SIZES
from mlla_seg.pretraining.classification import ClassificationModule, mesa_loss
from mlla_seg.pretraining.image_folder import ImageFolderDataModule
from mlla_seg.training.distributed import step_seed
from mlla_seg.training.ema import WarmEMA

SPEC = {"channels": 1, "classes": list(CLASSES), "size": [32, 32], "mean": [0.4], "std": [0.2]}
STEPS, EPOCHS, BATCH, SEED = 3, 2, 4, 11


class Recorder(Callback):
    """Keeps the loss and the weights after each step, and the averaged ones; must follow the average."""

    def __init__(self):
        self.steps = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        average = next(callback for callback in trainer.callbacks if isinstance(callback, WarmEMA)).module
        states = (deepcopy(part.network.state_dict()) for part in (module, average))
        self.steps.append((float(outputs["loss"]), *states))


def plain_loop(network, files, decay):
    """Train as a script would; yields loss, weights and averaged weights after each step."""
    transform = create_transform(
        (1, 32, 32), is_training=True, auto_augment="rand-m5-mstd0.5-inc1", interpolation="bicubic", mean=(0.4,),
        std=(0.2,), re_prob=0.25, re_mode="pixel",
    )  # fmt: skip
    mixup = Mixup(0.8, 1.0, label_smoothing=0.1, num_classes=3)
    decayed, others = ([p for p in network.parameters() if (p.ndim > 1) is many] for many in (True, False))
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    average = deepcopy(network).eval()
    network.double()  # in float32, Adam enlarges the noise of gradients near zero
    total, done = STEPS * EPOCHS, 0
    warm = round(total * 0.3)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(files), generator=torch.Generator().manual_seed(SEED + epoch)).tolist()
        for batch in range(STEPS):
            images = []
            for index in order[batch * BATCH : (batch + 1) * BATCH]:
                first, second, third = np.random.SeedSequence((SEED, epoch, index)).generate_state(3)
                random.seed(int(first))
                np.random.seed(second)
                torch.manual_seed(int(third))
                images.append(transform(Image.open(files[index]).convert("L")))
            labels = torch.tensor([index // 4 for index in order[batch * BATCH : (batch + 1) * BATCH]])
            seed = step_seed(5, 0, epoch, batch)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            torch.set_default_dtype(torch.float64)  # of the targets, as Lightning does in double precision
            mixed, targets = mixup(torch.stack(images).double(), labels)
            torch.set_default_dtype(torch.float32)
            logits = network.train()(mixed)
            loss = -(targets * F.log_softmax(logits, -1)).sum(-1).mean()
            if done >= 0.5 * total:
                with torch.no_grad():
                    wanted = average(mixed.float()).double().softmax(-1)
                loss = loss + 0.7 * (wanted * (wanted.log() - F.log_softmax(logits, -1))).sum(-1).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
            after = max(0, done - warm) / (total - warm)
            factor = (done + 1) / (warm + 1) if done < warm else 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * after))
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 * factor
            optimizer.step()
            keep = min(decay, (1 + done) / (10 + done)) if done else 0.0
            with torch.no_grad():
                for old, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
                    old.copy_(old.lerp(new.to(old.dtype), 1 - keep) if old.is_floating_point() else new)
            done += 1
            yield loss.item(), deepcopy(network.state_dict()), deepcopy(average.state_dict())


def test_training_equals_a_plain_loop(tmp_path):
    root = write_class_folders(tmp_path)
    data = ImageFolderDataModule(
        str(root), BATCH, [32, 32], 1, [0.4], [0.2], auto_augment="rand-m5-mstd0.5-inc1", num_workers=0, seed=SEED
    )
    module = ClassificationModule(
        "mlla_test", 0.3, lr=1e-2, warmup=0.3, mesa=0.7, mesa_start=0.5, spec=data.spec.to_dict()
    )
    network = deepcopy(module.network)
    recorder = Recorder()
    callbacks = [WarmEMA(0.2), recorder]
    trainer = Trainer(max_epochs=EPOCHS, precision="64-true", gradient_clip_val=0.5, callbacks=callbacks, **PLAIN)
    torch.manual_seed(5)
    trainer.fit(module, data)
    assert len(recorder.steps) == STEPS * EPOCHS
    files = sorted((root / "train").glob("*/*.png"))
    for found, expected in zip(recorder.steps, plain_loop(network, files, 0.2), strict=True):
        assert found[0] == pytest.approx(expected[0], rel=1e-6)
        for ours, theirs in zip(found[1:], expected[1:], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert trainer.callback_metrics["val/top1"] >= 0  # validated in between, which changes nothing


def test_mesa_has_the_gradient_of_the_authors_cross_entropy():
    torch.manual_seed(0)
    logits, averaged = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)
    loss = mesa_loss(logits, averaged)
    (ours,) = torch.autograd.grad(loss, logits)
    (theirs,) = torch.autograd.grad(F.cross_entropy(logits, averaged.softmax(-1)), logits)
    torch.testing.assert_close(ours, theirs)
    assert loss > 0
    torch.testing.assert_close(mesa_loss(averaged, averaged), torch.zeros(()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "mlla_tinny"}, "Did you mean mlla_tiny"),
        ({"mixup": -1}, "--model.mixup must be 0 or more, got -1"),
        ({"mixer": "lineer"}, "Did you mean linear"),
        ({"spec": None}, "needs the spec of its data"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        ClassificationModule(**{"encoder": "mlla_test", "spec": SPEC, **options})


def test_the_network_is_the_published_classifier():
    """Its names are those of ``MLLA``, so all that loads a classifier loads its checkpoints."""
    module = ClassificationModule("mlla_test", spec=SPEC)
    assert module.network.state_dict().keys() == MLLA(**SIZES["mlla_test"], num_classes=3).state_dict().keys()
    assert module(torch.zeros(2, 1, 40, 24)).shape == (2, 3)  # images of any size
    assert module.moments() == {"mean": [102.0], "std": [51.0]}
