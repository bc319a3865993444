"""Changes of the files of a case are noticed, whatever their size and time of modification say."""

from __future__ import annotations

import os
import shutil
import time

import numpy as np
import pytest
import SimpleITK as sitk

from dicom_samples import dicom_series
from layouts import write_scene
from mlla_seg.data.cases import Case
from mlla_seg.data.store.sources import SETTLED_NS, SourceCheck, difference

WORLD = "2\n0\n0\n-2\n100\n200\n"


def write_mosaic(path, tile):
    path.write_text(
        '<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f'<SourceFilename relativeToVRT="1">{tile}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>'
    )


@pytest.fixture
def root(tmp_path):
    """Images that consist of several files."""
    dicom_series(tmp_path / "series")
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 8, 8), np.uint8)), str(tmp_path / "volume.mhd"))
    write_scene(tmp_path / "tile.tif", np.ones((1, 8, 8), np.uint8), None, None)
    (tmp_path / "tile.tfw").write_text(WORLD)
    write_mosaic(tmp_path / "inner.vrt", "tile.tif")
    write_mosaic(tmp_path / "mosaic.vrt", "inner.vrt")
    return tmp_path


@pytest.fixture
def settled(monkeypatch):
    """Let the files be older than a moment, so that their times are trusted."""
    monkeypatch.setattr(time, "time_ns", lambda now=time.time_ns: now() + SETTLED_NS)


def case_of(root, name):
    return Case(name, name, ((root / name,),))


def rewrite(path):
    """Change a byte in place and restore the time of modification."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize(
    ("image", "part"),
    [
        ("series", "series/*"),
        ("volume.mhd", "volume.mhd"),
        ("volume.mhd", "volume.raw"),
        ("tile.tif", "tile.tfw"),
        ("mosaic.vrt", "inner.vrt"),
        ("mosaic.vrt", "tile.tif"),
        ("mosaic.vrt", "tile.tfw"),
    ],
)
def test_part_rewritten_in_place_with_its_time_restored(root, image, part):
    case = case_of(root, image)
    before = SourceCheck(root).take(case)
    assert SourceCheck(root).unchanged(case, before)
    path = sorted(root.glob(part))[-1]
    rewrite(path)
    assert not SourceCheck(root).unchanged(case, before)
    assert difference(before, SourceCheck(root).take(case)) == str(path.relative_to(root))


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize(
    ("image", "name"),
    [("series", "series/more.dcm"), ("mosaic.vrt", "tile.tif.aux.xml"), ("tile.tif", "tile.tif.aux.xml")],
)
def test_part_that_appears_or_goes(root, image, name):
    case = case_of(root, image)
    before = SourceCheck(root).take(case)
    (root / name).write_text("<PAMDataset><Metadata/></PAMDataset>")
    assert not SourceCheck(root).unchanged(case, before)
    after = SourceCheck(root).take(case)
    assert difference(before, after) == name
    (root / name).unlink()
    assert not SourceCheck(root).unchanged(case, after)
    assert difference(after, SourceCheck(root).take(case)) == name


@pytest.mark.usefixtures("settled")
def test_file_of_another_program_beside_an_image_is_no_part_of_it(root):
    case = case_of(root, "tile.tif")
    before = SourceCheck(root).take(case)
    (root / "tile.txt").write_text("notes")
    (root / "tile_2.tif").write_text("another")
    assert difference(before, SourceCheck(root).take(case)) == ""


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("image", ["series", "volume.mhd", "mosaic.vrt"])
def test_copy_is_equal_by_content(root, image):
    before = SourceCheck(root).take(case_of(root, image))
    copy = root.parent / f"{root.name} copy"
    shutil.copytree(root, copy)
    case = case_of(copy, image)
    assert not SourceCheck(copy).unchanged(case, before)
    now = SourceCheck(copy).take(case)
    assert difference(before, now) == ""
    assert SourceCheck(copy).unchanged(case, now)


def test_new_file_is_compared_by_content_once_more(root):
    case = case_of(root, "volume.mhd")
    before = SourceCheck(root).take(case)
    assert not SourceCheck(root).unchanged(case, before)
    assert difference(before, SourceCheck(root).take(case)) == ""


def test_mask_from_another_file_is_a_change(root):
    case = Case("a", "a", ((root / "tile.tif",),), (root / "volume.mhd",))
    before = SourceCheck(root).take(case)
    other = Case("a", "a", ((root / "tile.tif",),), (root / "inner.vrt",))
    assert difference(before, SourceCheck(root).take(other)) == "inner.vrt"
