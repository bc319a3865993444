"""Planes of the slices of volumes, and the directions of slices, rows and columns in them."""

from __future__ import annotations

PLANES = {"axial": "SPL", "coronal": "PIL", "sagittal": "LIP"}
"""Directions of slices, rows and columns: axial slices run upwards, their rows to the back (posterior) and their
columns to the patient's left, as in radiological display."""
ACQUIRED = "acquired"
"""Plane in which each volume was acquired, with slices along its coarsest axis."""
ACQUIRED_PLANES = ("RIP", "PIL", "SPL")
"""Directions of acquired slices, if their axis is nearest to right, anterior or superior. They are rotations of each
other, never mirror images, so an oblique stack looks alike whichever axis happens to be nearest."""
DIRECTIONS = dict(R="right", L="left", A="anterior", P="posterior", S="superior", I="inferior")


def plane_in_words(plane: str) -> str:
    """Describe the directions of slices, rows and columns of a plane."""

    def words(axes: str) -> str:
        slices, rows, columns = (DIRECTIONS[axis] for axis in axes)
        return f"slices to {slices}, rows to {rows}, columns to {columns}"

    if plane != ACQUIRED:
        return words(PLANES[plane])
    return f"slices along each volume's coarsest axis ({'; or '.join(map(words, reversed(ACQUIRED_PLANES)))})"
