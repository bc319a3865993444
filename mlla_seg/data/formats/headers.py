"""What the header of a volume means, where it may say one thing in several ways or nothing of use.

A NIfTI has up to three answers to where its voxels lie: the sform (any affine), the qform (a rotation, whose steps are
those of ``pixdim``) and ``pixdim`` alone. They should agree, and in many a download they do not. Which is believed is
decided here and nowhere else, and every decision that is not plain leaves a note for the user.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mlla_seg.data.formats.picture import Array
from mlla_seg.errors import InputError

TOLERANCE = 0.01
"""Steps that differ by less than this fraction are the same one, written with fewer digits."""
SHEAR = 0.01
"""Cosine between two axes above which they are not at right angles: half a degree."""
MILLIMETRES = {"meter": 1000.0, "micron": 0.001}
"""Units of length that a NIfTI may have, besides millimetres and an unknown one, which is taken as them."""


def nifti_affine(name: str, header: Any) -> tuple[Array, tuple[str, ...]]:
    """What a NIfTI's header means.

    Args:
        name: Of the file, for messages.
        header: As nibabel has it.

    Returns:
        ``(4, 4)`` from indices along the file's axes to millimetres (right, anterior, superior), and what is to be said
        about how it was found.

    Raises:
        InputError: Nothing in it can be used.
    """
    forms = {"sform": header.get_sform(coded=True)[0], "qform": _qform(header)}
    faults = {key: _fault(affine) for key, affine in forms.items() if affine is not None}
    good = {key: forms[key] for key, fault in faults.items() if not fault}
    pixdim = np.array(header["pixdim"][1:4], np.float64)
    notes = []
    if good:
        notes += [f"the {key} {fault}; the {next(iter(good))} is used" for key, fault in faults.items() if fault]
        affine, note = _choose(good.get("sform"), good.get("qform"), pixdim, min(int(header["dim"][0]), 3))
        notes += [note] if note else []
    elif faults:
        said = " and ".join(f"its {key} {fault}" for key, fault in faults.items())
        raise InputError(f"{name}: {said}, so where its voxels lie is not known. Convert it again, or mend its header.")
    else:
        affine = header.get_base_affine()
        notes.append("neither sform nor qform is set, so axes are taken to run to the left, anterior and superior")
        require_affine(name, affine)
    unit = header.get_xyzt_units()[0]
    if unit in MILLIMETRES:
        affine = np.diag([*[MILLIMETRES[unit]] * 3, 1.0]) @ affine
        notes.append(f"lengths are in {unit}s and become millimetres")
    return affine, (*notes, *sheared(affine))


def _choose(sform: Array | None, qform: Array | None, pixdim: Array, axes: int) -> tuple[Array, str]:
    """The form to believe, of those that can be used, and what is to be said of it, if anything."""
    if sform is None:
        assert qform is not None
        return qform, ""

    def alike(a: Any, b: Any) -> bool:  # of the axes that the file has
        return np.allclose(np.broadcast_to(a, 3)[:axes], np.broadcast_to(b, 3)[:axes], rtol=TOLERANCE, atol=0)

    steps = steps_of(sform)
    if alike(steps, pixdim):
        if qform is not None and (one := _directions(sform)) != (other := _directions(qform)):
            return sform, f"axes run to {one} by the sform and to {other} by the qform; the sform is used"
        return sform, ""
    if alike(pixdim, 1) and (qform is None or np.allclose(qform, np.eye(4))):  # nobody has set them
        return sform, "the steps of the sform are not those of pixdim, which are all 1; the sform is used"
    if qform is not None:
        return qform, "the steps of the sform are not those of pixdim and the qform; the qform is used"
    if alike(steps, 1):
        return sform @ np.diag([*pixdim, 1.0]), "the sform has no scale; its steps are taken from pixdim"
    return sform, "the steps of the sform are not those of pixdim; the sform is used"


def _qform(header: Any) -> Array | None:
    """The qform, none where it is not set, NaN where its rotation is none."""
    try:
        return header.get_qform(coded=True)[0]
    except ValueError:  # not a quaternion; nibabel's own error is one of these
        return np.full((4, 4), np.nan)


def _fault(affine: Array) -> str:
    """What keeps an affine from being used."""
    if not np.isfinite(affine).all():
        return "holds NaN"
    steps = steps_of(affine)
    if (steps == 0).any() or abs(np.linalg.det(affine[:3, :3] / steps)) < 1e-3:
        return "is singular"
    return ""


def require_affine(name: str, affine: Array) -> None:
    """Refuses an affine by which nothing has a place.

    Raises:
        InputError: It is not (4, 4), holds NaN or is singular.
    """
    fault = _fault(affine) if affine.shape == (4, 4) else f"has the shape {affine.shape}, not (4, 4)"
    if fault:
        raise InputError(f"{name}: its affine {fault}, so where its voxels lie is not known. Mend its header.")


def sheared(affine: Array) -> tuple[str, ...]:
    """A note where axes are not at right angles."""
    directions = affine[:3, :3] / steps_of(affine)
    cosine = np.abs(directions.T @ directions - np.eye(3)).max()
    if cosine <= SHEAR:
        return ()
    return ("axes are not at right angles; spacing is measured along them, and surface distances take them as right",)


def steps_of(affine: Array) -> Array:
    """Distance of neighbouring voxels along each axis."""
    return np.sqrt((affine[:3, :3] ** 2).sum(axis=0))


def _directions(affine: Array) -> str:
    from nibabel import aff2axcodes

    return "".join(aff2axcodes(affine))


def note_headers(notes: Mapping[str, Iterable[str]]) -> None:
    """Says each note once, with the number of images that it is about and one name.

    Args:
        notes: What is to be said of each image.
    """
    about: dict[str, list[str]] = {}
    for name, said in notes.items():
        for note in said:
            about.setdefault(note, []).append(name)
    for note, names in about.items():
        which = names[0] if len(names) == 1 else f"{len(names)} headers, such as that of {names[0]}"
        print(f"note: {which}: {note}.", file=sys.stderr)
