"""Losses of users: the contract, class paths on the command line, and options that do not apply to them."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from conftest import ROOT, TINY
from mlla_seg.errors import InputError
from mlla_seg.training.ineffective import ineffective
from mlla_seg.training.own_loss import OwnLoss
from mlla_seg.training.scribbles import use_cross_entropy_alone

HERE = __name__
CODE = """
from torch import nn

class MyLoss(nn.CrossEntropyLoss):
    def __init__(self):
        super().__init__(ignore_index=255)
"""


class Squares(nn.Module):
    """Mean squared error of the probabilities over labelled pixels."""

    def forward(self, logits, mask):
        truth = F.one_hot(torch.where(mask == 255, 0, mask), logits.shape[1]).movedim(-1, 1)
        return (logits.softmax(dim=1) - truth).square().mean(dim=1)[mask != 255].mean()


class Ignorant(nn.CrossEntropyLoss):
    """Knows no ignored pixels."""


class OfPixels(nn.Module):
    def forward(self, logits, mask):
        return F.cross_entropy(logits, mask, ignore_index=255, reduction="none")


class Constant(nn.Module):
    def forward(self, logits, mask):
        return torch.tensor(1.0)


@pytest.mark.parametrize("axes", [2, 3])
def test_a_loss_sees_logits_and_indices_of_any_number_of_axes(axes):
    logits = torch.randn(2, 3, *[5] * axes, dtype=torch.float64, requires_grad=True)
    mask = torch.randint(0, 3, (2, *[5] * axes))
    mask[0, 0] = 255
    value = OwnLoss(f"{HERE}.Squares", 3, axes)(logits, mask)
    torch.testing.assert_close(value, Squares()(logits, mask))
    half = OwnLoss(f"{HERE}.Squares", 3, axes)(logits.bfloat16(), mask)
    assert half.dtype == torch.float32
    assert value.dtype == torch.float64


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Ignorant", r"Ignorant cannot be used as a loss: IndexError: Target 255 is out of bounds.*255 where unknown"),
        ("OfPixels", r"it returns \(2, 16, 16\), expected a finite scalar"),
        ("Constant", r"it returns 1.0, expected a finite scalar with gradients"),
        ("Absent", r"has no class Absent that is a torch.nn.Module"),
    ],
)
def test_what_keeps_no_contract_is_refused_before_the_first_step(name, reason):
    with pytest.raises(InputError, match=reason):
        OwnLoss(f"{HERE}.{name}", 3)


def test_regions_have_no_loss_of_ones_own():
    with pytest.raises(InputError, match="is for classes, not for regions"):
        OwnLoss(f"{HERE}.Squares", 3, of_regions=True)


def test_options_of_the_other_losses_are_said_to_have_no_effect():
    defaults = {"ce_weight": 1.0, "squared_dice": False}
    hparams = {"loss": "mine.Loss", "ce_weight": 0.5, "squared_dice": False, "encoder": "mlla_nano"}
    assert list(ineffective(hparams, defaults, None)) == ["--model.ce_weight has no effect on a loss of your own."]
    assert not list(ineffective({**hparams, "loss": "focal"}, defaults, None))


def test_scribbles_leave_it_as_it_is(capsys):
    model = SimpleNamespace(loss="mine.Loss", ce_weight=1.0, dice_weight=1.0)
    use_cross_entropy_alone(SimpleNamespace(model=model), say_so=True)
    assert model.dice_weight == 1.0
    assert "pixels outside them are unknown (255) to mine.Loss" in capsys.readouterr().err


def test_a_class_path_trains_and_prediction_does_not_import_it(cli, tmp_path, monkeypatch, phantom_root):
    (tmp_path / "my_losses.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    options = ["--config", ROOT / "configs/demo.yaml", f"--data.root={phantom_root}", "--data.crop=[32,32]", *TINY]
    options += ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1"]
    cli("fit", *options, "--model.loss=my_losses.MyLoss")
    assert sys.modules.pop("my_losses").MyLoss().ignore_index == 255
    (tmp_path / "my_losses.py").unlink()
    path = "runs/demo/version_0/checkpoints/last.ckpt"
    cli("predict", "--ckpt_path", path, "--input", phantom_root / "test_vol_h5/case0013.npy.h5", "--output", "masks")
    assert (tmp_path / "masks/case0013.npy.h5").exists()
