"""Choice of the patch size of volumes where no option gives it, and notes on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from mlla_seg.data.card_sections import MEDIAN
from mlla_seg.data.halving import known_spacing, patch_for
from mlla_seg.data.slices import View
from mlla_seg.data.store.case import StoredCase
from mlla_seg.errors import InputError
from mlla_seg.progress import note

VOXELS = 2**21
"""Most voxels of a batch whose patches are chosen here; training takes about 1 to 2 kB for each."""
Spacing = Sequence[float | None] | None


def require_spacing(spacing_mm: Sequence[float | str | None] | None) -> None:
    """Check that ``--data.spacing_mm`` gives one spacing along each axis, from which strides follow.

    Raises:
        InputError: An axis is kept as it is.
    """
    if spacing_mm is not None and None in spacing_mm:
        raise InputError(
            f"--data.spacing_mm {list(spacing_mm)} keeps an axis, but volumes as volumes need one spacing along each: "
            f"give numbers or {MEDIAN}."
        )


def median_shape(cases: Sequence[StoredCase], spacing_mm: Spacing) -> list[int]:
    """Return the median slices, rows and columns of volumes that are resampled to a spacing.

    Raises:
        InputError: All cases are single images.
    """
    view = View(spacing_mm)
    shapes = [view.grid((s, h, w), case.spacing_mm) for case in cases for s, _, h, w in [case.shape]]
    if all(slices == 1 for slices, *_ in shapes):
        raise InputError(
            f"All cases are single images, such as {cases[0].name}: leave --model.dims 3 out, and give --data.crop as "
            "[height, width]."
        )
    return [round(float(n)) for n in np.median(shapes, axis=0)]


def chosen_patch(cases: Sequence[StoredCase], spacing_mm: Spacing, batch_size: int) -> tuple[int, ...]:
    """Return the size of patches of volumes for batches of some size, see :func:`patch_for`."""
    shape = median_shape(cases, spacing_mm)
    return tuple(patch_for(shape, known_spacing(spacing_mm, shape), VOXELS // batch_size))


def note_patches(cases: Sequence[StoredCase], view: View, batch_size: int | None) -> None:
    """Note the size of patches, what it was chosen from, and what is unknown about the volumes.

    Args:
        cases: The volumes.
        view: How the network sees them; its spacing is None if no file gives one.
        batch_size: Patches of a batch, for which their size was chosen; None if the user gave it.
    """
    spacing_mm, patch_size = view.spacing_mm, view.patch_size or ()
    shape = median_shape(cases, spacing_mm)
    if spacing_mm is None:
        guess = known_spacing(None, patch_size)[0]
        note(
            f"note: no file gives the spacing of its voxels, such as that of {cases[0].name}; slices are assumed to be "
            f"{guess:.3g} times as far apart as pixels. --data.spacing_mm [slices, rows, columns] sets the spacing."
        )
    if batch_size is None:
        return
    where = f" at {_by(f'{step:.3g}' for step in spacing_mm)} mm" if spacing_mm else ""
    cut = any(side < n for side, n in zip(patch_size, shape, strict=True))
    more = f", cut so that {batch_size} patches have {VOXELS / 1e6:.1f} M voxels: fewer may be larger" if cut else ""
    note(
        f"note: patches of {_by(patch_size)} voxels (slices, rows, columns), chosen from the median volume of "
        f"{_by(shape)}{where}{more}; --data.crop sets another size."
    )


def _by(numbers: Iterable[object]) -> str:
    return " x ".join(map(str, numbers))
