"""User-facing segmenter for any engine: torch, or the runtime of exported networks.

This module does not import torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.formats.classes import IGNORE_INDEX
from mlla_seg.data.formats.given import is_bare, read_given
from mlla_seg.data.formats.headers import note_headers
from mlla_seg.data.formats.picture import Array, Picture, gaps_of, require_finite
from mlla_seg.data.formats.planes import plane_in_words
from mlla_seg.data.formats.probabilities import write_probabilities
from mlla_seg.data.formats.registry import read_channels, write_mask
from mlla_seg.data.formats.source_files import Sources
from mlla_seg.data.postprocessing import applied
from mlla_seg.errors import InputError, about
from mlla_seg.inference.steps import Engine, case_logits
from mlla_seg.progress import note, progress

Spacing = tuple[float, float, float]


class CaseSegmenter(ABC):
    """Trained segmenter: images, arrays or files in raw units in, class indices out.

    Args:
        spec: Description of its data: classes, colours, channels, plane, sizes.
        engine: The network and the operations around it.
    """

    def __init__(self, spec: DataSpec, engine: Engine) -> None:
        self.spec = spec
        self.engine = engine

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """A digest of the network, ``weights``, and by name all options of how it is run that may change its logits."""

    def logits(self, image: Array, batch_size: int = 16, spacing_mm: Spacing | None = None) -> Iterator[Any]:
        """Yield logits ``(n, K, H, W)`` of the slices of ``(S, C, H, W)`` in order, in batches; see ``__call__``."""
        self.require_channels(image)
        return case_logits(self.engine, self.engine.volume(image), self.spec.view, spacing_mm, batch_size)

    @property
    def orientation(self) -> str:
        """Orientation of slices, rows and columns that the network sees and bare arrays must have, in words."""
        return plane_in_words(self.spec.plane)

    def __call__(
        self,
        image: Any,
        batch_size: int = 16,
        spacing_mm: Spacing | None = None,
        affine: Array | None = None,
    ) -> Array:
        """Segment an image in raw units; labels align with the voxels of the image.

        Images with a known orientation are reoriented for the network, and their labels are turned back. A bare array
        has no orientation, so it must already have that of :attr:`orientation`: for axial networks slices to superior,
        rows to posterior and columns to left. Arrays of nibabel or SimpleITK rarely have it.

        Args:
            image: One of:

                * a path, or the paths of the channels of one image;
                * a nibabel or SimpleITK image;
                * with ``affine``, an array ``(I, J, K)`` or ``(I, J, K, C)`` along the axes of the affine;
                * a bare array, ``(S, C, H, W)`` or ``(C, H, W)``.
            batch_size: Slices per forward pass.
            spacing_mm: Spacing of slices, rows and columns of a bare array, for networks trained at a fixed spacing;
                other images carry their own.
            affine: ``(4, 4)`` matrix of an array, from indices to millimetres to the right, anterior and superior
                (RAS+), as in nibabel.

        Returns:
            Class indices (uint8) in the axis order of the given array, or of the array that the image's library
            returns: ``(I, J, K)`` for nibabel images and arrays with an affine, ``(K, J, I)`` for SimpleITK images,
            ``(S, H, W)`` or ``(H, W)`` for bare arrays. For files: ``(I, J, K)`` in the file's axis order,
            ``(S, H, W)`` for h5 and npz, ``(H, W)`` for photos, with 255 where a photo has no data.

        Raises:
            InputError: The number of channels differs from training, the image cannot be used, or logits are NaN or
                infinite.
        """
        if affine is None and is_bare(image):
            return self._segment_bare(image, batch_size, spacing_mm)
        if spacing_mm is not None:
            raise InputError("spacing_mm is only for bare arrays; other images carry their own spacing.")
        given = read_given(image, self.spec.plane, self.spec.array_units, affine, self.spec.wanted)
        picture = given.picture
        if not picture.gaps:
            require_finite(Path(given.name), picture)
        with about(given.name):
            blocks = self.logits(picture.array, batch_size, picture.spacing_mm)
            labels = self.finished(
                np.concatenate([self.engine.labels(block, 1) for block in blocks]), picture.spacing_mm
            )
        note_headers({given.name: picture.notes})
        labels[gaps_of(picture)] = IGNORE_INDEX
        return given.back(labels)

    def _segment_bare(self, image: Array, batch_size: int, spacing_mm: Spacing | None) -> Array:
        if spacing_mm is None and self.spec.spacing_mm:
            note(
                f"note: this network was trained at {list(self.spec.spacing_mm)} mm; a bare array has no spacing, so "
                "the same is assumed. Pass spacing_mm, or an image with a header."
            )
        single = image.ndim == 3
        blocks = self.logits(image[None] if single else image, batch_size, spacing_mm)
        labels = self.finished(np.concatenate([self.engine.labels(block, 1) for block in blocks]), spacing_mm)
        return labels[0] if single else labels

    def finished(self, labels: Array, spacing_mm: Spacing | None) -> Array:
        """Return the labels ``(S, H, W)`` of a whole case after the post-processing of the spec."""
        return applied(labels, self.spec.postprocessing, self.spec.background, spacing_mm)

    def require_channels(self, image: Array) -> None:
        """Check that an array is ``(S, C, H, W)`` with the number of channels of the training."""
        if image.ndim != 4 or image.shape[1] != len(self.spec.channels):
            channels = self.spec.channels
            found = f"{image.shape[1]} channels" if image.ndim == 4 else f"shape {tuple(image.shape)}"
            raise InputError(
                f"has {found}; this network was trained on {len(channels)} ({', '.join(channels)}). "
                "Bare arrays must be (S, C, H, W), or (C, H, W) for a single image; volumes must have "
                f"{self.orientation}. Pass others with affine=, or as a nibabel or SimpleITK image."
            )

    def predict_file(
        self, files: tuple[Path, ...], output: Path, batch_size: int = 16, probabilities: Path | None = None
    ) -> None:
        """Segment one image (one file, or one per channel) and write its mask in the source's format and geometry.

        Args:
            files: Files of the image.
            output: Path of the mask.
            batch_size: Slices per forward pass.
            probabilities: Path of an h5 file for the probabilities of classes or regions; ``None`` to skip them.
        """
        sources = Sources(files)
        picture = self.read(files)
        labels = self.segment(picture, files, batch_size, probabilities, sources)
        self.write(labels, gaps_of(picture), picture, files, output)
        note_headers({str(files[0]): picture.notes})

    def read(self, files: tuple[Path, ...]) -> Picture:
        """Return the content of an image.

        Raises:
            InputError: It cannot be used.
        """
        picture = read_channels(files, self.spec.plane, self.spec.array_units, self.spec.wanted)
        if not picture.gaps:
            require_finite(files[0], picture)
        return picture

    def segment(
        self, picture: Picture, files: tuple[Path, ...], batch_size: int, probabilities: Path | None, sources: Sources
    ) -> Array:
        """Return the class indices ``(S, H, W)`` that the network finds, before the post-processing.

        Args:
            picture: The image.
            files: Its files.
            batch_size: Slices per forward pass.
            probabilities: See :meth:`predict_file`.
            sources: Fingerprint of the files when they were read.

        Raises:
            InputError: As for ``__call__``, or a file was changed since.
        """
        names = self.spec.output_names
        slices, _, height, width = picture.array.shape
        labels = np.empty((slices, height, width), np.uint8)
        with about(files[0]), ExitStack() as stack:
            blocks = self.logits(picture.array, batch_size, picture.spacing_mm)
            if probabilities is not None:
                shape = (len(names), slices, height, width)
                array = stack.enter_context(write_probabilities(probabilities, shape, names, picture.affine))
            bar = stack.enter_context(progress(slices, files[0].name, "slice", leave=False, show=slices > 1))
            done = 0
            for block in blocks:
                part = slice(done, done := done + len(block))
                labels[part] = self.engine.labels(block, 1)
                if probabilities is not None:
                    array[:, part] = self.engine.probabilities(block, 1).swapaxes(0, 1)
                bar.update(len(block))
            if sources.changed():
                raise InputError("was changed while it was segmented. Run the same command again.")
        return labels

    def write(self, labels: Array, gaps: Array, header: Picture, files: tuple[Path, ...], output: Path) -> None:
        """Write the mask of a whole image, after the post-processing of the spec.

        Args:
            labels: ``(S, H, W)`` class indices.
            gaps: ``(S, H, W)``, True where the image has no data.
            header: The image, whose pixels are not looked at.
            files: Its files.
            output: Path of the mask.
        """
        labels = self.finished(labels, header.spacing_mm)
        labels[gaps] = IGNORE_INDEX
        write_mask(output, labels, self.spec.classes, files[0], header.axes or self.spec.plane)
