"""Notes for the user on the stored cases of a card: what is warped, ignored, resampled or sliced otherwise."""

from __future__ import annotations

from collections.abc import Sequence

from mlla_seg.data.card import Card
from mlla_seg.data.formats.geotiff import COVERED
from mlla_seg.data.formats.planes import PLANES
from mlla_seg.data.formats.raster_grids import pixel_size
from mlla_seg.data.formats.volumes import coarsest_axis
from mlla_seg.data.regions import written_as
from mlla_seg.data.store.case import StoredCase
from mlla_seg.progress import note


def note_merged_classes(card: Card) -> None:
    """Note classes that no region tells apart, so that predicted masks hold another class in their place."""
    names, regions = card.class_names, card.region_infos
    merged = [(k, written) for k in range(len(names)) if (written := written_as(k, regions)) != k]
    if regions and merged:
        pairs = ", ".join(f"{names[k]} as {names[written]}" for k, written in merged)
        note(f"note: by regions_class_order of {card.name} masks are written with {pairs}.")


def note_warped(cases: Sequence[StoredCase]) -> None:
    """Note files that are on another grid than their image, and those that cover only a part of it."""
    warped = [(name, share, case.ground) for case in cases for name, share in case.warped.items()]
    if warped:
        name, _, ground = warped[0]
        size = f" ({pixel_size(ground)})" if ground else ""
        note(
            f"note: {len(warped)} files lie on another grid than their image and are warped to it, such as {name} to "
            f"the pixels of its image{size}."
        )
    partial = sorted((share, name) for name, share, _ in warped if share < COVERED)
    if partial:
        share, name = partial[0]
        note(
            f"note: {len(partial)} of these cover only a part of their image, such as {name} with {share:.0%} of it. "
            "The rest is excluded from training and scores."
        )


def note_ignored(card: Card, cases: Sequence[StoredCase]) -> None:
    """Note how many pixels are excluded from training and scores."""
    sizes = [_pixels(case) for case in cases]
    left_out = {case.name: size - sum(case.voxels) for case, size in zip(cases, sizes, strict=True)}
    if names := [name for name, count in left_out.items() if count]:
        value = "" if card.ignore_index is None or card.layout.coloured_masks else f", mask value {card.ignore_index}"
        note(
            f"note: {sum(left_out.values()):,} pixels ({sum(left_out.values()) / sum(sizes):.1%}) in {len(names)} of "
            f"{len(cases)} cases of {card.name}, such as {names[0]}, are ignored (no data{value})."
        )


def note_scribbles(card: Card, cases: Sequence[StoredCase]) -> None:
    """Note how many pixels of the training cases are labelled by scribbles.

    Args:
        card: Card by which the scribbles are read.
        cases: The training cases.
    """
    labelled, pixels = sum(sum(case.voxels) for case in cases), sum(_pixels(case) for case in cases)
    note(
        f"note: the {len(cases)} training cases of {card.name}, such as {cases[0].name}, are labelled by scribbles: "
        f"{labelled:,} pixels ({labelled / pixels:.2%}); all others (value {card.ignore_index}) count in no loss. "
        "Validation and test are scored with the masks."
    )


def _pixels(case: StoredCase) -> int:
    return case.own or case.shape[0] * case.shape[2] * case.shape[3]


def note_unlabelled_cases(card: Card, cases: Sequence[StoredCase]) -> None:
    """Note cases without a pixel that has both data and a class."""
    if names := [case.name for case in cases if not any(case.voxels)]:
        note(
            f"note: {len(names)} of {len(cases)} cases of {card.name}, such as {names[0]}, have no pixel with a class "
            "and data: all are excluded from training and scores."
        )


def note_resampled(card: Card, cases: Sequence[StoredCase], target: Sequence[float | None] | None) -> None:
    """Note how many volumes are resampled to another spacing for the network."""
    names = [
        case.name
        for case in cases
        if target and case.spacing_mm
        if any(step and abs(own / step - 1) > 0.01 for own, step in zip(case.spacing_mm, target, strict=True))
    ]
    if names:
        steps = " x ".join("original" if step is None else f"{step:g} mm" for step in target or ())
        note(
            f"note: {len(names)} of {len(cases)} volumes of {card.name}, such as {names[0]}, are resampled for "
            f"the network to {steps} (slices, rows, columns). Masks are written on the original grid."
        )


def across(card: Card, cases: Sequence[StoredCase]) -> list[str]:
    """Return the names of volumes that are not sliced along their coarsest axis, if the card fixes the plane."""

    def is_across(case: StoredCase) -> bool:
        slices, _, height, width = case.shape
        return bool(case.spacing_mm) and coarsest_axis(case.spacing_mm or (), (slices, height, width)) in (1, 2)

    return [case.name for case in cases if card.plane in PLANES and is_across(case)]


def note_planes(card: Card, cases: Sequence[StoredCase]) -> None:
    """Note how many volumes are not sliced along their coarsest axis, if the card fixes the plane."""
    if names := across(card, cases):
        note(
            f"note: {len(names)} of {len(cases)} volumes of {card.name}, such as {names[0]}, are not sliced along "
            f"their coarsest axis (plane: {card.plane}). Use --data.plane acquired to do so."
        )
