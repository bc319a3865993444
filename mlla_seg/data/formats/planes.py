"""Planes in which volumes are cut into slices, and how slices, rows and columns run in them."""

from __future__ import annotations

PLANES = {"axial": "SPL", "coronal": "PIL", "sagittal": "LIP"}
"""Directions in which slices, rows and columns of a volume run: axial slices go up, their rows to the back (posterior),
their columns to the patient's left, which is how a radiologist looks at them."""
ACQUIRED = "acquired"
"""Stands for the plane in which each volume was acquired: its slices run along its coarsest axis."""
ACQUIRED_PLANES = ("RIP", "PIL", "SPL")
"""Directions of acquired slices, by the axis that theirs is nearest to: right, anterior, superior. One can be turned
into another, none is its mirror image: an oblique stack looks alike, whichever axis it happens to be nearest to."""
DIRECTIONS = dict(R="right", L="left", A="anterior", P="posterior", S="superior", I="inferior")


def plane_in_words(plane: str) -> str:
    """How slices, rows and columns of a plane run."""

    def words(axes: str) -> str:
        slices, rows, columns = (DIRECTIONS[axis] for axis in axes)
        return f"slices to {slices}, rows to {rows}, columns to {columns}"

    if plane != ACQUIRED:
        return words(PLANES[plane])
    return f"slices along each volume's coarsest axis ({'; or '.join(map(words, reversed(ACQUIRED_PLANES)))})"
