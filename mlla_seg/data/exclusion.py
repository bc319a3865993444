"""Cases that the card or ``--data.exclude`` leaves out, each with a reason."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from mlla_seg.data.card import Card
from mlla_seg.data.cases import Case
from mlla_seg.errors import InputError, unknown
from mlla_seg.progress import note

SHOWN = 3


def with_exclusions(card: Card, cases: Sequence[Case], names: Collection[str]) -> list[Case]:
    """Return all cases, those that the card excludes by their name or their patient's with the reason.

    They are left out of the splits after these are drawn, so that all other cases stay in their split.

    Args:
        card: Card with ``exclude``.
        cases: All cases that are in use.
        names: Names of all cases in the data.

    Raises:
        InputError: A name is that of no case and no patient.
    """
    if not card.exclude:
        return [*cases]
    patients = {case.patient for case in cases}
    reasons: dict[str, str] = {}
    for name, reason in card.exclude.items():
        if name not in names and name not in patients:
            raise InputError(
                unknown(dict.fromkeys((*names, *sorted(patients))), name, f"case to exclude from {card.name}:")
            )
        of_patient = name not in names
        reasons |= {case.name: reason for case in cases if (case.patient if of_patient else case.name) == name}
    marked = [replace(case, excluded=reasons.get(case.name)) for case in cases]
    left_out = [case for case in marked if case.excluded is not None]
    shown = ", ".join(f"{case.name} ({case.excluded})" for case in left_out[:SHOWN])
    more = ", ..." if len(left_out) > SHOWN else ""
    note(f"note: {len(left_out)} of {len(cases)} cases of {card.name} are excluded: {shown}{more}")
    return marked
