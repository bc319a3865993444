"""Deep supervision: in training, the coarser levels of a decoder of blocks predict the classes too (arXiv 1409.5185).

The heads are no part of the network: what predicts, is exported or saved is the same without them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn import functional as F

from mlla_seg.data.formats.classes import IGNORE_INDEX
from mlla_seg.data.framing import margin
from mlla_seg.data.halving import total_strides
from mlla_seg.errors import InputError
from mlla_seg.models.axes import CONV
from mlla_seg.models.decoders import OF_BLOCKS, BlockDecoder, FineMLLAUNetDecoder
from mlla_seg.models.ops import to_channels_first
from mlla_seg.models.segmenter import Segmenter


def supervision_weights(maps: int) -> list[float]:
    """Return the weights of the losses of ``maps`` maps from fine to coarse: 1, 1/2, 1/4, ..., divided by their sum."""
    weights = [0.5**i for i in range(maps)]
    return [weight / sum(weights) for weight in weights]


class AuxiliaryHeads(nn.Module):
    """A 1x1 convolution to the classes for each level of a decoder but full resolution.

    Args:
        network: The network that is trained, of images or volumes; it stays as it is.

    Raises:
        InputError: Its decoder has no levels of blocks.
    """

    def __init__(self, network: Segmenter) -> None:
        super().__init__()
        decoder = network.decoder
        if not isinstance(decoder, BlockDecoder):
            raise InputError(f"Deep supervision needs the decoder {' or '.join(OF_BLOCKS)}, whose levels it reads.")
        self.parts = [f"decoder.levels.{i}" for i in (2, 1, 0)]
        """Names of the parts whose output is read, from fine to coarse."""
        widths = [decoder.embed_dim * 2**i for i in range(3)]
        steps = [2, 3, 4]
        if isinstance(decoder, FineMLLAUNetDecoder):
            self.parts.insert(0, "decoder.to_half")
            widths.insert(0, decoder.to_half.fuse[0].out_channels)
            steps.insert(0, 1)
        self.strides = [total_strides(decoder.strides[:step]) for step in steps]
        """Stride of each of them along each axis."""
        build = CONV[len(network.strides)]
        self.heads = nn.ModuleList(build(width, network.num_classes, 1) for width in widths)

    @contextmanager
    def watch(self, network: Segmenter) -> Iterator[list[Tensor]]:
        """While the network runs once, collect logits ``(B, K, *spatial / s)`` of its parts, from fine to coarse.

        They are in the list when the context ends.
        """
        maps: dict[str, Tensor] = {}
        logits: list[Tensor] = []
        hooks = [
            network.get_submodule(name).register_forward_hook(
                lambda _module, _inputs, output, name=name: maps.update({name: output})
            )
            for name in self.parts
        ]
        try:
            yield logits
        finally:
            for hook in hooks:
                hook.remove()
        for name, head in zip(self.parts, self.heads, strict=True):
            last = ".levels." in name  # channels last
            logits.append(head(to_channels_first(maps[name]) if last else maps[name]))

    def truths(self, mask: Tensor, network: Segmenter) -> list[Tensor]:
        """Return masks ``(B, *spatial / s)`` for the logits: of each place the class of the voxel at its centre.

        Logits cover what the network pads images to; there the mask is ``IGNORE_INDEX``.

        Args:
            mask: ``(B, *spatial)``.
            network: The network.
        """
        margins: list[int] = []
        for size, frame, stride in zip(mask.shape[1:], network.frame, network.strides, strict=True):
            before = margin(size, frame)
            padded = -(-max(size, frame) // stride) * stride
            margins = [before, padded - size - before, *margins]
        whole = F.pad(mask, margins, value=IGNORE_INDEX)
        return [whole[(slice(None), *(slice(step // 2, None, step) for step in strides))] for strides in self.strides]
