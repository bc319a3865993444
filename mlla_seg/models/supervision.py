"""Deep supervision: auxiliary heads on the coarser levels of a decoder, used in training (arXiv 1409.5185).

The heads are not part of the network, so prediction, exports and Hub folders are the same without them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from mlla_seg.errors import InputError
from mlla_seg.models.decoders import OF_BLOCKS, BlockDecoder
from mlla_seg.models.segmenter import Segmenter


class AuxiliaryHeads(nn.Module):
    """1 x 1 convolutions to the classes, one per decoder level except the finest: strides 8 and 16.

    Args:
        network: The network to train; it is not changed.

    Raises:
        InputError: The decoder has no such levels.
    """

    def __init__(self, network: Segmenter) -> None:
        super().__init__()
        if not isinstance(network.decoder, BlockDecoder):
            raise InputError(
                f"deep_supervision applies to the decoder {' or '.join(OF_BLOCKS)}; for other decoders, "
                "set it to false."
            )
        coarse: list[Any] = list(reversed(network.decoder.levels[:-1]))
        self.heads = nn.ModuleList(
            nn.Conv2d(level.fuse.out_features, network.num_classes, kernel_size=1) for level in coarse
        )

    @contextmanager
    def watch(self, network: Segmenter) -> Iterator[list[Tensor]]:
        """Collect the logits ``(B, K, H / s, W / s)`` of the levels, s = 8 and 16, during one forward pass."""
        levels = list(reversed(network.decoder.levels[:-1]))  # type: ignore[index]  # of a BlockDecoder
        maps: dict[int, Tensor] = {}
        logits: list[Tensor] = []
        hooks = [
            level.register_forward_hook(lambda _module, _inputs, output, i=i: maps.update({i: output}))
            for i, level in enumerate(levels)
        ]
        try:
            yield logits
        finally:
            for hook in hooks:
                hook.remove()
        logits += [head(maps[i].movedim(-1, 1)) for i, head in enumerate(self.heads)]
