"""Fingerprints of images: every file that is read counts, whatever its times say."""

from __future__ import annotations

import os
import shutil
import time
from zipfile import ZipFile

import h5py
import numpy as np
import pytest
import rasterio
import SimpleITK as sitk
from PIL import Image
from rasterio.transform import Affine

from dicom_samples import dicom_series
from layouts import PLACE, write_scene
from mlla_seg.data.formats.locations import Remote
from mlla_seg.data.formats.source_files import SETTLED_NS, Sources, files_of
from mlla_seg.errors import InputError


def names(place):
    return [path.name for path in files_of(place)]


def rewrite(path, restore=True):
    """Change the last byte of a file; its size stays, and by default its time of modification."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 3  # a line feed becomes a tab
    path.write_bytes(data)
    if restore:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def mosaic(folder, tiles, name="mosaic.vrt"):
    """A VRT whose tiles lie side by side, 8 pixels wide."""
    sources = "".join(
        f"<SimpleSource><SourceFilename relativeToVRT='1'>{tile}</SourceFilename><SourceBand>1</SourceBand>"
        f"<SrcRect xOff='0' yOff='0' xSize='8' ySize='8'/><DstRect xOff='{8 * k}' yOff='0' xSize='8' ySize='8'/>"
        "</SimpleSource>"
        for k, tile in enumerate(tiles)
    )
    (folder / name).write_text(
        f"<VRTDataset rasterXSize='{8 * len(tiles)}' rasterYSize='8'><SRS>EPSG:32636</SRS><GeoTransform>"
        f"{', '.join(map(str, PLACE.to_gdal()))}</GeoTransform><VRTRasterBand dataType='Byte' band='1'>{sources}"
        "</VRTRasterBand></VRTDataset>\n"
    )
    return folder / name


def tile(path, **profile):
    return write_scene(path, np.arange(64, dtype=np.uint8).reshape(1, 8, 8), **profile)


def test_a_raster_is_read_with_the_files_beside_it_and_a_mosaic_with_those_of_its_tiles(tmp_path):
    tile(tmp_path / "a.tif", transform=None)
    (tmp_path / "a.tfw").write_text("1\n0\n0\n-1\n5\n5\n")
    tile(tmp_path / "b.tif")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(tmp_path / "b.tif", "r+") as raster:
        raster.write_mask(np.ones((8, 8), bool))
    assert names(tmp_path / "a.tif") == ["a.tfw", "a.tif"]
    assert names(tmp_path / "b.tif") == ["b.tif", "b.tif.msk"]
    mosaic(tmp_path, ["a.tif", "b.tif"], "inner.vrt")
    assert names(mosaic(tmp_path, ["inner.vrt", "gone.tif"])) == [
        *("a.tfw", "a.tif", "b.tif", "b.tif.msk", "gone.tif", "inner.vrt", "mosaic.vrt")
    ]
    with pytest.raises(InputError, match=r"none\.tif: no such file"):
        files_of(tmp_path / "none.tif")


def test_volumes_are_read_with_the_files_that_their_headers_name(tmp_path):
    image = sitk.GetImageFromArray(np.zeros((3, 4, 5), np.int16))
    for name in ("a.mhd", "a.mha", "b.nhdr", "b.nrrd"):
        sitk.WriteImage(image, str(tmp_path / name))
    assert names(tmp_path / "a.mhd") == ["a.mhd", "a.raw"]
    assert names(tmp_path / "a.mha") == ["a.mha"]
    assert names(tmp_path / "b.nhdr") == ["b.nhdr", "b.raw"]
    assert names(tmp_path / "b.nrrd") == ["b.nrrd"]
    (tmp_path / "list.mhd").write_text("NDims = 3\nElementDataFile = LIST\n1.raw\n2.raw\n")
    assert names(tmp_path / "list.mhd") == ["1.raw", "2.raw", "list.mhd"]
    (tmp_path / "many.mhd").write_text("NDims = 3\nElementDataFile = s%02d.raw 8 10 1\n")
    assert names(tmp_path / "many.mhd") == ["many.mhd", "s08.raw", "s09.raw", "s10.raw"]
    (tmp_path / "many.nhdr").write_text("NRRD0004\r\ndimension: 3\r\ndata file: s%d.raw 9 8 -1\r\n")
    assert names(tmp_path / "many.nhdr") == ["many.nhdr", "s8.raw", "s9.raw"]


def test_a_series_consists_of_all_its_slices_and_an_archive_of_itself(tmp_path):
    series = dicom_series(tmp_path / "ct")
    (series / "thumbs.db").write_bytes(b"of another program")
    assert files_of(series) == sorted(path for path in series.iterdir() if path.name != "thumbs.db")
    tile(tmp_path / "a.tif")
    with ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.tif", "x/a.tif")
    for text in (f"/vsizip/{tmp_path}/a.zip/x/a.tif", f"/vsizip/{{{tmp_path}/a.zip}}/x/a.tif"):
        assert files_of(Remote(text)) == [tmp_path / "a.zip"]
    assert files_of(Remote(f'NETCDF:"{tmp_path}/a.zip":band')) == [tmp_path / "a.zip"]
    assert files_of(Remote("https://example.org/a.tif")) == []


@pytest.mark.parametrize("changed", ["a.tif", "a.tif.aux.xml", "b.tif", "mosaic.vrt"])
def test_same_size_and_restored_time_are_no_disguise(tmp_path, changed):
    tile(tmp_path / "a.tif")
    (tmp_path / "a.tif.aux.xml").write_text("<PAMDataset></PAMDataset>\n")
    tile(tmp_path / "b.tif")
    place = mosaic(tmp_path, ["a.tif", "b.tif"])
    before = Sources([place])
    stored = before.to_dict()
    assert stored["status"] == ""  # too new for the times to tell
    assert not before.changed()
    assert Sources([place]).equal(stored)
    rewrite(tmp_path / changed)
    assert before.changed()
    assert not Sources([place]).equal(stored)


def test_times_of_settled_files_save_reading_them_and_copies_are_equal(tmp_path, monkeypatch):
    tile(tmp_path / "a.tif")
    monkeypatch.setattr(time, "time_ns", lambda now=time.time_ns: now() + SETTLED_NS)
    stored = Sources([tmp_path / "a.tif"]).to_dict()
    assert stored["status"]
    again = Sources([tmp_path / "a.tif"])
    assert again.equal(stored)
    assert "content" not in vars(again)  # nothing was read
    (tmp_path / "moved").mkdir()
    shutil.copy2(tmp_path / "a.tif", tmp_path / "moved/a.tif")
    assert Sources([tmp_path / "moved/a.tif"]).equal(stored)
    os.utime(tmp_path / "a.tif")
    assert Sources([tmp_path / "a.tif"]).equal(stored)
    rewrite(tmp_path / "a.tif")
    assert not Sources([tmp_path / "a.tif"]).equal(stored)


def test_a_file_that_appears_or_goes_is_a_change(tmp_path):
    tile(tmp_path / "a.tif", transform=Affine.identity())
    before = Sources([tmp_path / "a.tif"])
    stored = before.to_dict()
    (tmp_path / "a.tif.aux.xml").write_text("<PAMDataset></PAMDataset>")
    assert before.changed()
    assert not Sources([tmp_path / "a.tif"]).equal(stored)
    (tmp_path / "a.tif.aux.xml").unlink()
    assert Sources([tmp_path / "a.tif"]).equal(stored)


def test_photo_with_a_world_file(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    assert names(tmp_path / "a.png") == ["a.png"]
    (tmp_path / "a.pgw").write_text("2\n0\n0\n-2\n100\n200\n")
    assert names(tmp_path / "a.png") == ["a.pgw", "a.png"]


def test_tile_of_a_mosaic_in_another_format(tmp_path):
    tile(tmp_path / "a.img", driver="ENVI")
    assert names(mosaic(tmp_path, ["a.img"]))[:2] == ["a.hdr", "a.img"]


def test_arrays_of_h5_in_other_files(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["image"] = np.ones((2, 3))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = h5py.ExternalLink("other.h5", "image")
        layout = h5py.VirtualLayout((2, 3), "f8")
        layout[:] = h5py.VirtualSource("other.h5", "image", (2, 3))
        file.create_virtual_dataset("label", layout)
        file.create_dataset("more", (2,), "f8", external=[(str(tmp_path / "more.raw"), 0, 16)])
        file["more"][:] = 1
    assert names(tmp_path / "a.h5") == ["a.h5", "more.raw", "other.h5"]


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mhd", "a.tif", "a.vrt", "a.h5", "a.png"])
def test_damaged_file_is_itself(tmp_path, name):
    (tmp_path / name).write_bytes(b"nothing of this kind")
    assert names(tmp_path / name) == [name]
