"""Volumes, areas and pictures beside the masks."""

from __future__ import annotations

import csv

import nibabel as nib
import numpy as np
import pyogrio
import pytest
import rasterio
from PIL import Image

from layouts import write_scene
from maps import Bright, noise, spec_of
from mlla_seg import Predictor
from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.formats.picture import Array
from mlla_seg.errors import InputError
from mlla_seg.inference.files import segment_files
from mlla_seg.inference.scenes import MapOptions
from mlla_seg.inference.summaries import Summaries, draw_preview, preview_path


def predicted(tmp_path, source, options=None, count=1, **spec):
    predictor = Predictor(Bright(), spec_of(count, background=0, **spec))
    options, summaries = options or MapOptions(), Summaries(True, True)
    segment_files(predictor, source, tmp_path / "out", options, overwrite=True, summaries=summaries)
    with (tmp_path / "out/statistics.csv").open() as file:
        return list(csv.DictReader(file))


def truth(values: Array) -> Array:
    """Labels of the network for an image of one channel."""
    return np.abs(values[..., None].astype(float) - [40, 120, 200]).argmin(-1)


def test_volumes_in_millilitres(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    values = noise(9, 8, 7).astype(np.int16)
    for name in ("a", "b"):
        nib.Nifti1Image(values, np.diag([2.0, 0.5, 3.0, 1])).to_filename(tmp_path / f"in/{name}.nii.gz")
    Image.fromarray(noise(20, 30)).save(tmp_path / "in/photo.png")
    rows = predicted(tmp_path, tmp_path / "in")
    assert [row["mask"] for row in rows] == ["a.nii.gz", "b.nii.gz", "photo.png"]
    assert list(rows[0]) == ["mask", "unit", "roof", "water"]
    for k, name in ((1, "roof"), (2, "water")):
        assert float(rows[0][name]) == pytest.approx((truth(values) == k).sum() * 0.003, rel=1e-5)
    assert rows[2]["unit"] == "pixels"
    assert float(rows[2]["roof"]) == (truth(noise(20, 30)) == 1).sum()
    said = capsys.readouterr()
    assert "note: 1 of 3 masks, such as photo.png, have no known size of pixels or voxels" in said.err
    for name in ("a", "b", "photo"):
        with Image.open(tmp_path / f"out/{name}.preview.png") as picture:
            assert np.asarray(picture.convert("RGB")).std() > 10


def test_areas_are_those_of_the_polygons(tmp_path):
    place = rasterio.transform.from_origin(11, 60, 0.02, 0.01)  # geographic: pixels shrink to the north
    values = np.kron(noise(15, 8), np.ones((40, 40), np.uint8))
    with rasterio.open(tmp_path / "a.tif", "w", "GTiff", 320, 600, 1, "EPSG:4326", place, "uint8") as file:
        file.write(values, 1)
    (row,) = predicted(tmp_path, tmp_path / "a.tif", MapOptions(polygons="gpkg"))
    assert row["unit"] == "m2"
    _, _, _, (names, _, areas) = pyogrio.raw.read(tmp_path / "out/a.gpkg", read_geometry=False)
    for name in ("roof", "water"):
        assert float(row[name]) == pytest.approx(areas[names == name].sum(), rel=1e-4)
    assert (tmp_path / "out/a.preview.png").is_file()


def test_images_that_fail_have_no_row(tmp_path):
    (tmp_path / "in").mkdir()
    nib.Nifti1Image(noise(9, 8, 7), np.eye(4)).to_filename(tmp_path / "in/a.nii.gz")
    (tmp_path / "in/b.nii.gz").write_bytes(b"damaged")
    (tmp_path / "out").mkdir()
    nib.Nifti1Image(noise(9, 8, 7), np.eye(4)).to_filename(tmp_path / "out/b.nii.gz")  # of an earlier run
    with pytest.raises(InputError, match="1 of 2 images have no mask"):
        predicted(tmp_path, tmp_path / "in")
    with (tmp_path / "out/statistics.csv").open() as file:
        assert [row["mask"] for row in csv.DictReader(file)] == ["a.nii.gz"]


def test_bands_are_drawn_in_their_colours(tmp_path):
    bands = np.zeros((4, 32, 32), np.uint16)
    bands[2, 8:24, 8:24] = 3000
    scene = write_scene(tmp_path / "scene.tif", bands)
    mask = write_scene(tmp_path / "map.tif", np.zeros((1, 32, 32), np.uint8))
    spec = DataSpec.from_dict({"channels": ["B02", "B03", "B04", "B08"], "classes": ["background", "roof"]})
    draw_preview((scene,), mask, spec)
    red, green, blue = np.moveaxis(np.asarray(Image.open(preview_path(mask)).convert("RGB")).astype(int), -1, 0)
    assert ((red > 200) & (green < 50) & (blue < 50)).sum() > 1000
    assert not ((blue > 200) & (red < 50)).any()
