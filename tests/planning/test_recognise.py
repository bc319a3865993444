import re

import h5py
import numpy as np
import pytest
from PIL import Image

import layouts
from mlla_seg.data.card import load_card
from mlla_seg.data.layouts import find_cases
from mlla_seg.errors import InputError
from mlla_seg.planning.command import provisional
from mlla_seg.planning.recognise import recognise

LAYOUTS = {
    "synapse": "synapse",
    "acdc": "acdc_ssl4mis",
    "amos_ct": "amos_ct",
    "word": "word",
    "btcv": "btcv",
    "atlas23": "atlas23",
    "flare22": "flare22",
    "kampala": "kampala",
    "sentinel2_india": "sentinel2_india",
    "wildfire": "wildfire",
    "potsdam": "potsdam",
    "image_folder": "image_folder",
    "geotiff_pairs": "geotiff_pairs",
    "new_brunswick": "new_brunswick",
    "loveda": "loveda",
}
"""Shipped cards, and what writes their layouts."""


@pytest.mark.parametrize("card", LAYOUTS)
def test_shipped_layouts_are_recognised_with_the_files_of_their_cards(tmp_path, card, monkeypatch):
    getattr(layouts, LAYOUTS[card])(tmp_path / "data")
    seen = recognise(tmp_path / "data")
    found = find_cases(provisional(card, seen, tmp_path), tmp_path / "data")
    known = find_cases(load_card(card), tmp_path / "data")

    def files(cases):
        return {(case.images[0][0], *case.masks[:1]) for case in cases}

    assert files(found) == files(known)
    if all(case.split for case in known):
        assert {case.images[0][0]: case.split for case in found if card not in ("amos_ct", "loveda")}.items() <= {
            case.images[0][0]: case.split for case in known
        }.items()


def test_nnunet_folders_are_told_by_their_description(tmp_path):
    layouts.nnunet(tmp_path)
    assert recognise(tmp_path).layout == {"format": "nnunet"}


def test_split_folders_of_arrays_are_told_by_their_names(tmp_path):
    layouts.acdc_transunet(tmp_path)
    assert recognise(tmp_path).layout["split_folders"] == {"test": "test", "train": "train", "valid": "val"}


def test_what_belongs_to_no_pair_is_told(tmp_path):
    layouts.image_folder(tmp_path)
    Image.new("L", (4, 4)).save(tmp_path / "images/town/alone.png")
    seen = recognise(tmp_path)
    assert seen.left_out == ["images/town/alone.png"]
    assert seen.what.startswith("6 .png images, such as images/town/0.png")


def test_masks_are_told_by_their_content_where_no_name_says_so(tmp_path):
    rng = np.random.default_rng(0)
    for folder, high in (("x", 255), ("y", 3)):
        (tmp_path / folder).mkdir()
        for k in range(4):
            values = rng.integers(0, high, (32, 32, 3) if folder == "x" else (32, 32), dtype=np.uint8)
            Image.fromarray(values).save(tmp_path / folder / f"{k}.png")
    assert recognise(tmp_path).layout["mask"] == "y/{case}.png"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "holds no image of a known format below it (it is empty)"),
        (["notes.txt"], "holds no image of a known format below it (notes.txt)"),
        (["a.png", "b.png"], "finds no images with masks of corresponding names among 2 files (a.png, b.png)"),
    ],
)
def test_folder_without_pairs_is_refused_with_what_it_holds(tmp_path, files, message):
    for name in files:
        Image.new("RGB", (4, 4)).save(tmp_path / name) if name.endswith("png") else (tmp_path / name).touch()
    with pytest.raises(InputError) as error:
        recognise(tmp_path)
    assert message in str(error.value)


def test_arrays_without_masks_are_no_data_set(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = np.zeros((2, 4, 4))
    with pytest.raises(InputError, match="finds no images with masks"):
        recognise(tmp_path)


@pytest.mark.parametrize(
    ("files", "mask"),
    [
        (["a.tif", "b.tif", "houses.gpkg"], "houses.gpkg"),
        (["a.tif", "b.tif", "a.gpkg", "b.gpkg"], "{case}.gpkg"),
        (["scenes/a.tif", "scenes/b.tif", "polygons/a.geojson", "polygons/b.geojson"], "polygons/{case}.geojson"),
        (["a.tif", "a_labels.shp"], "{case}_labels.shp"),
    ],
)
def test_polygons_are_labels_of_one_scene_or_of_all(tmp_path, files, mask):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    layout = recognise(tmp_path).layout
    assert layout["mask"] == mask
    assert re.fullmatch(layout["patterns"][0], files[0])["case"] == "a"


def test_vector_files_of_other_scenes_are_refused(tmp_path):
    for name in ("a.tif", "b.tif", "x.gpkg", "y.gpkg"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"2 scenes and 2 vector files \(x.gpkg, y.gpkg\)"):
        recognise(tmp_path)
