"""Deep supervision: heads at the levels of a decoder, and the truth of each of their places."""

from __future__ import annotations

import pytest
import torch

from mlla_seg import create_model
from mlla_seg.data.formats.classes import IGNORE_INDEX
from mlla_seg.errors import InputError
from mlla_seg.models.recompute import set_checkpointing
from mlla_seg.models.supervision import AuxiliaryHeads, supervision_weights

COARSE = [[1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 1, 1]]


@pytest.mark.parametrize("recomputed", ["none", "all"])
@pytest.mark.parametrize(
    ("decoder", "size", "strides", "finest"),
    [
        ("mlla_unet", (40, 24), None, [[4, 4], [8, 8], [16, 16]]),
        ("mlla_unet_fine", (40, 24), None, [[2, 2], [4, 4], [8, 8], [16, 16]]),
        ("mlla_unet_fine", (5, 24, 20), COARSE, [[1, 2, 2], [1, 4, 4], [2, 8, 8], [4, 16, 16]]),
    ],
)
def test_levels_predict_what_the_mask_has_at_their_places(decoder, size, strides, finest, recomputed):
    torch.manual_seed(0)
    network = create_model("mlla_test", decoder, 3, 1, dims=len(size), strides=strides)
    set_checkpointing(network, recomputed)
    heads = AuxiliaryHeads(network)
    assert heads.strides == finest
    mask = torch.randint(0, 3, (2, *size))
    with heads.watch(network) as coarser:
        logits = network(torch.randn(2, 1, *size))
    truths = heads.truths(mask, network)
    assert [part.shape[2:] for part in coarser] == [truth.shape[1:] for truth in truths]
    assert truths[0][(0, *[0] * len(size))] == mask[(0, *(step // 2 for step in finest[0]))]
    assert truths[0][(0, *[-1] * len(size))] == IGNORE_INDEX  # padding
    sum(part.square().mean() for part in (logits, *coarser)).backward()
    assert all(parameter.grad is not None for parameter in (*heads.parameters(), *network.parameters()))


def test_images_in_a_frame_are_in_its_middle():
    network = create_model("mlla_test", "mlla_unet", 3, 1, frame=(32, 32))
    mask = torch.arange(16 * 16).view(1, 16, 16) % 200
    (quarter, *_) = AuxiliaryHeads(network).truths(mask, network)
    assert (quarter != IGNORE_INDEX).sum() == 16
    assert quarter[0, 2, 2] == mask[0, 2, 2]  # place 10 of the frame, which begins 8 before the image


def test_weights_halve_and_other_decoders_are_refused():
    assert supervision_weights(3) == pytest.approx([4 / 7, 2 / 7, 1 / 7])
    with pytest.raises(InputError, match="needs the decoder mlla_unet or mlla_unet_fine"):
        AuxiliaryHeads(create_model("mlla_test", "fpn"))
