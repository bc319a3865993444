"""The loss against its formula, with ignored pixels and class weights."""

from __future__ import annotations

import pytest
import torch

from mlla_seg.errors import InputError
from mlla_seg.training.losses import LOSSES, SegmentationLoss, segmentation_loss


def example(num_classes=3, ignored=0.2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, num_classes, 6, 7, generator=generator)
    mask = torch.randint(num_classes, (2, 6, 7), generator=generator)
    mask[torch.rand(mask.shape, generator=generator) < ignored] = 255
    return logits, mask


def plain_dice(logits, mask, squared):
    """Dice per class over the pixels that are not ignored, in float64."""
    p = logits.double().softmax(1).movedim(1, -1)[mask != 255]
    t = mask[mask != 255]
    terms = []
    for k in range(logits.shape[1]):
        size = p[:, k].square().sum() if squared else p[:, k].sum()
        terms.append(1 - (2 * p[t == k, k].sum() + 1e-5) / (size + (t == k).sum() + 1e-5))
    return torch.stack(terms)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("weights", [None, [0.2, 1.0, 3.0]])
def test_loss_is_cross_entropy_plus_dice_over_the_valid_pixels(squared, weights):
    logits, mask = example()
    w = torch.tensor(weights or [1.0, 1.0, 1.0])
    cross_entropy = torch.nn.functional.cross_entropy(logits, mask, weight=w, ignore_index=255)
    dice = (plain_dice(logits, mask, squared) * w).sum() / w.sum()
    loss = SegmentationLoss(0.4, 0.6, weights, squared)(logits, mask)
    torch.testing.assert_close(loss.double(), 0.4 * cross_entropy.double() + 0.6 * dice, atol=1e-6, rtol=1e-6)


def test_ignored_pixels_change_nothing():
    logits, mask = example()
    logits.requires_grad_()
    other = logits.detach().clone()
    other.movedim(1, -1)[mask == 255] = 1e4
    loss = segmentation_loss(logits, mask)
    torch.testing.assert_close(segmentation_loss(other, mask), loss)
    loss.backward()
    assert (logits.grad.movedim(1, -1)[mask == 255] == 0).all()
    assert (logits.grad.movedim(1, -1)[mask != 255] != 0).any()


@pytest.mark.parametrize("value", [0.0, 1e4, float("inf")])
def test_a_batch_of_only_ignored_pixels_gives_zero_with_zero_gradients(value):
    logits = torch.full((1, 3, 4, 4), min(value, 1e30), requires_grad=True)
    loss = segmentation_loss(logits, torch.full((1, 4, 4), 255))
    assert loss.item() == 0
    loss.backward()
    assert (logits.grad == 0).all()


def test_a_perfect_prediction_costs_nothing_and_an_absent_class_costs_nothing():
    mask = torch.randint(2, (2, 8, 8))  # class 2 is absent
    logits = 50.0 * torch.nn.functional.one_hot(mask, 3).movedim(-1, 1)
    assert segmentation_loss(logits, mask).item() == pytest.approx(0, abs=1e-5)


def test_half_precision_logits_give_a_float32_loss():
    logits, mask = example()
    loss = segmentation_loss(logits.half(), mask)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, segmentation_loss(logits, mask), atol=1e-3, rtol=1e-3)


def test_large_logits_do_not_overflow():
    logits, mask = example()
    loss = segmentation_loss((logits * 1e4).requires_grad_(), mask)
    assert torch.isfinite(loss)


INSIDE = [[0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]]


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("weights", [None, [0.2, 1.0, 3.0]])
def test_loss_of_regions_is_binary_cross_entropy_plus_dice(squared, weights):
    _, mask = example(num_classes=4)
    logits, _ = example(num_classes=3, seed=1)
    logits[0, 0, 0, 0] = 40.0  # where log(1 - p) would be infinite
    w = torch.tensor(weights or [1.0] * 3, dtype=torch.float64)
    valid = mask != 255
    cross_entropy, dice = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for r, row in enumerate(INSIDE):
        x = logits[:, r].double()[valid]
        t = torch.tensor([row[k] for k in mask[valid].tolist()], dtype=torch.float64)
        p = 1 / (1 + torch.exp(-x))
        cross_entropy[r] = (t * torch.log1p(torch.exp(-x)) + (1 - t) * (x + torch.log1p(torch.exp(-x)))).mean()
        size = p.square().sum() if squared else p.sum()
        dice[r] = 1 - (2 * (p * t).sum() + 1e-5) / (size + t.sum() + 1e-5)
    expected = 0.4 * (cross_entropy * w).sum() / w.sum() + 0.6 * (dice * w).sum() / w.sum()
    loss = SegmentationLoss(0.4, 0.6, weights, squared, regions=INSIDE)
    torch.testing.assert_close(loss(logits, mask).double(), expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(loss(logits.double(), mask), expected, atol=1e-12, rtol=1e-9)


def test_loss_of_regions_leaves_out_ignored_pixels():
    _, mask = example(num_classes=4)
    logits, _ = example(num_classes=3, seed=1)
    other = logits.clone()
    other.movedim(1, -1)[mask == 255] = 1e4
    other.requires_grad_()
    loss = SegmentationLoss(regions=INSIDE)
    torch.testing.assert_close(loss(other, mask), loss(logits, mask))
    loss(other, mask).backward()
    assert (other.grad.movedim(1, -1)[mask == 255] == 0).all()
    assert loss(logits, torch.full_like(mask, 255)).item() == 0


def test_loss_of_regions_is_none_for_a_perfect_prediction():
    mask = torch.randint(4, (2, 8, 8))
    inside = torch.tensor(INSIDE, dtype=torch.float32)[:, mask].movedim(0, 1)
    assert SegmentationLoss(regions=INSIDE)(100 * inside - 50, mask).item() == pytest.approx(0, abs=1e-5)


def only_valid(logits, mask):
    """The valid pixels as an image of one row."""
    kept = mask != 255
    return logits.movedim(1, 0)[:, kept][None, :, None], mask[kept][None, None]


def test_focal_and_tversky_losses_are_those_of_monai():
    from monai.losses import FocalLoss, TverskyLoss

    logits, mask = example()
    pixels, labels = only_valid(logits, mask)
    focal = FocalLoss(to_onehot_y=True, use_softmax=True, reduction="none")(pixels, labels[:, None]).sum(1).mean()
    torch.testing.assert_close(SegmentationLoss(dice_weight=0, kind="focal")(logits, mask), focal)
    tversky = TverskyLoss(softmax=True, to_onehot_y=True, alpha=0.3, beta=0.7, batch=True)(pixels, labels[:, None])
    torch.testing.assert_close(SegmentationLoss(0, kind="tversky")(logits, mask), tversky, atol=1e-5, rtol=0)


def test_focal_loss_of_regions_is_that_of_monai():
    from monai.losses import FocalLoss

    _, mask = example(num_classes=4)
    pixels, labels = only_valid(example(num_classes=3, seed=1)[0], mask)
    truth = torch.tensor(INSIDE)[:, labels[0, 0]][None, :, None]
    loss = SegmentationLoss(dice_weight=0, kind="focal", regions=INSIDE)(pixels, labels)
    torch.testing.assert_close(loss, FocalLoss()(pixels, truth))


def test_lovasz_loss_leaves_out_ignored_pixels():
    from segmentation_models_pytorch.losses import LovaszLoss

    logits, mask = example()
    loss = SegmentationLoss(0, kind="lovasz")
    torch.testing.assert_close(loss(logits, mask), LovaszLoss("multiclass")(*only_valid(logits, mask)))
    torch.testing.assert_close(
        SegmentationLoss(0.5, 2, kind="lovasz")(logits, mask).item(),
        0.5 * torch.nn.functional.cross_entropy(logits, mask, ignore_index=255).item() + 2 * loss(logits, mask).item(),
    )


@pytest.mark.parametrize("kind", LOSSES)
def test_every_loss_trains_and_does_without_ignored_pixels(kind):
    logits, mask = example()
    logits.requires_grad_()
    loss = SegmentationLoss(kind=kind)
    loss(logits, mask).backward()
    assert (logits.grad.movedim(1, -1)[mask == 255] == 0).all()
    better = logits.detach() - 0.1 * logits.grad
    torch.testing.assert_close(loss(better.double(), mask).float(), loss(better, mask))
    assert loss(better, mask) < loss(logits, mask)
    logits.grad = None
    nothing = loss(logits, torch.full_like(mask, 255))
    nothing.backward()
    assert nothing == 0
    assert (logits.grad == 0).all()


def test_losses_without_an_option_refuse_it():
    with pytest.raises(InputError, match="lovasz is for classes, not for regions"):
        SegmentationLoss(kind="lovasz", regions=INSIDE)
    with pytest.raises(InputError, match="squared_dice applies to the Dice loss"):
        SegmentationLoss(kind="tversky", squared_dice=True)
