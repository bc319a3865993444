"""Steps after the network that remove components of masks or fill their holes.

They are chosen on the validation split (:mod:`mlla_seg.evaluation.postprocessing_choice`) and are part of the
:class:`~mlla_seg.data.dataspec.DataSpec`, as plain types::

    postprocessing: [{operation: keep_largest, classes: [liver]},
                     {operation: minimum_size, classes: [spleen], size: 100, unit: mm3}]

This module does not need torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from mlla_seg.data.mask_operations import OPERATIONS, Array, postprocessed
from mlla_seg.data.rules import Rule, above, list_of, one_of, optional, require, shown, text
from mlla_seg.errors import InputError, lookup
from mlla_seg.progress import note, note_once

UNITS = {"mm3": "mm3", "voxels": "voxels"}
"""Units of sizes, and how they are written."""
WORDS = {
    "keep_largest": "keep the largest component",
    "minimum_size": "remove components below {size:g} {unit}",
    "fill_holes": "fill holes",
}
STEP = {
    "operation": Rule(one_of(OPERATIONS), f"one of {', '.join(OPERATIONS)}", tuple(OPERATIONS)),
    "classes": Rule(list_of(text, 1), "a list of names of classes"),
    "size": Rule(optional(above(0)), "a number above zero, for minimum_size"),
    "unit": Rule(optional(one_of(UNITS)), f"{' or '.join(UNITS)}, for minimum_size", tuple(UNITS)),
}
"""Keys of a step in files."""


@dataclass(frozen=True)
class Step:
    """One operation on the region that some classes form together.

    Args:
        operation: A key of :data:`mlla_seg.data.mask_operations.OPERATIONS`.
        classes: Indices of the classes.
        size: Smallest size that is kept, for ``minimum_size``.
        unit: Unit of ``size``, a key of :data:`UNITS`.
    """

    operation: str
    classes: tuple[int, ...]
    size: float | None = None
    unit: str | None = None

    def in_words(self, names: Sequence[str]) -> str:
        """Describe the step; ``names`` are those of all classes."""
        what = WORDS[self.operation].format(size=self.size or 0, unit=self.unit)
        whole = 1 < len(self.classes) == len(names) - 1
        return f"{what} of {'the foreground' if whole else ' + '.join(names[k] for k in self.classes)}"

    def to_dict(self, values: Sequence[Any], key: str = "classes") -> dict[str, Any]:
        """Return plain types, with the names, or mask values, of the classes under ``key``."""
        sized = {} if self.size is None else {"size": self.size, "unit": self.unit}
        return {"operation": self.operation, key: [values[k] for k in self.classes], **sized}


def read_steps(given: Any, names: Sequence[str], background: int | None, where: str) -> tuple[Step, ...]:
    """Return steps from plain types.

    Args:
        given: A list of steps, see the head of this module, or None.
        names: Names of the classes.
        background: Index of the background class.
        where: File name for messages.

    Raises:
        InputError: A step breaks a rule, or there is no background class, which removed voxels become.
    """
    steps = []
    for k, entry in enumerate(given or ()):
        part = f"step {k} of postprocessing"
        require(entry, STEP, where, part)
        if missing := [key for key in ("operation", "classes") if key not in entry]:
            raise InputError(f"{where}: {part} lacks {' and '.join(missing)}.")
        if background is None:
            raise InputError(f"{where}: postprocessing needs a background class, which removed voxels become.")
        size, unit = entry.get("size"), entry.get("unit")
        if len({entry["operation"] == "minimum_size", size is not None, unit is not None}) > 1:
            raise InputError(
                f"{where}: {part} is {shown(entry)}; size and unit belong to minimum_size, which needs both."
            )
        for name in entry["classes"]:
            lookup(dict.fromkeys(names), name, f"class of {part} in {where}:")
        classes = tuple(names.index(name) for name in entry["classes"])
        if background in classes:
            raise InputError(f"{where}: {part} is about {names[background]}, expected other classes.")
        steps.append(Step(entry["operation"], classes, size, unit))
    return tuple(steps)


def applied(
    labels: Array, steps: Sequence[Step], background: int | None, spacing_mm: Sequence[float] | None = None
) -> Array:
    """Return the class indices ``(S, H, W)`` of a whole case after all steps; the array itself without any.

    Sizes in mm3 need ``spacing_mm``; without it their steps are left out, with one note.

    Raises:
        InputError: scipy is missing.
    """
    known = [step for step in steps if step.unit != "mm3" or spacing_mm is not None]
    if len(known) < len(steps):
        note_once(
            "note: the spacing of an image is not known, so its components are not removed by their size in mm3. Pass "
            "spacing_mm, or a file with a header."
        )
    if not known:
        return labels
    if find_spec("scipy") is None:  # which the runtime does not need otherwise
        raise InputError("The post-processing of this network needs scipy: pip install scipy, or leave it out.")
    indices = range(256)
    plain: list[Mapping[str, Any]] = [step.to_dict(indices, "values") for step in known]
    return postprocessed(labels, plain, background or 0, math.prod(spacing_mm) if spacing_mm is not None else None)


def in_words(steps: Sequence[Step], names: Sequence[str]) -> str:
    """Describe all steps; ``names`` are those of the classes."""
    return "; ".join(step.in_words(names) for step in steps)


def note_applied(steps: Sequence[Step], names: Sequence[str], images: int, scenes: Sequence[str]) -> None:
    """Note which steps are applied to images, and that scenes are left as they are.

    Args:
        steps: The steps.
        names: Names of the classes.
        images: Number of images, scenes included.
        scenes: Names of those that are scenes.
    """
    if steps and len(scenes) < images:
        note(f"note: post-processing is applied: {in_words(steps, names)}; --postprocessing false leaves it out.")
    if steps and scenes:
        note(
            f"note: post-processing is not applied to {len(scenes)} rasters, such as {scenes[0]}: it needs whole masks."
        )
