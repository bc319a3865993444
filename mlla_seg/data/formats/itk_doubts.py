"""What NRRD and MetaImage headers say or leave out that SimpleITK does not tell: units, directions, scale of values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from mlla_seg.data.formats.itk_headers import fields_of

UNITS = {
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres", "none", "", "???"), 1.0),
    **dict.fromkeys(("um", "\u00b5m", "\u03bcm", "micron", "microns", "micrometer", "micrometers"), 0.001),
    **dict.fromkeys(("cm", "centimeter", "centimeters"), 10.0),
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1000.0),
}
"""Millimetres per unit of length of an NRRD; what is not there is taken for millimetres."""
ANATOMICAL = re.compile(r"(left|right)-(posterior|anterior)-(superior|inferior)(-time)?|[lr][pa][si]t?", re.IGNORECASE)
ASSUMED = "axes are assumed to run to the left, posterior and superior"
SCALE = "elementtointensityfunctionslope", "elementtointensityfunctionoffset"


def header_doubts(path: Path) -> tuple[float, tuple[str, ...]]:
    """Return the millimetres per unit of length of a volume's header, and notes for the user on what it leaves out."""
    fields, _, _ = fields_of(path)
    if int(fields.get("dimension") or fields.get("ndims") or 3) < 3:
        return 1.0, ()
    return _nrrd(fields) if "dimension" in fields else (1.0, _meta_image(fields))


def _nrrd(fields: Mapping[str, str]) -> tuple[float, tuple[str, ...]]:
    notes = []
    if "spacedirections" not in fields:
        notes.append(f"the header gives no directions; {ASSUMED}")
        if sum(step != "nan" for step in fields.get("spacings", "").lower().split()) < 3:
            notes.append("the header gives no spacing; 1 mm is assumed")
    elif not ANATOMICAL.fullmatch(space := fields.get("space", "none")):
        notes.append(f"the space of the header, {space}, names no directions of the body; {ASSUMED}")
    units = re.findall(r'"([^"]*)"', fields.get("spaceunits", ""))
    factors = {UNITS.get(unit.strip().lower()) for unit in units} or {1.0}
    if len(factors) > 1 or None in factors:
        notes.append(f"lengths are in {', '.join(units)} by the header, and are taken for millimetres")
        return 1.0, tuple(notes)
    factor = factors.pop() or 1.0
    if factor != 1:
        notes.append(f"lengths are in {units[0]} and are converted to millimetres")
    return factor, tuple(notes)


def _meta_image(fields: Mapping[str, str]) -> tuple[str, ...]:
    notes = []
    if not fields.keys() & {"transformmatrix", "orientation", "rotation"}:
        notes.append(f"the header gives no directions; {ASSUMED}")
    if not fields.keys() & {"elementspacing", "elementsize"}:
        notes.append("the header gives no spacing; 1 mm is assumed")
    slope, offset = (fields.get(key, usual) for key, usual in zip(SCALE, ("1", "0"), strict=True))
    if not re.fullmatch(r"\+?1(\.0*)?", slope) or not re.fullmatch(r"[+-]?0(\.0*)?", offset):
        notes.append(
            f"the header scales values by {slope} and adds {offset}, which is not applied: they stay as stored"
        )
    return tuple(notes)
