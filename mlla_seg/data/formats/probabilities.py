"""Class probabilities of a volume in a file beside its mask, written slice by slice to limit memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mlla_seg.atomic import renamed_when_done
from mlla_seg.data.formats.h5_files import Filled, new_h5
from mlla_seg.data.formats.picture import Array

SUFFIX = ".probabilities.h5"


def probabilities_path(mask: Path, mask_suffix: str) -> Path:
    """Return the file for the probabilities of a mask: beside it, with its name."""
    return mask.with_name(mask.name[: -len(mask_suffix)] + SUFFIX)


@contextmanager
def write_probabilities(
    path: Path, shape: Sequence[int], classes: Sequence[str], affine: Array | None = None
) -> Iterator[Filled]:
    """Create an h5 file with ``probabilities`` ``(K, S, H, W)`` float16 in 0..1; renamed once complete.

    Args:
        path: Output file.
        shape: K, S, H and W.
        classes: K names, stored as attribute ``classes``.
        affine: ``(4, 4)`` from slice, row and column to millimetres (right, anterior, superior), stored as ``affine``.

    Yields:
        The array in the file, to be filled slice by slice.
    """
    with renamed_when_done(path) as temporary, new_h5(temporary) as (file, beneath):
        chunks = (shape[0], 1, *shape[2:])
        array = file.create_dataset(
            "probabilities", tuple(shape), np.float16, chunks=chunks, compression="gzip", compression_opts=1
        )
        array.attrs["classes"] = list(classes)
        if affine is not None:
            array.attrs["affine"] = affine
        yield Filled(array, beneath)
