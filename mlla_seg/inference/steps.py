"""Steps from a case to logits, shared by validation, prediction and the runtime of exported networks.

Slices and their neighbours are standardised, resized and processed whole or by a sliding window; logits are resized
back to the grid of the case. An :class:`Engine` (torch or NumPy) does the computing; this module does not import torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mlla_seg.data.formats.picture import Array
from mlla_seg.data.slices import Grid, View, slices_at, standardised, through_slices
from mlla_seg.inference.memory import is_out_of_memory
from mlla_seg.inference.sliding_window import Read, blended_bands
from mlla_seg.progress import note_once

OVERLAP = 0.5
"""Overlap of sliding-window patches on large slices, as a fraction of their size."""


class Engine(ABC):
    """A network and the operations around it; images and logits are tensors or arrays, depending on the engine."""

    most: int | None = None
    """Images at once that fit into memory, after more did not; see :func:`network_logits`."""

    @abstractmethod
    def volume(self, array: Array) -> Any:
        """Convert a case ``(S, C, H, W)`` to the type from which slices are taken."""

    @abstractmethod
    def load(self, pieces: Any) -> Any:
        """Move images, an array or tensor or a list of them, to the network's device as ``(n, C, h, w)`` float32."""

    @abstractmethod
    def run(self, images: Any) -> Any:
        """Map images ``(n, C, h, w)`` to logits ``(n, K, h, w)`` float32."""

    @abstractmethod
    def fill_gaps(self, images: Any) -> Any:
        """Replace NaN by the mean of its channel."""

    @abstractmethod
    def resize_images(self, images: Any, size: tuple[int, int]) -> Any:
        """Resize by cubic interpolation, antialiased when shrinking."""

    @abstractmethod
    def resize_logits(self, logits: Any, size: tuple[int, int]) -> Any:
        """Resize by linear interpolation."""

    @abstractmethod
    def put(self, array: Array) -> Any:
        """Move an array to the device of the logits."""

    @abstractmethod
    def join(self, bands: list[Any]) -> Any:
        """Join the logits of row bands, from top to bottom, to ``(K, H, W)``."""

    @abstractmethod
    def stack(self, batches: list[Any]) -> Any:
        """Join the logits of batches of images to ``(n, K, h, w)``."""

    @abstractmethod
    def spare_memory(self, change: bool) -> bool:
        """Free what is cached; if asked, change the network to need less memory, and return whether it was changed."""

    @abstractmethod
    def expect(self, left: float) -> None:
        """Take how much work is left, as a multiple of the work done, by which an engine may choose how it computes."""

    @abstractmethod
    def labels(self, logits: Any, axis: int) -> Array:
        """Return class indices (uint8) from logits; ``axis`` is that of the network's outputs, classes or regions.

        Raises:
            InputError: A logit is NaN or infinite.
        """

    @abstractmethod
    def probabilities(self, logits: Any, axis: int) -> Array:
        """Convert logits to probabilities of the network's outputs: of classes, which sum to 1, or of regions."""


def network_logits(engine: Engine, images: Any) -> Any:
    """Map images ``(n, C, h, w)`` to logits ``(n, K, h, w)``, or volumes likewise, as many at once as fit into memory.

    Where memory does not suffice, the number is halved and stays so. If a single image does not fit, the engine may
    compute in another way. Each of these is said once.

    Raises:
        MemoryError: A single image does not fit.
    """
    size = " x ".join(map(str, images.shape[2:]))
    while True:
        count = min(engine.most or len(images), len(images))
        try:
            batches = [engine.run(images[start : start + count]) for start in range(0, len(images), count)]
            return batches[0] if len(batches) == 1 else engine.stack(batches)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Not in the handler, where the traceback holds the memory of the call that failed.
        if count > 1:
            if engine.most is None:
                note_once(
                    f"note: {count} images of {size} pixels at once do not fit into memory; going on with fewer. "
                    f"--batch_size {count // 2} avoids this."
                )
            engine.most = count // 2
            engine.spare_memory(False)
        elif engine.spare_memory(True):
            note_once(f"note: one image of {size} pixels does not fit into memory; going on strip by strip.")
        else:
            raise MemoryError(f"not enough memory for one image of {size} pixels")


def window_logits(
    engine: Engine,
    read: Read,
    shape: tuple[int, int],
    window: tuple[int, int],
    size: tuple[int, int] | None = None,
    **how: Any,
) -> Iterator[tuple[int, Any]]:
    """Yield blended logits from top to bottom: the first row of each row band, and ``(K, rows, columns)`` float32.

    Args:
        engine: Engine that computes them.
        read: Reads a part of the image; windows without data are skipped.
        shape: Height and width of the whole image.
        window: Height and width of the sliding window, no larger than the image.
        size: Height and width to which windows are resized for the network; defaults to ``window``.
        how: Further arguments of :func:`mlla_seg.inference.sliding_window.blended_bands`.
    """

    def run(windows: list[Any]) -> Any:
        images = engine.resize_images(engine.fill_gaps(engine.load(windows)), size or window)
        return engine.resize_logits(network_logits(engine, images), window)

    return blended_bands(run, engine.put, read, shape, window, **how)


def image_logits(
    engine: Engine,
    images: Any,
    size: tuple[int, int] | None = None,
    patch_size: Sequence[int] | None = None,
    batch_size: int = 16,
) -> Any:
    """Return logits ``(B, K, H, W)`` of images ``(B, C, H, W)`` of any size.

    Args:
        engine: Engine that computes them.
        images: Images in raw units, NaN where there is no data.
        size: ``(height, width)`` to which whole images are resized first; logits are resized back.
        patch_size: ``(height, width)`` above which images are processed by a sliding window of this size.
        batch_size: Patches per forward pass.
    """
    original = tuple(images.shape[-2:])
    if size is not None:
        images = engine.resize_images(engine.fill_gaps(images), size)
    height, width = images.shape[-2:]
    if patch_size is None or (height <= patch_size[0] and width <= patch_size[1]):
        return engine.resize_logits(network_logits(engine, engine.fill_gaps(images)), original)
    patch = (min(patch_size[0], height), min(patch_size[1], width))
    blocks = []
    for image in images:
        bands = window_logits(engine, reader(image), (height, width), patch, overlap=OVERLAP, batch_size=batch_size)
        blocks.append(engine.join([logits for _, logits in bands]))
    return engine.resize_logits(engine.load(blocks), original)


def reader(image: Any) -> Read:
    """Return a function that reads parts of an image ``(C, H, W)``, or of a volume ``(C, D, H, W)``, in memory."""
    return lambda corner, sides: image[(slice(None), *(slice(n, n + k) for n, k in zip(corner, sides, strict=True)))]


def case_logits(
    engine: Engine,
    image: Any,
    view: View,
    spacing_mm: Sequence[float] | None = None,
    batch_size: int = 16,
) -> Iterator[Any]:
    """Yield logits ``(n, K, H, W)`` of the slices of a case ``(S, C, H, W)``, in order, a few at a time.

    Slices are processed and released in batches, so memory depends on the batch size, not on the volume.

    Args:
        engine: Engine that computes them.
        image: Array or tensor in raw units.
        view: How the network sees cases; logits are linearly resampled to the case's own grid.
        spacing_mm: Spacing of slices, rows and columns, if known.
        batch_size: Slices, or patches of slices, per forward pass; patches of volumes count as their slices.
    """
    grid = view.grid((len(image), *image.shape[-2:]), spacing_mm)
    run = _by_slices if view.axes == 2 else _by_patches
    return through_slices(run(engine, image, view, grid, batch_size), len(image), grid[0], batch_size)


Run = Callable[[list[int]], Any]
"""Maps positions of slices on the network's grid, in ascending order, to their logits ``(n, K, H, W)``."""


def _by_slices(engine: Engine, image: Any, view: View, grid: Grid, batch_size: int) -> Run:
    """Return logits of networks of two axes, which see a slice and its neighbours."""
    moments = view.moments(image)

    def run(positions: list[int]) -> Any:
        chunk = engine.load(slices_at(image, positions, view.context, grid[0]))
        chunk = standardised(chunk, moments, view.context)
        return image_logits(engine, chunk, grid[1:], view.patch_size, batch_size)

    return run


def _by_patches(engine: Engine, image: Any, view: View, grid: Grid, batch_size: int) -> Run:
    """Return logits of networks of three axes: one sliding window over slices, rows and columns.

    Slices are read as windows need them, and released once no later window does.
    """
    assert view.patch_size is not None
    window = [min(n, size) for n, size in zip(grid, view.patch_size, strict=True)]
    moments = view.moments(image)

    def read(corner: Sequence[int], sides: Sequence[int]) -> Any:
        slices, rows, columns = (slice(first, first + count) for first, count in zip(corner, sides, strict=True))
        planes = standardised(engine.load(slices_at(image, range(slices.start, slices.stop), slices=grid[0])), moments)
        planes = engine.resize_images(engine.fill_gaps(planes), grid[1:])
        return planes[:, :, rows, columns].swapaxes(0, 1)

    def logits(windows: list[Any]) -> Any:
        return network_logits(engine, engine.load(windows))

    at_once = max(1, batch_size // window[0])
    bands = blended_bands(logits, engine.put, read, grid, window, overlap=OVERLAP, batch_size=at_once)
    ready = enumerate(band[:, k] for _, band in bands for k in range(band.shape[1]))

    def run(positions: list[int]) -> Any:
        stacked = engine.stack([next(own for k, own in ready if k == position)[None] for position in positions])
        return engine.resize_logits(stacked, (image.shape[-2], image.shape[-1]))

    return run
