"""Segmentation of image files to masks in the same format and geometry, with torch or the runtime.

This module does not import torch.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.formats.headers import note_headers
from mlla_seg.data.formats.locations import Location, Remote, located
from mlla_seg.data.formats.registry import suffix_of
from mlla_seg.data.formats.vrt_sources import require_local
from mlla_seg.data.image_files import LIST, find_images
from mlla_seg.data.postprocessing import note_applied
from mlla_seg.errors import InputError
from mlla_seg.inference.base import CaseSegmenter
from mlla_seg.inference.kept_masks import KeptMasks
from mlla_seg.inference.mask_makers import MaskMaker
from mlla_seg.inference.mask_tasks import Task
from mlla_seg.inference.ranks import ALONE, Ranks
from mlla_seg.inference.records import Record
from mlla_seg.inference.scenes import MapOptions
from mlla_seg.inference.summaries import TABLE, Summaries, preview_path
from mlla_seg.inference.targets import files_written, is_scene, require_apart, require_own, targets_of
from mlla_seg.progress import note, note_own, say


def segment_files(
    segmenter: CaseSegmenter,
    source: Path | str,
    output: Path,
    options: MapOptions,
    format: str | None = None,
    overwrite: bool | None = None,
    summaries: Summaries | None = None,
    ranks: Ranks = ALONE,
) -> None:
    """Segment an image, a folder or a list of images, and print a summary.

    Args:
        segmenter: The segmenter.
        source: See :func:`images_at`.
        output: Folder for the masks; for a single image also the path of its mask.
        options: Options for rasters; ``batch_size`` and ``probabilities`` apply to all images.
        format: Format of volume masks; defaults to that of the source.
        overwrite: Make existing masks anew; by default only those that this program has made. If false, those are kept
            that are there, see :mod:`mlla_seg.inference.kept_masks`.
        summaries: What to write beside the masks, if anything.
        ranks: This process among those that share the images; only the first one summarises.

    Raises:
        InputError: No images were found, masks would replace images, each other or files of others, or some images
            could not be segmented, or maps have no polygons, or masks of other jobs are kept; the last three are raised
            after all others have been written.
    """
    images = images_at(source, segmenter.spec.channels)
    targets, folder = targets_of(images, source, output, format)
    written_by = [files_written(files, target, options) for files, target in zip(images, targets, strict=True)]
    drawn = [preview_path(target) for target in targets] if summaries is not None and summaries.preview else []
    require_apart(images, [[*paths, *drawn[i : i + 1]] for i, paths in enumerate(written_by)])
    if overwrite is None:
        table = folder / TABLE if summaries is not None and summaries.statistics else None
        require_own([Record(paths) for paths in written_by], table)
    scenes = [files[0].name for files in images if is_scene(files)]
    note_applied(segmenter.spec.postprocessing, segmenter.spec.class_names, len(images), scenes)
    if ranks.size > 1:
        _note_shared(len(images), bool(scenes), ranks.size)
    kept = KeptMasks(overwrite is not False, several=ranks.size > 1)
    maker = MaskMaker(segmenter, options, kept, ranks, partial(_require_below, Path(source)))
    outcome = maker.run([Task(files, paths) for files, paths in zip(images, written_by, strict=True)])
    if not ranks.first:  # the first one tells what is wrong with an image, and summarises
        if lost := outcome.unexpected:
            note_own(f"note: process {ranks.rank} left {len(lost)} images to the others, such as {lost[0]}")
        return
    written = outcome.written + len(kept.shared) * (ranks.size > 1)
    note_headers(outcome.notes)
    kept.say()
    place = str(targets[0] if len(images) == 1 else folder).encode("utf-8", "surrogateescape")  # any bytes on Linux
    say(f"{written} of {len(images)} masks written to {place.decode('utf-8', 'backslashreplace')}")
    say("\n".join(_legend(segmenter.spec)))
    lines = [*_counted(outcome.problems, images, "have no mask")]
    lines += _counted(outcome.without_polygons, images, "have no polygons")
    if summaries is not None:
        made = [
            pair for pair in zip(images, targets, strict=True) if pair[1] not in outcome.failed and pair[1].exists()
        ]
        lines += summaries.write(segmenter.spec, made, folder)
    if lines := [*lines, *kept.problems()]:
        raise InputError("\n".join(lines))


def _note_shared(images: int, scenes: bool, processes: int) -> None:
    """Note that several processes share the work, and if some of them have none."""
    idle = processes - images
    what = f"the {images} images" if images > 1 else "the image"
    left = f"; only scenes are divided, so {idle} of them have nothing to do" if idle > 0 and not scenes else ""
    note(f"note: {processes} processes share {what}{left}.")


def _require_below(source: Path, files: Sequence[Location]) -> None:
    """Check that images of a folder or a list, which the user has not typed, name no files outside of its folder."""
    if not source.is_dir() and source.suffix.lower() != LIST:
        return
    for path in files:
        if isinstance(path, Path) and suffix_of(path) == ".vrt":
            require_local(path, source if source.is_dir() else source.parent)


def _counted(problems: Sequence[str], images: Sequence[tuple[Location, ...]], what: str) -> list[str]:
    """Return problems below their number, if there are several images; equal ones once."""
    equal = Counter(problems)
    count = [f"{len(problems)} of {len(images)} images {what}:"] if problems and len(images) > 1 else []
    return [*count, *(f"{text} ({n} images)" if n > 1 else text for text, n in equal.items())]


def images_at(source: Path | str, channels: Sequence[str]) -> Sequence[tuple[Location, ...]]:
    """Return the images at a place that the user has typed.

    Other than in :func:`find_images`, a text may also be a place that GDAL opens, or files of one scene with commas
    between them.
    """
    if not isinstance(source, str):
        return find_images(source, len(channels), channels)
    typed = _typed(source)
    if len(typed) == 1 and isinstance(typed[0], Path):
        return find_images(typed[0], len(channels), channels)
    return [typed]


def _typed(text: str) -> tuple[Location, ...]:
    """Return the location in a text, or several with commas between them."""
    parts = [located(part.strip()) for part in text.split(",")]
    if os.path.exists(text) or not all(isinstance(part, Remote) or os.path.isfile(part) for part in parts):
        return (located(text),)
    return tuple(parts)


def _legend(spec: DataSpec) -> Iterator[str]:
    yield "Values: " + ", ".join(f"{entry.id} {entry.name}" for entry in spec.classes)
    if spec.regions:
        held = [(region.name, [spec.classes[k].id for k in region.classes]) for region in spec.regions]
        yield "Regions: " + ", ".join(f"{name} {'+'.join(map(str, values))}" for name, values in held)
