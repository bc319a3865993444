"""What the header of an NRRD or MetaImage must not say: files elsewhere, and what crashes the libraries that read it.

A header that leads out of its folder is refused: whoever downloads a data set does not expect it to reach for other
files of the machine. Lengths of lines and numbers of axes are not checked by the libraries.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePath

from mlla_seg.data.formats.itk_headers import CHUNK, Voxels, fields_of, voxels_of
from mlla_seg.disk_space import in_bytes
from mlla_seg.errors import InputError

LONGEST_LINE = 500
"""Characters of a line; comments, and what programs add to an NRRD with ``:=``, may be longer."""
MOST_AXES = 8
NAMES = ("elementdatafile", "datafile")
PATTERN = re.compile(r"[^%]*%0?\d{0,2}d[^%\s]*(\s+-?\d{1,9}){2}(\s+(?!-?0+\b)-?\d{1,9}(\s+\d)?)?")
"""Names with the first number, the last and the step, such as ``slice%03d.raw 1 20 1``, and perhaps their axes."""


def require_sound(path: Path) -> Voxels:
    """Check the header of an NRRD or MetaImage before another library reads it, and return where its voxels are.

    Raises:
        InputError: Its voxels lie outside of its folder or are missing, or it would crash its reader.
        ValueError: It is no header of this format.
    """
    _require_lines(path)
    fields, names, _ = fields_of(path)
    axes = fields.get("ndims", fields.get("dimension"))
    if axes is None:
        raise ValueError("its header gives no number of axes")
    if not axes.isdecimal() or not 1 <= int(axes[:9]) <= MOST_AXES:
        raise InputError(f"{path}: its header gives {axes[:80]!r} as the number of axes. Repair it.")
    named = next((fields[key] for key in NAMES if key in fields), "")
    if "%" in named and not PATTERN.fullmatch(named):
        raise InputError(f"{path}: names its voxels {named[:80]!r}, expected such as slice%03d.raw 1 20 1.")
    for name in names:
        place = PurePath(name.replace("\\", "/"))
        if place.is_absolute() or ".." in place.parts:
            raise InputError(
                f"{path}: its voxels lie in {name[:80]}, outside of the folder of this header. Move the file beside it "
                "and correct the header."
            )
        if not (path.parent / name).is_file():
            raise InputError(f"{path}: its voxels lie in {name[:80]}, which is no file. Copy both together.")
    return voxels_of(path)


def _require_lines(path: Path) -> None:
    """Raise if a line of a header is longer than the libraries expect, or the header does not end."""
    with path.open("rb") as opened:
        content = opened.read(CHUNK)
    for number, line in enumerate(content.split(b"\n")):
        line = line.strip()
        if not line and number:  # ends the header of an NRRD
            return
        if len(line) > LONGEST_LINE and number == 0:
            raise ValueError("it has no lines of text")
        if len(line) > LONGEST_LINE and not line.startswith(b"#") and b":=" not in line[:LONGEST_LINE]:
            raise InputError(f"{path}: line {number + 1} of its header has {len(line)} characters. Repair it.")
        if line.lower().startswith(b"elementdatafile"):  # ends that of a MetaImage
            return
    if len(content) == CHUNK:
        raise InputError(f"{path}: its header does not end within {in_bytes(CHUNK)}. Get the file again.")
