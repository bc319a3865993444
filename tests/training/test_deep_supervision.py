"""The loss of a step with deep supervision, and what a checkpoint keeps of its heads."""

from __future__ import annotations

import pytest
import torch

from mlla_seg import SegmentationModule
from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.formats.classes import IGNORE_INDEX
from mlla_seg.training.losses import segmentation_loss

SPEC = {"channels": ["MR"], "classes": ["background", "organ", "lesion"], "normalisation": {"std": 1.0}}


def module(**options):
    torch.manual_seed(0)
    spec = DataSpec.from_dict(SPEC)
    return SegmentationModule("mlla_test", drop_path_rate=0.0, deep_supervision=True, spec=spec, **options).double()


def batch():
    image = torch.randn(2, 1, 40, 64, dtype=torch.float64)
    mask = torch.randint(0, 3, (2, 40, 64))
    mask[0, :9] = IGNORE_INDEX
    return {"image": image, "mask": mask, "name": ["a", "b"]}


@pytest.mark.parametrize("decoder", ["mlla_unet", "mlla_unet_fine"])
def test_the_loss_is_the_weighted_mean_over_levels(decoder):
    trained, given = module(decoder=decoder, ce_weight=0.7), batch()
    found = trained.training_step(given, 0)
    with trained.heads.watch(trained.network) as coarser:
        logits = trained.network.segment(given["image"])
    padded = torch.nn.functional.pad(given["mask"], (0, 0, 0, 24), value=IGNORE_INDEX)  # to a multiple of 32
    losses = [segmentation_loss(logits, given["mask"], 0.7)]
    for level in coarser:
        step = 64 // level.shape[-1]
        losses.append(segmentation_loss(level, padded[:, step // 2 :: step, step // 2 :: step], 0.7))
    weights = [0.5**k for k in range(len(losses))]
    expected = sum(weight * loss for weight, loss in zip(weights, losses, strict=True)) / sum(weights)
    torch.testing.assert_close(found, expected)
    assert len(losses) == (4 if decoder == "mlla_unet" else 5)


def test_the_network_is_the_same_with_and_without():
    with_heads = module().network.state_dict()
    torch.manual_seed(0)
    plain = SegmentationModule("mlla_test", drop_path_rate=0.0, spec=DataSpec.from_dict(SPEC)).double()
    torch.testing.assert_close(with_heads, plain.network.state_dict(), rtol=0, atol=0)
    assert plain.heads is None
