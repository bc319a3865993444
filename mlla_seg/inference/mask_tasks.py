"""The images of a command, and what has become of them. This module does not import torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mlla_seg.data.formats.locations import Location
from mlla_seg.errors import InputError
from mlla_seg.inference.memory import is_out_of_memory, out_of_memory_told
from mlla_seg.inference.scenes import PolygonsFailed


@dataclass(frozen=True)
class Task:
    """An image and the files to be written for it.

    Args:
        files: Files of the image.
        paths: The mask and the files beside it.
    """

    files: tuple[Location, ...]
    paths: list[Path]

    @property
    def mask(self) -> Path:
        """Path of the mask."""
        return self.paths[0]


@dataclass
class Outcome:
    """What has become of the images."""

    written: int = 0
    """Number of masks written by this process."""
    problems: list[str] = field(default_factory=list)
    """A line for each image without a mask."""
    unexpected: list[str] = field(default_factory=list)
    """Those of these lines that are not about the input."""
    without_polygons: list[str] = field(default_factory=list)
    """A line for each mask whose polygons could not be written."""
    failed: set[Path] = field(default_factory=set)
    """Masks that were not written."""
    notes: dict[str, list[str]] = field(default_factory=dict)
    """Notes on the headers of images with a new mask, by image."""

    def add_failure(self, task: Task, error: Exception) -> None:
        """Keep the error that ended the work on an image; without its polygons, a map is written nevertheless."""
        if isinstance(error, PolygonsFailed):
            self.written += 1
            self.without_polygons.append(str(error))
            return
        self.failed.add(task.mask)
        self.problems.append(str(error) if isinstance(error, InputError) else _in_a_line(task.files[0], error))
        if not isinstance(error, InputError):
            self.unexpected.append(self.problems[-1])


def _in_a_line(image: Location, error: Exception) -> str:
    """Return a line on an error that is no :class:`InputError`, such as those of libraries that read the formats."""
    if is_out_of_memory(error):
        return out_of_memory_told(image, error)
    return f"{image}: {type(error).__name__}: {' '.join(str(error).split())}"
