"""Every option of the module, given on the real command line and read back from the object that uses it.

``READERS`` has an entry for each: an unusual value, and its observable effect after ``cli fit``. A new option without
an entry fails, and so does one whose effect on a resumed run is not specified.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conftest import ROOT, TINY, run_main
from mlla_seg import MLLA, SegmentationModule
from mlla_seg.models.blocks import BLOCKS, TransformerBlock
from mlla_seg.models.mixers import MIXERS
from mlla_seg.models.mlla import SIZES
from mlla_seg.training.optim import learning_rate_factor
from mlla_seg.training.resume import KEPT, ON_RESUME, PAST, REFUSED, USED
from recorder import Recorder

OPTIONS = [name for name in signature(SegmentationModule).parameters if name != "spec"]
WEIGHTS = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
STEPS, WARMUP, RATE = 6, 0.4, 0.02


def blocks(part: torch.nn.Module) -> list[Any]:
    return [module for module in part.modules() if isinstance(module, tuple(BLOCKS.values()))]


def drop_rates(run: Any) -> float:
    return max(block.drop_path_rate for block in blocks(run.module.network))


def rates(run: Any) -> list[float]:
    """Learning rates of the decayed encoder weights (first group) and of the remaining decayed weights (second)."""
    return [step["lr"][1] for step in run.steps]


READERS: dict[str, tuple[Any, Callable[[Any], Any], Any]] = {
    "encoder": (
        "mlla_test",
        lambda run: list(run.module.network.encoder.stages[0].blocks[0].norm1.normalized_shape),
        [SIZES["mlla_test"]["embed_dim"]],
    ),
    "decoder": ("mlla_unet", lambda run: type(run.module.network.decoder).__name__, "MLLAUNetDecoder"),
    "decoder_depths": (
        [1, 2, 1],
        lambda run: sorted(len(blocks(part)) for part in levels(run)),
        [1, 1, 2],
    ),
    "drop_path_rate": (0.37, drop_rates, 0.37),
    "mixer": (
        "identity",
        lambda run: {type(block.mixer) for block in blocks(run.module.network)},
        {MIXERS["identity"]},
    ),
    "block": ("transformer", lambda run: {type(block) for block in blocks(run.module.network)}, {TransformerBlock}),
    "norm_outputs": (False, lambda run: run.module.network.built_by[1]["norm_outputs"], False),  # see below
    "dims": (2, lambda run: run.module.spec.axes, 2),
    "strides": ([[2, 2]] * 4 + [[1, 1]], lambda run: list(run.module.network.strides), [16, 16]),
    "pretrained": ("released.pth", lambda run: first_of(run.initial), 0.125),
    "freeze": ("encoder", lambda run: run.module.freezing.part, "encoder"),  # see test_freezing.py
    "freeze_steps": (2, lambda run: run.module.freezing.steps, 2),
    "optimizer": ("nadamw", lambda run: type(run.module.trainer.optimizers[0]).__name__, "NAdamW"),
    "lr": (RATE, lambda run: max(rates(run)), RATE),
    "encoder_lr_factor": (0.25, lambda run: [s["lr"][0] / s["lr"][1] for s in run.steps], [0.25] * STEPS),
    "weight_decay": (0.3, lambda run: {tuple(s["weight_decay"]) for s in run.steps}, {(0.3, 0.3, 0.0, 0.0)}),
    "schedule": ("poly", rates, [RATE * learning_rate_factor(s, STEPS, 2, "poly") for s in range(STEPS)]),
    "warmup": (WARMUP, lambda run: rates(run)[:3], [RATE / 3, RATE * 2 / 3, RATE]),
    "loss": ("focal", lambda run: run.module.loss.kind, "focal"),
    "ce_weight": (0.7, lambda run: run.module.loss.ce_weight, 0.7),
    "dice_weight": (1.9, lambda run: run.module.loss.dice_weight, 1.9),
    "class_weights": (WEIGHTS, lambda run: run.module.loss.class_weights.tolist(), WEIGHTS),
    "deep_supervision": (True, lambda run: heads_are_trained(run.module), True),  # see test_deep_supervision.py
    "consistency": (0.3, lambda run: run.module.hparams["consistency"], 0.3),  # see test_mean_teacher.py
    "consistency_rampup": (0.6, lambda run: run.module.hparams["consistency_rampup"], 0.6),
    "squared_dice": (True, lambda run: run.module.loss.squared_dice, True),
    "checkpoint_stages": ("blocks", lambda run: any("stages" in name for name in run.checkpointed), True),
    "eval_batch_size": (3, lambda run: sorted(set(run.shown)), [1, 3]),  # four slices a case
}


def levels(run: Any) -> list[torch.nn.Module]:
    return [part for part in run.module.network.decoder.modules() if type(part).__name__ == "Level"]


def heads_are_trained(module: Any) -> bool:
    state = module.trainer.optimizers[0].state
    return all(parameter in state for parameter in module.heads.parameters())


def first_of(weights: dict[str, torch.Tensor]) -> float:
    """A weight of the released file, as initialised in the network."""
    return weights[next(name for name in weights if name.endswith("blocks.0.norm1.weight"))][0].item()


def arguments(given: dict[str, Any]) -> list[str]:
    return [f"--model.{name}={json.dumps(value).strip(chr(34))}" for name, value in given.items()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("options")
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture(scope="module")
def options(phantom_root):
    options = ["--config", ROOT / "configs/demo.yaml", f"--data.root={phantom_root}", "--data.crop=[32,32]", *TINY]
    options += ["--trainer.limit_train_batches=3", "--trainer.max_epochs=2", "--trainer.limit_val_batches=1"]
    return [*options, "--trainer.callbacks=[{class_path: recorder.Recorder}]"]


@pytest.fixture(scope="module")
def unusual(folder, options):
    """A run in which every option has an unusual value."""
    size = {key: SIZES["mlla_test"][key] for key in ("embed_dim", "depths", "num_heads")}
    released = MLLA(**size).state_dict()
    for name, value in released.items():
        if "norm1.weight" in name:
            value.fill_(0.125)
    torch.save({"model": released}, "released.pth")
    run_main("fit", *options, *arguments({name: value for name, (value, *_) in READERS.items()}))
    seen = {name: getattr(Recorder, name) for name in ("module", "initial", "checkpointed", "shown")}
    return SimpleNamespace(**seen, steps=json.loads(Path("steps.0.json").read_text()))


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_is_obeyed(unusual, option):
    value, read, expected = READERS[option]
    assert value != signature(SegmentationModule).parameters[option].default or option == "decoder"  # see below
    found = read(unusual)
    if isinstance(found, (float, list)):
        expected = pytest.approx(expected)
    assert found == expected


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_is_in_the_checkpoint(unusual, option):
    saved = torch.load("runs/demo/version_0/checkpoints/last.ckpt", weights_only=True)["hyper_parameters"]
    assert saved[option] == READERS[option][0]


def test_the_loss_of_a_batch_is_that_of_the_options(unusual):
    from mlla_seg.training.losses import segmentation_loss

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 9, 4, 4, generator=generator)
    mask = torch.randint(0, 9, (2, 4, 4), generator=generator)
    expected = segmentation_loss(logits, mask, 0.7, 1.9, torch.tensor(WEIGHTS), True, kind="focal")
    torch.testing.assert_close(unusual.module.loss(logits, mask), expected)


def test_another_decoder_is_built(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = ["--trainer.limit_train_batches=1", "--trainer.max_epochs=1", "--model.decoder=unet"]
    run_main("fit", *options, *short, "--model.decoder_depths=null")
    assert type(Recorder.module.network.decoder).__name__ == "SmpDecoder"
    assert any("norms" in name for name, _ in Recorder.module.network.encoder.named_parameters())
    run_main("fit", *options, *short, "--model.decoder_depths=null", "--model.norm_outputs=false")
    assert not any("norms" in name for name, _ in Recorder.module.network.encoder.named_parameters())


def test_what_becomes_of_every_option_is_decided():
    assert list(ON_RESUME) == OPTIONS
    assert set(ON_RESUME.values()) <= {REFUSED, USED, PAST, KEPT}


OTHERS = {
    "encoder": "mlla_nano",
    "decoder": "unet",
    "decoder_depths": [1, 1, 1],
    "drop_path_rate": 0.11,
    "mixer": "linear_attention",
    "block": "mlla",
    "norm_outputs": True,
    "dims": 3,
    "strides": [[2, 2]] * 5,
    "pretrained": None,
    "freeze": None,
    "freeze_steps": None,
    "optimizer": "sgd",
    "lr": 0.01,
    "encoder_lr_factor": 1.0,
    "weight_decay": 0.01,
    "schedule": "constant",
    "warmup": 0.0,
    "loss": "dice",
    "ce_weight": 0.1,
    "dice_weight": 0.2,
    "class_weights": None,
    "squared_dice": False,
    "deep_supervision": False,
    "consistency": 0.2,
    "consistency_rampup": 0.5,
    "checkpoint_stages": "none",
    "eval_batch_size": 2,
}
"""Second value of each option, for the resumed run."""


@pytest.mark.parametrize("option", [name for name, rule in ON_RESUME.items() if rule in (REFUSED, PAST)])
def test_what_does_not_fit_a_checkpoint_is_refused(unusual, options, capsys, option):
    given = {name: value for name, (value, *_) in READERS.items()} | {option: OTHERS[option]}
    if option == "decoder":
        given["decoder_depths"] = None
    with pytest.raises(SystemExit) as stop:
        run_main("fit", *options, *arguments(given), "--ckpt_path=last")
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert f"with {option} {READERS[option][0]}, but the config gives {OTHERS[option]}" in message


def test_all_others_are_used_by_a_resumed_run(unusual, options, capsys):
    given = {name: OTHERS[name] if ON_RESUME[name] == USED else value for name, (value, *_) in READERS.items()}
    Path("released.pth").unlink()  # is not read again
    more = ["--trainer.max_epochs=3", "--ckpt_path=last"]
    run_main("fit", *options, *arguments(given), *more)
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    (said,) = [line for line in notes if line.startswith("note: resumed with")]
    for name, rule in ON_RESUME.items():
        told = f"{name} {given[name]} instead of {READERS[name][0]}"
        assert (told in said) == (rule == USED)
    module, steps = Recorder.module, json.loads(Path("steps.0.json").read_text())
    assert drop_rates(SimpleNamespace(module=module)) == pytest.approx(0.11)
    assert steps == [{"lr": [0.01, 0.01], "weight_decay": [0.01, 0.0]}] * 3
    loss = module.loss
    assert (loss.ce_weight, loss.dice_weight, loss.class_weights, loss.squared_dice) == (0.1, 0.2, None, False)
    assert not any("stages" in name for name in Recorder.checkpointed)
    assert sorted(set(Recorder.shown)) == [2]
    saved = torch.load("runs/demo/version_0/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 9
    assert {name: saved["hyper_parameters"][name] for name in given} == given
