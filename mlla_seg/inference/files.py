"""From images to masks in the images' own format and geometry, whatever runs the network: torch, or the runtime.

Nothing here needs torch.
"""

from __future__ import annotations

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.formats.geotiff import RASTER_SUFFIXES
from mlla_seg.data.formats.headers import note_headers
from mlla_seg.data.formats.probabilities import probabilities_path
from mlla_seg.data.formats.registry import (
    FORMATS,
    READERS,
    SERIES,
    is_readable,
    mask_path,
    suffix_of,
)
from mlla_seg.errors import InputError
from mlla_seg.inference.base import CaseSegmenter
from mlla_seg.inference.scenes import MapOptions, map_files, predict_scene
from mlla_seg.progress import progress

CHANNEL_SUFFIX = re.compile(r"_\d{4}$")
"""nnU-Net's number of a channel at the end of a name."""
LIST = ".txt"
"""Suffix of lists of images."""


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
    images = find_images(source, len(segmenter.spec.channels))
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
                    predict_scene(segmenter.engine, segmenter.spec, files, target, options, job)
                    written += 1
                else:
                    beside = paths[1] if options.probabilities else None
                    notes[str(files[0])] = segmenter.write_labels(files, target, options.batch_size, beside)
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


def _legend(spec: DataSpec) -> Iterator[str]:
    yield "Values: " + ", ".join(f"{entry.id} {entry.name}" for entry in spec.classes)
