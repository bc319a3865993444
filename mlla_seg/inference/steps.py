"""From a case to logits: the steps that validation, prediction and the runtime of exported networks share.

Slices and their neighbours, standardised, resized, seen whole or through a sliding window, and their logits brought
back to the case's own grid. What computes is an :class:`Engine`, of torch or of NumPy; nothing here needs torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from mlla_seg.data.formats.picture import Array
from mlla_seg.data.slices import View, case_moments, slices_at, standardised, through_slices
from mlla_seg.inference.sliding_window import Read, blended_bands

OVERLAP = 0.5
"""Overlap of the patches of large slices, as a fraction of their size."""


class Engine(ABC):
    """A network and what computes around it. Images and logits are tensors or arrays, as the engine has them."""

    @abstractmethod
    def volume(self, array: Array) -> Any:
        """A case ``(S, C, H, W)``, from which slices are taken."""

    @abstractmethod
    def load(self, pieces: Any) -> Any:
        """Images ``(n, C, h, w)`` float32 where the network is, of an array or tensor or a list of its images."""

    @abstractmethod
    def run(self, images: Any) -> Any:
        """Maps ``(n, C, h, w)`` to logits ``(n, K, h, w)`` float32."""

    @abstractmethod
    def fill_gaps(self, images: Any) -> Any:
        """Puts the mean of its channel in place of NaN."""

    @abstractmethod
    def resize_images(self, images: Any, size: tuple[int, int]) -> Any:
        """Resizes by cubic interpolation, smoothed where it shrinks."""

    @abstractmethod
    def resize_logits(self, logits: Any, size: tuple[int, int]) -> Any:
        """Resizes by linear interpolation."""

    @abstractmethod
    def put(self, array: Array) -> Any:
        """Brings an array to where logits are."""

    @abstractmethod
    def join(self, bands: list[Any]) -> Any:
        """Logits ``(K, H, W)`` of bands of rows, one above the other."""

    @abstractmethod
    def array(self, logits: Any) -> Array:
        """Logits as an array."""

    @abstractmethod
    def labels(self, logits: Any, axis: int) -> Array:
        """Class indices uint8 of the largest logits along an axis.

        Raises:
            InputError: A logit is NaN or infinite.
        """

    @abstractmethod
    def probabilities(self, logits: Any) -> Array:
        """Probabilities of logits ``(n, K, H, W)``."""


def window_logits(
    engine: Engine,
    read: Read,
    shape: tuple[int, int],
    window: tuple[int, int],
    size: tuple[int, int] | None = None,
    **how: Any,
) -> Iterator[tuple[int, Any]]:
    """Blended logits of an image, from above: the first row of each band, and ``(K, rows, columns)`` float32.

    Args:
        engine: What computes.
        read: Reads a part of the image; windows without any data are not shown to the network.
        shape: Height and width of the whole image.
        window: Height and width of the windows, no larger than the image.
        size: Height and width at which the network sees a window, by default its own.
        how: Further arguments of :func:`mlla_seg.inference.sliding_window.blended_bands`.
    """

    def run(windows: list[Any]) -> Any:
        images = engine.resize_images(engine.fill_gaps(engine.load(windows)), size or window)
        return engine.resize_logits(engine.run(images), window)

    return blended_bands(run, engine.put, read, shape, window, **how)


def image_logits(
    engine: Engine,
    images: Any,
    size: tuple[int, int] | None = None,
    patch_size: Sequence[int] | None = None,
    batch_size: int = 16,
) -> Any:
    """Logits ``(B, K, H, W)`` for images ``(B, C, H, W)`` of any size.

    Args:
        engine: What computes.
        images: In raw units, NaN where there is no data.
        size: ``(height, width)`` at which the network sees whole images, by default their own; logits are brought back.
        patch_size: ``(height, width)`` above which images are seen through a sliding window of this size.
        batch_size: Patches that go through the network at once.
    """
    original = tuple(images.shape[-2:])
    if size is not None:
        images = engine.resize_images(engine.fill_gaps(images), size)
    height, width = images.shape[-2:]
    if patch_size is None or (height <= patch_size[0] and width <= patch_size[1]):
        return engine.resize_logits(engine.run(engine.fill_gaps(images)), original)
    patch = (min(patch_size[0], height), min(patch_size[1], width))
    blocks = []
    for image in images:
        bands = window_logits(engine, _reader(image), (height, width), patch, overlap=OVERLAP, batch_size=batch_size)
        blocks.append(engine.join([logits for _, logits in bands]))
    return engine.resize_logits(engine.load(blocks), original)


def _reader(image: Any) -> Read:
    return lambda top, left, height, width: image[:, top : top + height, left : left + width]


def case_logits(
    engine: Engine,
    image: Any,
    view: View,
    spacing_mm: Sequence[float] | None = None,
    batch_size: int = 16,
) -> Iterator[Any]:
    """Logits ``(n, K, H, W)`` of the slices of a case ``(S, C, H, W)``, in order and a few at a time.

    Slices go through the network ``batch_size`` at a time and are forgotten, so memory is bounded by the batch and not
    by the volume.

    Args:
        engine: What computes.
        image: An array or a tensor in raw units.
        view: How the network sees cases; logits are brought back to the case's own grid, linearly.
        spacing_mm: Distance of neighbouring slices, rows and columns, where it is known.
        batch_size: Slices, or patches, that go through the network at once.
    """
    slices, height, width = view.grid((len(image), *image.shape[-2:]), spacing_mm)
    moments = case_moments(image) if view.per_case else None

    def run(positions: list[int]) -> Any:
        chunk = engine.load(slices_at(image, positions, view.context, slices))
        chunk = standardised(chunk, moments, view.context)
        return image_logits(engine, chunk, (height, width), view.patch_size, batch_size)

    return through_slices(run, len(image), slices, batch_size)
