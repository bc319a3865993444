"""TIFF files that viewers turn are noted, and read as they are stored."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from mlla_seg.data.formats.geotiff import open_rasters
from mlla_seg.data.formats.tiff_orientation import UNTURNED, orientation_of, unturned_note

PIXELS = np.arange(6 * 4, dtype=np.uint8).reshape(6, 4)


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("orientation", [None, 1, 3, 6])
def test_files_that_viewers_turn_are_noted_and_read_as_stored(tmp_path, orientation, big):
    exif = Image.Exif()
    if orientation:
        exif[274] = orientation
    Image.fromarray(PIXELS).save(tmp_path / "a.tif", exif=exif, big_tiff=big)
    assert orientation_of(tmp_path / "a.tif") == (orientation or 1)
    with open_rasters([tmp_path / "a.tif"]) as raster:
        np.testing.assert_array_equal(raster.read(0, 0, 6, 4)[0], PIXELS)
        assert (UNTURNED in raster.notes) == (orientation in (3, 6))


def test_the_order_of_bytes_is_obeyed(tmp_path):
    for order, mark in (("<", b"II"), (">", b"MM")):
        tag = struct.pack(f"{order}HHIHH", 274, 3, 1, 8, 0)
        (tmp_path / "a.tif").write_bytes(mark + struct.pack(f"{order}HIH", 42, 8, 1) + tag)
        assert orientation_of(tmp_path / "a.tif") == 8


@pytest.mark.parametrize("content", [b"", b"II*\0", b"II+\0" + b"\xff" * 12, b"II*\0\x08\0\0\0\xff\xff" + b"\x01" * 20])
def test_damaged_files_have_no_note_and_no_traceback(tmp_path, content):
    (tmp_path / "a.tif").write_bytes(content)
    assert unturned_note([tmp_path / "a.tif", tmp_path / "none.tif"]) == ()
