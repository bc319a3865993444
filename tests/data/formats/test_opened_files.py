"""The files that an image consists of: series, detached voxels, mosaics with what lies beside their tiles."""

from __future__ import annotations

import hashlib

import h5py
import numpy as np
import pytest
import rasterio
import SimpleITK as sitk
from PIL import Image

from dicom_samples import dicom_series
from layouts import write_scene
from mlla_seg.data.formats.opened_files import digest_of, opened_files
from samples import write_nifti


def names(path):
    return [file.name for file in opened_files(path)]


def write_mosaic(path, *sources):
    """A VRT of one band of 8 x 8 pixels."""
    parts = "".join(
        f'<SimpleSource><SourceFilename relativeToVRT="1">{s}</SourceFilename></SimpleSource>' for s in sources
    )
    path.write_text(
        f'<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand dataType="Byte" band="1">{parts}'
        "</VRTRasterBand></VRTDataset>"
    )
    return path


def test_single_file_and_its_digest(tmp_path):
    write_nifti(tmp_path / "a.nii.gz", np.zeros((2, 3, 4), np.uint8))
    assert names(tmp_path / "a.nii.gz") == ["a.nii.gz"]
    assert digest_of(tmp_path / "a.nii.gz") == hashlib.sha256((tmp_path / "a.nii.gz").read_bytes()).hexdigest()


def test_series_is_all_files_of_its_folder(tmp_path):
    dicom_series(tmp_path / "series")
    assert names(tmp_path / "series") == sorted(file.name for file in (tmp_path / "series").iterdir())


@pytest.mark.parametrize(("name", "beside"), [("a.mhd", "a.raw"), ("a.nhdr", "a.raw")])
def test_voxels_beside_a_header(tmp_path, name, beside):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 3, 4), np.int16)), str(tmp_path / name))
    assert names(tmp_path / name) == [name, beside]


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_what_lies_beside_a_raster(tmp_path):
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False):
        path = write_scene(tmp_path / "a.tif", np.ones((1, 8, 8), np.uint8), None, None)
        with rasterio.open(path, "r+") as file:
            file.write_mask(np.eye(8) > 0)
    (tmp_path / "a.tfw").write_text("2\n0\n0\n-2\n100\n200\n")
    (tmp_path / "b.tfw").write_text("of another image")
    assert sorted(names(path)) == ["a.tfw", "a.tif", "a.tif.msk"]


def test_photo_with_a_world_file(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    assert names(tmp_path / "a.png") == ["a.png"]
    (tmp_path / "a.pgw").write_text("2\n0\n0\n-2\n100\n200\n")
    assert names(tmp_path / "a.png") == ["a.png", "a.pgw"]


def test_tiles_of_a_mosaic_of_mosaics_and_what_lies_beside_them(tmp_path):
    for name in ("one", "two"):
        write_scene(tmp_path / f"{name}.tif", np.ones((1, 8, 8), np.uint8), None, None)
    (tmp_path / "two.tfw").write_text("2\n0\n0\n-2\n100\n200\n")
    write_mosaic(tmp_path / "inner.vrt", "two.tif")
    outer = write_mosaic(tmp_path / "outer.vrt", "one.tif", "inner.vrt")
    assert names(outer)[0] == "outer.vrt"
    assert sorted(names(outer)) == ["inner.vrt", "one.tif", "outer.vrt", "two.tfw", "two.tif"]


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
    assert names(tmp_path / "a.h5") == ["a.h5", "other.h5", "more.raw"]


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mhd", "a.tif", "a.vrt", "a.h5", "a.png"])
def test_damaged_file_is_itself(tmp_path, name):
    (tmp_path / name).write_bytes(b"nothing of this kind")
    assert names(tmp_path / name) == [name]
