"""From images to masks in the images' own format and geometry, whatever runs the network: torch, or the runtime.

Nothing here needs torch.
"""

from __future__ import annotations

import re
import sys
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from mlla_seg.data.formats.geotiff import RASTER_SUFFIXES
from mlla_seg.data.formats.given import is_bare, read_given
from mlla_seg.data.formats.headers import note_headers
from mlla_seg.data.formats.picture import Array, require_finite
from mlla_seg.data.formats.planes import plane_in_words
from mlla_seg.data.formats.probabilities import probabilities_path, write_probabilities
from mlla_seg.data.formats.registry import (
    FORMATS,
    READERS,
    SERIES,
    is_readable,
    mask_path,
    read_channels,
    suffix_of,
    write_mask,
)
from mlla_seg.errors import InputError, about
from mlla_seg.inference.scenes import MapOptions, Windows, map_files, predict_scene
from mlla_seg.progress import progress

Spacing = tuple[float, float, float]
CHANNEL_SUFFIX = re.compile(r"_\d{4}$")
"""nnU-Net's number of a channel at the end of a name."""
LIST = ".txt"
"""Suffix of lists of images."""


class CaseSegmenter(ABC):
    """A trained segmenter for users: images, arrays or files in raw units in, class indices out."""

    spec: Mapping[str, Any]
    """What it knows of its data: classes, colours, channels, plane, sizes."""
    windows: Windows
    """Its sliding window over scenes."""

    @abstractmethod
    def logits(self, image: Array, batch_size: int = 16, spacing_mm: Spacing | None = None) -> Iterator[Any]:
        """Logits ``(n, K, H, W)`` of the slices of ``(S, C, H, W)``, in order and a few at a time; see ``__call__``."""

    @abstractmethod
    def labels_of(self, logits: Any) -> Array:
        """Class indices ``(n, H, W)`` uint8 of a block of logits."""

    @abstractmethod
    def probabilities_of(self, logits: Any) -> Array:
        """Probabilities ``(n, K, H, W)`` of a block of logits."""

    @property
    def orientation(self) -> str:
        """How slices, rows and columns of the volumes run that the network sees, and of bare arrays must, in words."""
        return plane_in_words(self.spec.get("plane", "axial"))

    def __call__(
        self,
        image: Any,
        batch_size: int = 16,
        spacing_mm: Spacing | None = None,
        affine: Array | None = None,
    ) -> Array:
        """Segments an image in raw units: labels lie where the voxels of the image do.

        What says where its voxels lie is turned as the network sees volumes, and its labels are turned back. A bare
        array cannot say it, so it must lie so already: as :attr:`orientation` has it, for axial networks slices to
        superior, rows to posterior and columns to left. Arrays of nibabel or SimpleITK hardly ever do.

        Args:
            image: One of:

                * a path, or the paths of the channels of one image;
                * an image of nibabel or SimpleITK;
                * with ``affine``, an array ``(I, J, K)`` or ``(I, J, K, C)`` along the axes of the affine;
                * a bare array, ``(S, C, H, W)`` or ``(C, H, W)``.
            batch_size: Slices that go through the network at once.
            spacing_mm: Distance of slices, rows and columns of a bare array, for networks trained at one spacing; all
                else says its own.
            affine: ``(4, 4)`` of an array, from its indices to millimetres to the right, anterior and superior, as
                nibabel has it.

        Returns:
            Class indices uint8, in the order of the array that was given or that the image's own library makes of it:
            ``(I, J, K)`` for nibabel's images and arrays with an affine, ``(K, J, I)`` for SimpleITK's, ``(S, H, W)``
            or ``(H, W)`` for bare arrays. For files ``(I, J, K)``, the first axis of the file first, ``(S, H, W)`` for
            h5 and npz, ``(H, W)`` for photos.

        Raises:
            InputError: Another number of channels than in training, an image that cannot be used, or logits that are
                NaN or infinite.
        """
        if affine is None and is_bare(image):
            return self._segment_bare(image, batch_size, spacing_mm)
        if spacing_mm is not None:
            raise InputError("spacing_mm is for bare arrays; all else says its own spacing.")
        given = read_given(image, self.spec["plane"], self.spec["array_units"], affine)
        picture = given.picture
        require_finite(Path(given.name), picture)
        with about(given.name):
            labels = [self.labels_of(block) for block in self.logits(picture.array, batch_size, picture.spacing_mm)]
        note_headers({given.name: picture.notes})
        return given.back(np.concatenate(labels))

    def _segment_bare(self, image: Array, batch_size: int, spacing_mm: Spacing | None) -> Array:
        if spacing_mm is None and self.spec.get("spacing_mm"):
            print(
                f"note: this network was trained at {self.spec['spacing_mm']} mm, and a bare array does not say its "
                "spacing: it is taken to have the same. Give spacing_mm, or an image that says it.",
                file=sys.stderr,
            )
        single = image.ndim == 3
        blocks = self.logits(image[None] if single else image, batch_size, spacing_mm)
        labels = np.concatenate([self.labels_of(block) for block in blocks])
        return labels[0] if single else labels

    def require_channels(self, image: Array) -> None:
        """Checks that an array is ``(S, C, H, W)`` with the channels of the training."""
        if image.ndim != 4 or image.shape[1] != len(self.spec["channels"]):
            channels = self.spec["channels"]
            found = f"{image.shape[1]} channels" if image.ndim == 4 else f"shape {tuple(image.shape)}"
            raise InputError(
                f"has {found}; this network was trained on {len(channels)} ({', '.join(channels)}). "
                "Bare arrays are (S, C, H, W), or (C, H, W) for a single image; those of volumes have "
                f"{self.orientation}. Others come with affine=, or as an image of nibabel or SimpleITK."
            )

    def predict_file(
        self, files: tuple[Path, ...], output: Path, batch_size: int = 16, probabilities: Path | None = None
    ) -> None:
        """Segments one image (one file, or one per channel) and writes its mask in the source's format and geometry.

        Args:
            files: The image.
            output: The mask.
            batch_size: Slices that go through the network at once.
            probabilities: An h5 file for the probabilities of every class, if they are wanted.
        """
        note_headers({str(files[0]): self._predict_file(files, output, batch_size, probabilities)})

    def _predict_file(
        self, files: tuple[Path, ...], output: Path, batch_size: int, probabilities: Path | None
    ) -> tuple[str, ...]:
        """Segments one image, and returns what is to be said of how its header was taken."""
        picture = read_channels(files, self.spec["plane"], self.spec["array_units"])
        names = [entry["name"] for entry in self.spec["classes"]]
        slices, _, height, width = picture.array.shape
        require_finite(files[0], picture)
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
                labels[part] = self.labels_of(block)
                if probabilities is not None:
                    array[:, part] = self.probabilities_of(block).swapaxes(0, 1)
                bar.update(len(block))
        write_mask(output, labels, self.spec["classes"], files[0], picture.axes or self.spec["plane"])
        return picture.notes


def segment_files(
    segmenter: CaseSegmenter,
    source: Path,
    output: Path,
    options: MapOptions,
    format: str | None = None,
    overwrite: bool = True,
    job: str = "",
) -> None:
    """Segments an image, a folder or a list of them, and prints what was written.

    Args:
        segmenter: What segments.
        source: See :func:`find_images`.
        output: Folder for the masks; for a single image also the name of its mask.
        options: How maps of rasters are made; ``batch_size`` and ``probabilities`` hold for all images.
        format: Format of the masks of volumes, by default the source's own.
        overwrite: Write masks that exist already again.
        job: What else the masks depend on, such as the names of the checkpoints.

    Raises:
        InputError: Nothing is there, masks would overwrite images or each other; or, after all others have been
            written, that some image has no mask, and why.
    """
    images = find_images(source, len(segmenter.spec["channels"]))
    folder = output
    if len(images) == 1 and _names_a_mask(output, images[0]):
        targets, folder = [output], output.parent
    else:
        targets = [mask_path(files[0], folder, format) for files in images]
    if folder.is_file():
        raise InputError(f"{folder}: is a file; --output takes a folder for the masks.")
    written_by = [
        map_files(target, options) if is_scene(files) else _mask_files(target, options.probabilities)
        for files, target in zip(images, targets, strict=True)
    ]
    claims = Counter(path for paths in written_by for path in paths)
    for files, target, paths in zip(images, targets, written_by, strict=True):
        if target.resolve() in [path.resolve() for path in files]:
            raise InputError(f"{target}: the mask would overwrite its image. Choose another folder for --output.")
        if any(claims[path] > 1 for path in paths):
            raise InputError(f"{target}: would be the mask of several images of {source}; give them one by one.")
    written, problems, notes = 0, [], {}
    with progress(len(images), "Predicting", "image") as bar:
        for files, target, paths in zip(images, targets, written_by, strict=True):
            try:
                if not overwrite and all(path.exists() for path in paths):
                    pass
                elif is_scene(files):
                    predict_scene(segmenter.windows, segmenter.spec, files, target, options, job)
                    written += 1
                else:
                    beside = paths[1] if options.probabilities else None
                    notes[str(files[0])] = segmenter._predict_file(files, target, options.batch_size, beside)
                    written += 1
            except InputError as error:  # the other images are not to blame
                problems.append(str(error))
            bar.update()
    note_headers(notes)
    print(f"{written} of {len(images)} masks written to {folder}")
    print("\n".join(_legend(segmenter.spec)))
    if problems:
        count = f"{len(problems)} of {len(images)} images have no mask:\n" if len(images) > 1 else ""
        raise InputError(count + "\n".join(problems))


def find_images(source: Path, channels: int) -> list[tuple[Path, ...]]:
    """The images of a folder or a list, or the one file or series: each as its files.

    In folders nnU-Net's names say which files are channels of one image. A list (``.txt``) has an image a line,
    relative to its own folder; several files of one image are separated by commas.

    Raises:
        InputError: Nothing is there, or something in the list is not.
    """
    if not source.exists():
        raise InputError(f"{source}: no such file or folder.")
    if source.is_file():
        return _listed(source) if source.suffix.lower() == LIST else [(source,)]
    if is_readable(source):  # a folder may be one DICOM series
        others = [path.name for path in source.iterdir() if path.is_file() and is_readable(path)]
        if others:
            print(f"note: {source} is taken as a DICOM series; left out: {', '.join(sorted(others))}", file=sys.stderr)
        return [(source,)]
    files = sorted(path for path in source.iterdir() if is_readable(path))
    if not files:
        raise InputError(f"{source}: holds no image of a known format ({', '.join(READERS)}).")
    if channels == 1:
        return [(path,) for path in files]
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        stem = path.name if suffix_of(path) == SERIES else path.name[: -len(suffix_of(path))]
        groups[CHANNEL_SUFFIX.sub("", stem)].append(path)
    return [tuple(group) for group in groups.values()]


def _listed(source: Path) -> list[tuple[Path, ...]]:
    lines = [line.strip() for line in source.read_text().splitlines()]
    images = [tuple(source.parent / name.strip() for name in line.split(",")) for line in lines if line]
    absent = [path for files in images for path in files if not path.exists()]
    if absent or not images:
        raise InputError(f"{source}: " + (f"lists {absent[0]}, which is not there." if absent else "lists no image."))
    return images


def _names_a_mask(output: Path, files: Sequence[Path]) -> bool:
    """Whether a path is the name of an image's mask, by its suffix, and not of a folder for it."""
    if is_scene(files):
        return suffix_of(output) in RASTER_SUFFIXES
    usual = mask_path(files[0], output.parent)
    volume = suffix_of(usual) in FORMATS.values()
    return suffix_of(output) == suffix_of(usual) or (volume and suffix_of(output) in FORMATS.values())


def is_scene(files: Sequence[Path]) -> bool:
    """Whether the files of an image are rasters of any size, which become maps."""
    return any(suffix_of(path) in RASTER_SUFFIXES for path in files)


def _mask_files(target: Path, probabilities: bool) -> list[Path]:
    """A mask and what is written beside it."""
    return [target, *([probabilities_path(target, suffix_of(target))] if probabilities else [])]


def _legend(spec: Mapping[str, Any]) -> Iterator[str]:
    yield "Values: " + ", ".join(f"{entry.get('id', k)} {entry['name']}" for k, entry in enumerate(spec["classes"]))
