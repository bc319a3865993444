"""Masks and files beside them replace no image, no other mask, and nothing that this program has not made."""

from __future__ import annotations

import json
import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from jobs import Pixelwise, spec_of
from layouts import write_scene
from maps import Bright, noise
from maps import spec_of as scene_spec
from mlla_seg import Predictor
from mlla_seg.errors import InputError
from mlla_seg.inference import targets
from mlla_seg.inference.files import segment_files
from mlla_seg.inference.records import FOLDER
from mlla_seg.inference.scenes import MapOptions
from mlla_seg.inference.summaries import Summaries

GRID = '<VRTDataset rasterXSize="96" rasterYSize="96"><GeoTransform>0,1,0,0,0,-1</GeoTransform>{}</VRTDataset>'
BAND = '<VRTRasterBand dataType="Byte" band="{0}"><SimpleSource><SourceFilename relativeToVRT="1">{1}</SourceFilename>\
<SourceBand>{0}</SourceBand></SimpleSource></VRTRasterBand>'
ALIKE = [("A.png", "a.png"), tuple(unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD"))]


@pytest.fixture
def predictor():
    return Predictor(Pixelwise(), spec_of())


@pytest.fixture
def mapper():
    return Predictor(Bright(), scene_spec(3))


def write_photo(path, content=0):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(noise(8, 9) + content).save(path)
    return path


def mosaic(path, tile):
    path.write_text(GRID.format("".join(BAND.format(k, tile) for k in (1, 2, 3))))
    return path


@pytest.mark.parametrize(
    "names", [("A.png", "a.png"), *[tuple(unicodedata.normalize(f, "é.png") for f in ("NFC", "NFD"))]]
)
def test_names_that_are_one_elsewhere_are_written_with_a_note(predictor, tmp_path, names, capsys):
    for name in names:
        write_photo(tmp_path / "in" / name)
    if len(os.listdir(tmp_path / "in")) == 1:
        pytest.skip("this file system takes them for one")
    segment_files(predictor, tmp_path / "in", tmp_path / "out", MapOptions())
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
    assert "differ from others" in capsys.readouterr().err


@pytest.mark.parametrize(
    "names", [("A.png", "a.png"), *[tuple(unicodedata.normalize(f, "é.png") for f in ("NFC", "NFD"))]]
)
def test_names_that_are_one_here_are_refused(predictor, tmp_path, names, monkeypatch):
    for name in names:
        write_photo(tmp_path / "in" / name)
    monkeypatch.setattr(targets, "_folds_names", lambda folder: True)  # as on Windows and macOS
    with pytest.raises(InputError, match=r"would be the mask of both .* and .*, whose names are one on this file"):
        segment_files(predictor, tmp_path / "in", tmp_path / "out", MapOptions())
    assert not list(tmp_path.glob("out/*"))


def test_a_file_system_is_asked_whether_it_folds_names(tmp_path):
    (tmp_path / "x").touch()
    assert targets._folds_names(tmp_path) is (tmp_path / "X").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_the_folder_of_the_images_is_not_that_of_the_masks(predictor, tmp_path):
    """Also where no mask would replace an image, since the next run would take masks for images."""
    Image.fromarray(noise(8, 9)).save(tmp_path / "a.jpg")
    (tmp_path / "link").symlink_to(tmp_path)
    for output in (tmp_path, tmp_path / "link"):
        with pytest.raises(InputError, match="is the folder of the images, where masks"):
            segment_files(predictor, tmp_path, output, MapOptions())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "link"]


@pytest.mark.parametrize("how", ["folder", "list", "linked"])
def test_tiles_of_a_mosaic_are_not_replaced(mapper, tmp_path, how):
    (tmp_path / "tiles").mkdir()
    tile = write_scene(tmp_path / "tiles/a.tif", noise(3, 96, 96))
    before = tile.read_bytes()
    vrt = mosaic(tmp_path / "a.vrt", "tiles/a.tif")
    if how == "linked":
        (tmp_path / "out").symlink_to("tiles")
    if how == "list":
        (tmp_path / "list.txt").write_text("a.vrt\n")
    source = {"folder": tmp_path, "list": tmp_path / "list.txt", "linked": vrt}[how]
    with pytest.raises(InputError, match=r"a\.tif: the mask would overwrite .*a\.tif, which is read for .*a\.vrt|its"):
        segment_files(mapper, source, tmp_path / ("out" if how == "linked" else "tiles"), MapOptions())
    assert tile.read_bytes() == before


def test_an_image_behind_a_link_is_not_replaced(predictor, tmp_path):
    real = write_photo(tmp_path / "real/x.png")
    before = real.read_bytes()
    (tmp_path / "in").mkdir()
    (tmp_path / "in/x.png").symlink_to(real)
    with pytest.raises(InputError, match="the mask would overwrite its image"):
        segment_files(predictor, tmp_path / "in", tmp_path / "real", MapOptions())
    assert real.read_bytes() == before


def test_a_file_beside_a_mask_replaces_no_image(mapper, tmp_path):
    write_scene(tmp_path / "in.tif", noise(3, 96, 96))
    vrt = write_scene(tmp_path / "map.probabilities.tif", noise(3, 96, 96))
    (tmp_path / "list.txt").write_text(f"{vrt.name}\n")
    with pytest.raises(InputError, match="this file would overwrite its image"):
        segment_files(mapper, tmp_path / "list.txt", tmp_path / "map.tif", MapOptions(probabilities=True))


def test_a_link_at_the_place_of_a_mask_is_replaced_and_not_written_through(predictor, tmp_path):
    source, elsewhere = write_photo(tmp_path / "in/a.png"), tmp_path / "elsewhere.png"
    elsewhere.write_bytes(b"precious")
    (tmp_path / "out").mkdir()
    for target in (elsewhere, tmp_path / "absent.png"):
        (tmp_path / "out/a.png").unlink(missing_ok=True)
        (tmp_path / "out/a.png").symlink_to(target)
        segment_files(predictor, source, tmp_path / "out", MapOptions(), overwrite=True)
        assert not (tmp_path / "out/a.png").is_symlink()
        assert (tmp_path / "out/a.png").read_bytes().startswith(b"\x89PNG")
    assert elsewhere.read_bytes() == b"precious"
    assert not (tmp_path / "absent.png").exists()


def test_links_in_the_hidden_folder_are_not_written_through(predictor, tmp_path):
    source, elsewhere = write_photo(tmp_path / "in/a.png"), tmp_path / "elsewhere"
    elsewhere.write_bytes(b"precious")
    (tmp_path / "out" / FOLDER).mkdir(parents=True)
    (tmp_path / "out" / FOLDER / "a.png.json").symlink_to(elsewhere)
    segment_files(predictor, source, tmp_path / "out", MapOptions())
    (tmp_path / "out" / FOLDER / ".a.png.json.lock").symlink_to(elsewhere)
    with pytest.raises(InputError):
        segment_files(predictor, source, tmp_path / "out", MapOptions())
    assert elsewhere.read_bytes() == b"precious"


def test_files_of_others_are_only_replaced_on_request(predictor, tmp_path):
    """Such as the true masks of a data set, or masks that were corrected by hand."""
    for name in ("a.png", "b.png"):
        write_photo(tmp_path / "in" / name)
    truth = write_photo(tmp_path / "truth/a.png", 7)
    before = truth.read_bytes()
    with pytest.raises(InputError, match=r"a\.png: was not made by this program, or changed since, and would be repl"):
        segment_files(predictor, tmp_path / "in", tmp_path / "truth", MapOptions())
    assert truth.read_bytes() == before
    assert not (tmp_path / "truth/b.png").exists()
    segment_files(predictor, tmp_path / "in", tmp_path / "truth", MapOptions(), overwrite=True)
    assert truth.read_bytes() != before
    segment_files(predictor, tmp_path / "in", tmp_path / "truth", MapOptions())  # its own
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(truth)
    with pytest.raises(InputError, match="changed since"):
        segment_files(predictor, tmp_path / "in", tmp_path / "truth", MapOptions())


def test_files_beside_masks_and_tables_of_others_stay_too(mapper, tmp_path):
    source = write_scene(tmp_path / "in.tif", noise(3, 96, 96))
    (tmp_path / "out").mkdir()
    labels, table = tmp_path / "out/in.geojson", tmp_path / "out/statistics.csv"
    labels.write_text(json.dumps({"type": "FeatureCollection", "features": []}))
    table.write_text("patient,age\n")
    options, summaries = MapOptions(polygons="geojson"), Summaries(statistics=True)
    with pytest.raises(InputError, match=r"2 files, such as .*in\.geojson, were not made"):
        segment_files(mapper, source, tmp_path / "out", options, summaries=summaries)
    assert table.read_text() == "patient,age\n"
    segment_files(mapper, source, tmp_path / "out", options, overwrite=True, summaries=summaries)
    segment_files(mapper, source, tmp_path / "out", options, summaries=summaries)


def test_a_file_that_an_earlier_job_left_is_its_own(mapper, tmp_path):
    source = write_scene(tmp_path / "in.tif", noise(3, 96, 96))
    for options in (MapOptions(polygons="geojson"), MapOptions(overlap=0.2), MapOptions(polygons="geojson")):
        segment_files(mapper, source, tmp_path / "out", options)


def test_a_mask_that_was_being_made_is_made_again(predictor, tmp_path):
    source = write_photo(tmp_path / "in/a.png")
    segment_files(predictor, source, tmp_path / "out", MapOptions())
    record = tmp_path / "out" / FOLDER / "a.png.json"
    stored = json.loads(record.read_text())
    record.write_text(json.dumps({key: stored[key] for key in ("time", "job")}))
    segment_files(predictor, source, tmp_path / "out", MapOptions())
