"""Training from scribbles on the real command line: the loss is cross-entropy over their pixels alone."""

from __future__ import annotations

import pytest
import torch

from conftest import TINY, run_main
from layouts import acdc_ssl4mis
from mlla_seg.training.losses import SegmentationLoss

SHORT = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1")


def test_fit_leaves_out_dice_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    acdc_ssl4mis(tmp_path / "data/acdc")
    options = ("--config", "acdc", "--data.resize=[32,32]", *TINY, *SHORT, "--data.batch_size=2")
    run_main("fit", *options, "--data.scribbles=true")
    said = capsys.readouterr().err
    assert "note: Dice is left out (dice_weight 0 instead of 1), as labels are scribbles" in said
    content = torch.load("runs/acdc/version_0/checkpoints/last.ckpt", weights_only=True)
    assert content["hyper_parameters"]["dice_weight"] == 0
    assert content["options"]["scribbles"] is True
    with pytest.raises(SystemExit):
        run_main("fit", *options, "--data.scribbles=true", "--model.ce_weight=0")
    assert "trains with cross-entropy alone, but --model.ce_weight is 0" in capsys.readouterr().err


def test_without_dice_the_loss_is_the_mean_over_labelled_pixels_alone():
    logits = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = torch.full((2, 8, 8), 255)
    mask[0, 2, :5] = torch.tensor([0, 1, 2, 3, 1])
    loss = SegmentationLoss(dice_weight=0.0)(logits, mask)
    expected = torch.nn.functional.cross_entropy(logits[0, :, 2, :5].T, mask[0, 2, :5])
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert logits.grad[0, :, 2, :5].abs().min() > 0
    assert logits.grad.abs().sum() == logits.grad[0, :, 2, :5].abs().sum()
