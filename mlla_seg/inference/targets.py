"""Where masks and the files beside them are written, and what they must not replace.

A file is renamed to its place when it is complete. So a link that stands there is replaced by the file, and what it
points to stays; a link to a folder leads into the folder. What must not be replaced are files that are read for any of
the images, masks of other images, and what this program has not made.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import cast

from mlla_seg.data.formats.geotiff import RASTER_SUFFIXES
from mlla_seg.data.formats.locations import Location, Remote
from mlla_seg.data.formats.probabilities import probabilities_path
from mlla_seg.data.formats.registry import FORMATS, mask_path, suffix_of
from mlla_seg.data.formats.source_files import files_of
from mlla_seg.data.image_files import CHANNEL_SUFFIX
from mlla_seg.errors import InputError
from mlla_seg.inference.records import Record
from mlla_seg.inference.scenes import MapOptions, map_files
from mlla_seg.inference.summaries import is_statistics
from mlla_seg.progress import note

Images = Sequence[tuple[Location, ...]]


def is_scene(files: Sequence[Location]) -> bool:
    """Return whether an image consists of rasters of any size, which are segmented as scenes."""
    return any(isinstance(path, Remote) or suffix_of(path) in RASTER_SUFFIXES for path in files)


def targets_of(images: Images, source: Path | str, output: Path, format: str | None) -> tuple[list[Path], Path]:
    """Return the mask of each image, and the folder of all masks.

    Args:
        images: The images, each as a tuple of its files.
        source: The file, folder or list in which they were found.
        output: Folder for the masks; for a single image also the path of its mask.
        format: Format of volume masks; defaults to that of the source.

    Raises:
        InputError: The folder is a file, or that of the images.
    """
    if len(images) == 1 and _names_a_mask(output, images[0]):
        return [output], output.parent
    if output.is_file():
        raise InputError(f"{output}: is a file; --output must be a folder for the masks.")
    if output.exists() and Path(source).is_dir() and output.samefile(source):
        raise InputError(
            f"{output}: is the folder of the images, where masks would overwrite images, or be taken for images by the "
            "next run. Choose another folder for --output."
        )
    named = [_named_after(files, source) for files in images]
    return [_target(path, output / _place_below(source, path), format) for path in named], output


def files_written(files: Sequence[Location], target: Path, options: MapOptions) -> list[Path]:
    """Return the mask of an image and the files written beside it."""
    if is_scene(files):
        return map_files(target, options)
    return [target, *([probabilities_path(target, suffix_of(target))] if options.probabilities else [])]


def require_apart(images: Images, written_by: Sequence[Sequence[Path]]) -> None:
    """Check that files to be written replace neither each other nor a file that is read for any image.

    Names that differ only in capitals, or in how their letters are composed (NFC, NFD), are one file on some file
    systems, such as those of Windows and macOS.

    Args:
        images: The images, each as a tuple of its files.
        written_by: The files to be written for each, the mask first.

    Raises:
        InputError: Names the file and what it would replace.
    """
    owners: dict[object, list[tuple[Path, int]]] = defaultdict(list)
    alike: list[tuple[Path, Path]] = []
    for i, paths in enumerate(written_by):
        for path in paths:
            for other, owner in owners[_entry(path)]:
                if other.name == path.name or _folds_names(path.parent):
                    spelled = "" if other.name == path.name else ", whose names are one on this file system"
                    raise InputError(
                        f"{paths[0]}: would be the mask of both {images[owner][0]} and {images[i][0]}{spelled}; "
                        "segment them into different folders."
                    )
                alike.append((other, path))
            owners[_entry(path)].append((path, i))
    if alike:
        note(
            f"note: {len(alike)} of the files to be written, such as {alike[0][1]}, differ from others "
            f"({alike[0][0].name}) in capitals or accents alone; on Windows or macOS one would replace the other."
        )
    if not any(path.exists() or path.is_symlink() for paths in written_by for path in paths):
        return
    for image, read in _read_files(images):
        for target, owner in owners.get(_entry(read), []):
            if target.name == read.name or _folds_names(target.parent):
                what = "the mask" if target == written_by[owner][0] else "this file"
                read_as = "its image" if image in images[owner] else f"{read}, which is read for {image}"
                raise InputError(f"{target}: {what} would overwrite {read_as}. Choose another folder for --output.")


def require_own(records: Sequence[Record], table: Path | None) -> None:
    """Check that files to be replaced were made by this program, and not changed since.

    Args:
        records: Those of the masks.
        table: The table of statistics to be written, if any.

    Raises:
        InputError: Says how many were not, and names one.
    """
    foreign = [path for record in records for path in record.foreign()]
    if table is not None and table.exists() and not is_statistics(table):
        foreign.append(table)
    if foreign:
        what = f"{foreign[0]}: was" if len(foreign) == 1 else f"{len(foreign)} files, such as {foreign[0]}, were"
        raise InputError(
            f"{what} not made by this program, or changed since, and would be replaced. Choose another folder for "
            "--output, or use --overwrite true."
        )


def _read_files(images: Images) -> Iterator[tuple[Location, Path]]:
    """Yield the files that are read for each image, with the place that names them; also what links point to."""
    for files in images:
        for place in files:
            try:
                read = files_of(place)
            except InputError:  # reading it tells what is wrong
                read = []
            for path in [*read, place] if isinstance(place, Path) else read:
                yield place, path
                if path.is_symlink():
                    yield place, path.resolve()


def _entry(path: Path) -> object:
    """Return a key that is equal for paths that may be the same entry of a folder; links to folders are followed."""
    folder = path.parent
    try:
        status = folder.stat()
        where: object = (status.st_dev, status.st_ino)
    except OSError:  # not made yet
        where = folder.resolve()
    return where, unicodedata.normalize("NFC", path.name).casefold()


def _folds_names(folder: Path) -> bool:
    """Return whether a folder takes names for one that differ in capitals, or in how their letters are composed."""
    folder.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(prefix=".mlla_seg-\u00e9", dir=folder) as file:
        path = Path(file.name)
        return any(
            path.with_name(name).exists() for name in (path.name.swapcase(), unicodedata.normalize("NFD", path.name))
        )


def _named_after(files: Sequence[Location], source: Path | str) -> Location:
    """Return the path that names a mask: the first file, or the folder of an image with a file for each channel."""
    first = files[0]
    if not isinstance(first, Path) or len(files) == 1 or first.is_dir() or not Path(source).is_dir():
        return first
    numbered = CHANNEL_SUFFIX.fullmatch(first.name[: -len(suffix_of(first))])
    return first if numbered else first.with_name(f"{first.absolute().parent.name}{suffix_of(first)}")


def _place_below(source: Path | str, path: Location) -> Path:
    """Return the folder of a DICOM series relative to the folder that was searched, which the masks repeat."""
    below = isinstance(path, Path) and path.is_dir() and Path(source) in path.parents
    return cast(Path, path).parent.relative_to(source) if below else Path()


def _target(source: Location, folder: Path, format: str | None) -> Path:
    """Return the file for the mask of an image."""
    if isinstance(source, Path):
        return mask_path(source, folder, format)
    return folder / f"{Path(source.name).stem}.tif"


def _names_a_mask(output: Path, files: Sequence[Location]) -> bool:
    """Return whether an output path names an image's mask, by its suffix, rather than a folder."""
    if is_scene(files):
        return suffix_of(output) in RASTER_SUFFIXES
    usual = _target(files[0], output.parent, None)
    volume = suffix_of(usual) in FORMATS.values()
    return suffix_of(output) == suffix_of(usual) or (volume and suffix_of(output) in FORMATS.values())
