"""Interpretation of volume headers that are contradictory or unusable.

A NIfTI has up to three definitions of its voxel geometry: the sform (any affine), the qform (a rotation with the
spacing of ``pixdim``) and ``pixdim`` alone. They should agree, but often do not. Only this module decides which one is
used, and every decision in doubt adds a note for the user.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mlla_seg.data.formats.picture import Array
from mlla_seg.errors import InputError
from mlla_seg.progress import note

TOLERANCE = 0.01
"""Relative difference below which spacings are equal up to rounding."""
SHEAR = 0.01
"""Cosine between two axes above which they are not orthogonal: half a degree."""
MILLIMETRES = {"meter": 1000.0, "micron": 0.001}
"""Millimetres per unit of length of a NIfTI; any other unit is taken for millimetres."""

SMALLEST_MM, LARGEST_MM = 0.01, 20.0
"""Voxels smaller or larger than these along all axes are rather measured in metres or micrometres."""
KEPT = "they are taken for millimetres, in which distances and volumes are scored"


def nifti_affine(name: str, header: Any) -> tuple[Array, tuple[str, ...]]:
    """Determine the affine of a NIfTI.

    Args:
        name: File name for messages.
        header: Header read by nibabel.

    Returns:
        ``(4, 4)`` from voxel indices to millimetres (right, anterior, superior), and notes on how it was determined.

    Raises:
        InputError: The header defines no usable affine.
    """
    forms = {"sform": header.get_sform(coded=True)[0], "qform": _qform(header)}
    faults = {key: _fault(affine) for key, affine in forms.items() if affine is not None}
    good = {key: forms[key] for key, fault in faults.items() if not fault}
    pixdim = np.array(header["pixdim"][1:4], np.float64)
    notes = []
    if good:
        notes += [f"the {key} {fault}; the {next(iter(good))} is used" for key, fault in faults.items() if fault]
        affine, doubt = _choose(good.get("sform"), good.get("qform"), pixdim, min(int(header["dim"][0]), 3))
        notes += [doubt] if doubt else []
    elif faults:
        said = " and ".join(f"its {key} {fault} ({_found(key, header)})" for key, fault in faults.items())
        raise InputError(
            f"{name}: {said}, so its geometry is unknown. Convert it again, or repair its header: three independent "
            "axes with steps above zero."
        )
    else:
        affine = header.get_base_affine()
        notes.append("neither sform nor qform is set; axes are assumed to run to the left, anterior and superior")
        if _fault(affine):
            raise InputError(
                f"{name}: neither sform nor qform is set and pixdim is {_found('pixdim', header)}, so its geometry is "
                "unknown. Repair its header: pixdim needs a spacing above zero for each axis."
            )
    unit = header.get_xyzt_units()[0]
    if unit in MILLIMETRES:
        affine = np.diag([*[MILLIMETRES[unit]] * 3, 1.0]) @ affine
        notes.append(f"lengths are in {unit}s and are converted to millimetres")
    else:
        notes += odd_size(affine, header["dim"][1:4])
    return affine, (*notes, *sheared(affine))


def _found(key: str, header: Any) -> str:
    """Return the fields of a form as found in the header."""
    fields = {"sform": ("srow_x", "srow_y", "srow_z"), "qform": ("quatern_b", "quatern_c", "quatern_d", "pixdim")}
    return ", ".join(
        f"{field} {np.array2string(np.asarray(header[field]), precision=4)}" for field in fields.get(key, ())
    ) or np.array2string(np.asarray(header[key][1:4]), precision=4)


def _choose(sform: Array | None, qform: Array | None, pixdim: Array, axes: int) -> tuple[Array, str]:
    """Choose between the usable forms; also return a note, empty if there is no doubt."""
    if sform is None:
        assert qform is not None
        return qform, ""

    def alike(a: Any, b: Any) -> bool:  # compares only the axes of the file
        return np.allclose(np.broadcast_to(a, 3)[:axes], np.broadcast_to(b, 3)[:axes], rtol=TOLERANCE, atol=0)

    steps = steps_of(sform)
    if alike(steps, pixdim):
        if qform is not None and (one := _directions(sform)) != (other := _directions(qform)):
            return sform, f"axes run to {one} by the sform and to {other} by the qform; the sform is used"
        return sform, ""
    if alike(pixdim, 1) and (qform is None or np.allclose(qform, np.eye(4))):  # never set
        return sform, "the spacing of the sform differs from pixdim, which is 1 throughout; the sform is used"
    if qform is not None:
        return qform, "the spacing of the sform differs from pixdim and the qform; the qform is used"
    if alike(steps, 1):
        return sform @ np.diag([*pixdim, 1.0]), "the sform has no scale; its spacing is taken from pixdim"
    return sform, "the spacing of the sform differs from pixdim; the sform is used"


def _qform(header: Any) -> Array | None:
    """Return the qform, None if it is not set, NaN if its rotation is invalid."""
    try:
        return header.get_qform(coded=True)[0]
    except ValueError:  # invalid quaternion
        return np.full((4, 4), np.nan)


def _fault(affine: Array) -> str:
    """Describe why an affine cannot be used; empty if it can."""
    if not np.isfinite(affine).all():
        return "contains NaN"
    steps = steps_of(affine)
    if (steps == 0).any() or abs(np.linalg.det(affine[:3, :3] / steps)) < 1e-3:
        return "is singular"
    return ""


def require_affine(name: str, affine: Array) -> None:
    """Raise if an affine cannot be used.

    Raises:
        InputError: It is not (4, 4), contains NaN or is singular.
    """
    fault = _fault(affine) if affine.shape == (4, 4) else f"has the shape {affine.shape}, not (4, 4)"
    if fault:
        raise InputError(f"{name}: its affine {fault}, so its geometry is unknown. Repair its header.")


def sheared(affine: Array) -> tuple[str, ...]:
    """Return a note if the axes are not orthogonal."""
    directions = affine[:3, :3] / steps_of(affine)
    cosine = np.abs(directions.T @ directions - np.eye(3)).max()
    if cosine <= SHEAR:
        return ()
    return ("axes are not orthogonal; spacing is measured along them, and surface distances assume orthogonal axes",)


def odd_size(affine: Array, shape: Sequence[int]) -> tuple[str, ...]:
    """Return a note if voxels are too small or large for lengths in millimetres; axes of one voxel do not count."""
    steps = [step for step, count in zip(steps_of(affine), shape, strict=True) if count > 1]
    if steps and max(steps) < SMALLEST_MM:
        return (f"voxels are smaller than {SMALLEST_MM:g} mm, as if lengths were in metres; {KEPT}",)
    if steps and min(steps) > LARGEST_MM:
        return (f"voxels are larger than {LARGEST_MM:g} mm, as if lengths were in micrometres; {KEPT}",)
    return ()


def steps_of(affine: Array) -> Array:
    """Return the spacing of voxels along each axis."""
    return np.sqrt((affine[:3, :3] ** 2).sum(axis=0))


def _directions(affine: Array) -> str:
    from nibabel import aff2axcodes

    return "".join(aff2axcodes(affine))


def note_headers(notes: Mapping[str, Iterable[str]]) -> None:
    """Print each note once, with the number of images that it concerns and one of their names.

    Args:
        notes: Notes for each image.
    """
    about: dict[str, list[str]] = {}
    for name, said in notes.items():
        for text in said:
            about.setdefault(text, []).append(name)
    for text, names in about.items():
        which = names[0] if len(names) == 1 else f"{len(names)} headers, such as that of {names[0]}"
        note(f"note: {which}: {text}.")
