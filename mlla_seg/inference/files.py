"""Segmentation of image files to masks in the same format and geometry, with torch or the runtime.

This module does not import torch.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.formats.dicom_tree import find_series
from mlla_seg.data.formats.geotiff import RASTER_SUFFIXES
from mlla_seg.data.formats.headers import note_headers
from mlla_seg.data.formats.probabilities import probabilities_path
from mlla_seg.data.formats.registry import (
    FORMATS,
    READERS,
    SERIES,
    channels_in,
    is_readable,
    mask_path,
    suffix_of,
)
from mlla_seg.errors import InputError
from mlla_seg.inference.base import CaseSegmenter
from mlla_seg.inference.scenes import MapOptions, map_files, predict_scene
from mlla_seg.progress import note, progress

CHANNEL_SUFFIX = re.compile(r"(.+)_(\d{4})")
"""Name and number of a channel, as nnU-Net names the files of an image."""
LIST = ".txt"
"""Suffix of image lists."""


def segment_files(
    segmenter: CaseSegmenter,
    source: Path,
    output: Path,
    options: MapOptions,
    format: str | None = None,
    overwrite: bool = True,
    job: str = "",
) -> None:
    """Segment an image, a folder or a list of images, and print a summary.

    Args:
        segmenter: The segmenter.
        source: See :func:`find_images`.
        output: Folder for the masks; for a single image also the path of its mask.
        options: Options for rasters; ``batch_size`` and ``probabilities`` apply to all images.
        format: Format of volume masks; defaults to that of the source.
        overwrite: Overwrite existing masks.
        job: Anything else the masks depend on, such as the names of the checkpoints.

    Raises:
        InputError: No images were found, masks would overwrite images or each other, or some images could not be
            segmented; the last is raised after all others have been written.
    """
    images = find_images(source, len(segmenter.spec.channels))
    folder = output
    if len(images) == 1 and _names_a_mask(output, images[0]):
        targets, folder = [output], output.parent
    else:
        targets = [mask_path(files[0], folder / _place_below(source, files[0]), format) for files in images]
    if folder.is_file():
        raise InputError(f"{folder}: is a file; --output must be a folder for the masks.")
    written_by = [
        map_files(target, options) if is_scene(files) else _mask_files(target, options.probabilities)
        for files, target in zip(images, targets, strict=True)
    ]
    claims = Counter(path for paths in written_by for path in paths)
    for files, target, paths in zip(images, targets, written_by, strict=True):
        if target.resolve() in [path.resolve() for path in files]:
            raise InputError(f"{target}: the mask would overwrite its image. Choose another folder for --output.")
        if any(claims[path] > 1 for path in paths):
            raise InputError(f"{target}: would be the mask of several images of {source}; segment them one by one.")
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
            except InputError as error:  # continue with the other images
                problems.append(str(error))
            except Exception as error:  # such as those of the libraries that read and write the formats
                problems.append(f"{files[0]}: {type(error).__name__}: {' '.join(str(error).split())}")
            bar.update()
    note_headers(notes)
    print(f"{written} of {len(images)} masks written to {targets[0] if len(images) == 1 else folder}")
    print("\n".join(_legend(segmenter.spec)))
    if problems:
        count = f"{len(problems)} of {len(images)} images have no mask:\n" if len(images) > 1 else ""
        raise InputError(count + "\n".join(problems))


def find_images(source: Path, channels: int) -> list[tuple[Path, ...]]:
    """Return the images of a folder, a list, a file or a DICOM series, each as a tuple of its files.

    In folders, files numbered from 0000 as by nnU-Net are channels of one image, which is said, and DICOM series are
    found at any depth. A list (``.txt``) has one image per line, relative to its own folder, with commas between the
    files of one image.

    Raises:
        InputError: Nothing was found, or a listed file does not exist.
    """
    if not source.exists():
        raise InputError(f"{source}: no such file or folder.")
    if source.is_file():
        return _listed(source) if source.suffix.lower() == LIST else [(source,)]
    files = sorted(path for path in source.iterdir() if path.is_file() and is_readable(path))
    series, notes = find_series(source)
    for said in notes:
        note(f"note: {said}")
    if source in series:
        if files:
            ignored = f"{len(files)} other image{'s' if len(files) > 1 else ''}, such as {files[0].name}"
            note(f"note: {source} is read as a DICOM series; ignored: {ignored}")
        files = []
    found = sorted([*files, *series])
    if not found:
        raise InputError(f"{source}: contains no image of a supported format ({', '.join(READERS)}).")
    if channels == 1:
        return [(path,) for path in found]
    return _grouped(found, channels)


def _place_below(source: Path, path: Path) -> Path:
    """Return the folder of a DICOM series relative to the folder that was searched, which the masks repeat."""
    return path.parent.relative_to(source) if path.is_dir() and source in path.parents else Path()


def _grouped(files: Sequence[Path], channels: int) -> list[tuple[Path, ...]]:
    """Return files that are numbered exactly 0000 to C - 1 as channels of one image, and all others on their own.

    Numbers alone do not make channels: a camera numbers its photos alike. Files that have all channels are images.
    """
    numbered: dict[tuple[Path, str, str], dict[int, Path]] = defaultdict(dict)
    for path in files:
        suffix = suffix_of(path)
        if match := CHANNEL_SUFFIX.fullmatch(path.name if suffix == SERIES else path.name[: -len(suffix)]):
            numbered[path.parent, match[1], suffix][int(match[2])] = path
    groups = [tuple(own[k] for k in range(channels)) for own in numbered.values() if set(own) == set(range(channels))]
    if groups and _has_all(groups[0][0], channels):
        groups = []
    if groups:
        names = f"{groups[0][0].name} ... {groups[0][-1].name}"
        count = f"{len(groups)} image{'s' if len(groups) > 1 else ''}"
        note(f"note: {count} of {channels} channels by the numbers of the files, such as {names}")
    grouped = {path for group in groups for path in group}
    return sorted([*groups, *((path,) for path in files if path not in grouped)])


def _has_all(path: Path, channels: int) -> bool:
    """Return whether a file has all channels by itself; a file that cannot be read is named when its turn comes."""
    try:
        return channels_in(path) == channels
    except InputError:
        return False


def _listed(source: Path) -> list[tuple[Path, ...]]:
    lines = [line.strip() for line in source.read_text().splitlines()]
    images = [tuple(source.parent / name.strip() for name in line.split(",")) for line in lines if line]
    absent = [path for files in images for path in files if not path.exists()]
    if absent or not images:
        raise InputError(f"{source}: " + (f"lists {absent[0]}, which does not exist." if absent else "lists no image."))
    return images


def _names_a_mask(output: Path, files: Sequence[Path]) -> bool:
    """Return whether an output path names an image's mask, by its suffix, rather than a folder."""
    if is_scene(files):
        return suffix_of(output) in RASTER_SUFFIXES
    usual = mask_path(files[0], output.parent)
    volume = suffix_of(usual) in FORMATS.values()
    return suffix_of(output) == suffix_of(usual) or (volume and suffix_of(output) in FORMATS.values())


def is_scene(files: Sequence[Path]) -> bool:
    """Return whether an image consists of rasters of any size, which are segmented as scenes."""
    return any(suffix_of(path) in RASTER_SUFFIXES for path in files)


def _mask_files(target: Path, probabilities: bool) -> list[Path]:
    """Return a mask and the files written beside it."""
    return [target, *([probabilities_path(target, suffix_of(target))] if probabilities else [])]


def _legend(spec: DataSpec) -> Iterator[str]:
    yield "Values: " + ", ".join(f"{entry.id} {entry.name}" for entry in spec.classes)
