"""HDF5 files that are written through Python, as the HDF5 library does not survive a full disk.

Of a write that fails it may say nothing, and closing such a file can end the process (HDF5 1.14, h5py 3.16).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class _Recorder(io.FileIO):
    """File that keeps its first error, and lets the library go on as if all were written."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        try:
            done = 0
            while done < len(view):  # the system may write a part
                done += super().write(view[done:])
        except OSError as error:
            self.error = self.error or error
        return len(view)

    def require_written(self) -> None:
        """Raise the error of an earlier write."""
        if self.error is not None:
            raise self.error


class Filled:
    """Array in an open file, to be assigned to part by part."""

    def __init__(self, array: Any, file: _Recorder) -> None:
        self.array, self.file = array, file

    def __setitem__(self, place: Any, values: Any) -> None:
        self.array[place] = values
        self.file.require_written()


@contextmanager
def new_h5(path: Path) -> Iterator[tuple[Any, _Recorder]]:
    """Open a new HDF5 file, and the file beneath it, whose error is raised at the end.

    Raises:
        OSError: The file could not be written as a whole, such as on a full disk.
    """
    import h5py

    with _Recorder(path, "wb+") as beneath:
        with h5py.File(beneath, "w") as file:
            yield file, beneath
        beneath.require_written()
