"""Names of classes that the user gives in place of the planned ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlla_seg.errors import InputError
from mlla_seg.planning.choices import Choice, Plan, coloured


def rename(plan: Plan, names: Sequence[str]) -> None:
    """Give the classes of a plan the names of ``--classes``, in the order of the mask values.

    Args:
        plan: Its card has classes; what it says about unnamed ones is removed.
        names: A name for each class; that of the background may be left out.

    Raises:
        InputError: There are more or fewer names than classes, or a name is given twice.
    """
    chosen = plan.card["classes"]
    entries: list[dict[str, Any]] = chosen.value
    own = [str(entry["name"]) for entry in entries]
    if own[0] == "background" and len(names) == len(own) - 1:
        names = ["background", *names]
    if len(names) != len(own):
        raise InputError(
            f"--classes names {', '.join(names)}, but there are {len(own)} classes: {', '.join(own)} "
            f"({chosen.reason}). Give one name for each, in this order; background may be left out."
        )
    if len(set(names)) < len(names):
        raise InputError(f"--classes: a name is given twice: {', '.join(names)}.")
    if own[0] == "background" and names[0] != own[0]:
        plan.card["background"] = Choice(names[0], "the class with the mask value 0")
    renamed = [
        # the value of an attribute is found by the name of its class, unless it is stated
        {**entry, "name": name, **({"values": entry["name"]} if _by_name(plan, entry, name) else {})}
        for entry, name in zip(entries, names, strict=True)
    ]
    in_masks = plan.card["layout"].value.get("coloured_masks")
    plan.card["classes"] = Choice(renamed if in_masks else coloured(renamed), chosen.reason)
    plan.unsure[:] = [text for text in plan.unsure if "--classes" not in text]


def _by_name(plan: Plan, entry: dict[str, Any], name: str) -> bool:
    """Return whether polygons have the old name of a class as the value of their attribute."""
    polygons = "attribute" in plan.card["layout"].value
    return polygons and "values" not in entry and entry["name"] not in ("background", name)
