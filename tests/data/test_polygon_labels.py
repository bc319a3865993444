"""Polygons as labels of scenes: classes by attribute, order of overlaps, area, and what is said."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.warp import transform

from maps import noise, write_polygons
from mlla_seg.data.card import load_card
from mlla_seg.data.datamodule import SegmentationDataModule
from mlla_seg.data.layouts import find_cases
from mlla_seg.data.overrides import card_of as card_of_folder
from mlla_seg.data.polygon_checks import check_polygons
from mlla_seg.data.polygon_folder import note_polygon_folder
from mlla_seg.data.reading import open_case
from mlla_seg.data.store.opening import open_store
from mlla_seg.errors import InputError
from samples import write_card

CRS = "EPSG:32636"
CLASSES = [
    {"name": "background", "colour": [0, 0, 0]},
    {"name": "building", "colour": [255, 0, 0], "values": [True, "house"]},
    {"name": "water", "colour": [0, 0, 255]},
]
LAYOUT = {"format": "files", "tree": "images", "patterns": [r"(?P<case>scene\d)\.tif"], "mask": "labels.gpkg"}


def box(left, top, right, bottom):
    """A polygon by pixels of the first scene."""
    return shapely.box(450000 + left, 35000 - bottom, 450000 + right, 35000 - top)


def scene(folder, name="scene1", left=0, crs=CRS):
    place = rasterio.transform.from_origin(450000 + left, 35000, 1, 1)
    path = folder / f"{name}.tif"
    with rasterio.open(path, "w", "GTiff", 20, 10, 3, crs, place, "uint8") as file:
        file.write(noise(3, 10, 20))
    return path


def card_of(folder, layout, classes=CLASSES, **changes):
    path = write_card(
        folder / "card", "image_folder", classes=classes, layout={**LAYOUT, **layout}, splits={"seed": 0}, **changes
    )
    return load_card(path)


def labels_of(card, root):
    """Class indices and notes of the first scene."""
    with open_case(card, find_cases(card, root)[0]) as source:
        return np.concatenate([piece.labels[0] for piece in source.pieces]), source.notes


def stored_cases(card, root):
    cases = find_cases(card, root)
    return cases, open_store(card, cases, root, root / "cache")


def test_values_and_order_of_overlaps(tmp_path):
    scene(tmp_path)
    shapes = [box(8, 2, 12, 8), box(2, 2, 10, 6), box(0, 0, 3, 3), box(11, 3, 14, 5)]
    write_polygons(tmp_path / "labels.gpkg", shapes, {"type": ["water", "yes", "house", "unsure"]}, CRS)
    labels, notes = labels_of(card_of(tmp_path, {"attribute": "type", "ignored_values": ["unsure"]}), tmp_path)
    expected = np.zeros((10, 20), np.uint8)
    expected[2:6, 2:10] = expected[0:3, 0:3] = 1
    expected[2:8, 8:12] = 2  # listed later than building in the card
    expected[3:5, 11:14] = 255
    np.testing.assert_array_equal(labels, expected)
    assert notes == ()


def test_numbers_are_ids(tmp_path):
    scene(tmp_path)
    write_polygons(tmp_path / "labels.gpkg", [box(0, 0, 3, 3), box(5, 5, 9, 9)], {"code": [7.0, 4.0]}, CRS)
    classes = [CLASSES[0], {**CLASSES[2], "name": "roof", "id": 7}, {**CLASSES[2], "id": 4}]
    labels, _ = labels_of(card_of(tmp_path, {"attribute": "code"}, classes), tmp_path)
    assert (labels[1, 1], labels[6, 6], labels[4, 4]) == (1, 2, 0)


def test_every_polygon_is_the_second_class_and_the_rest_is_chosen(tmp_path):
    scene(tmp_path)
    write_polygons(tmp_path / "labels.gpkg", [box(0.6, 0, 3, 3)], {"id": [1]}, CRS)
    classes = [{"name": "roof", "colour": [9, 9, 9]}, {"name": "ground", "colour": [0, 0, 0]}]
    labels, _ = labels_of(card_of(tmp_path, {"rest": "ground"}, classes, largest_class=...), tmp_path)
    assert (labels == 0).sum() == 6
    touched, _ = labels_of(card_of(tmp_path / "b", {"rest": "ground", "all_touched": True}, classes), tmp_path)
    assert (touched == 0).sum() >= 9
    loose, _ = labels_of(card_of(tmp_path / "c", {}, classes), tmp_path)  # no background, no rest
    assert set(np.unique(loose)) == {1, 255}


def test_outside_the_labelled_area_is_ignored(tmp_path):
    scene(tmp_path)
    write_polygons(tmp_path / "labels.gpkg", [box(0, 0, 8, 8)], {"type": ["water"]}, CRS, layer="labels")
    write_polygons(tmp_path / "labels.gpkg", [box(0, 0, 5, 10), box(7, 0, 9, 10)], {"id": [1, 2]}, CRS, layer="extent")
    layout = {"attribute": "type", "layer": "labels", "area": "labels.gpkg", "area_layer": "extent"}
    labels, _ = labels_of(card_of(tmp_path, layout), tmp_path)
    assert (labels[:, [5, 6]] == 255).all()
    assert (labels[:, 9:] == 255).all()
    assert labels[0, :9].tolist() == [2] * 5 + [255] * 2 + [2, 0]
    with pytest.raises(InputError, match=r"scene1.tif .*its area is missing, expected aoi.gpkg"):
        find_cases(card_of(tmp_path / "b", {**layout, "area": "aoi.gpkg"}), tmp_path)


@pytest.mark.parametrize(("others", "value"), [("skip", 0), ("ignore", 255)])
def test_values_that_no_class_names(tmp_path, capsys, others, value):
    scene(tmp_path)
    shapes = [box(0, 0, 2, 2), box(4, 4, 6, 6), box(6, 6, 8, 8), box(8, 8, 9, 9)]
    write_polygons(tmp_path / "labels.gpkg", shapes, {"type": ["house", "shed", "shed", None]}, CRS)
    said = r"3 of 4 polygons have a value of type that no class names: 'shed' \(2\), none at all \(1\)"
    with pytest.raises(InputError, match=said):
        labels_of(card_of(tmp_path, {"attribute": "type"}), tmp_path)
    card = card_of(tmp_path / "b", {"attribute": "type", "others": others})
    labels, _ = labels_of(card, tmp_path)
    assert (labels[1, 1], labels[5, 5], labels[8, 8]) == (1, value, value)
    check_polygons(card, *stored_cases(card, tmp_path))
    assert "note: 3 polygons with another type" in capsys.readouterr().err


def test_geometries_that_are_no_polygons_are_counted(tmp_path, capsys):
    scene(tmp_path)
    bowtie = shapely.Polygon([(450010, 34990), (450014, 34994), (450014, 34990), (450010, 34994)])
    mixed = shapely.GeometryCollection(
        [box(0, 0, 2, 2), shapely.Point(450001, 34999), shapely.MultiPolygon([box(3, 0, 4, 2), box(5, 0, 6, 2)])]
    )
    high = shapely.force_3d(box(7, 0, 9, 2), 4.0)
    shapes = [mixed, high, bowtie, None, shapely.Polygon(), shapely.LineString([(450000, 35000), (450009, 34999)])]
    write_polygons(tmp_path / "labels.gpkg", shapes, {"type": ["water"] * 6}, CRS)
    card = card_of(tmp_path, {"attribute": "type"})
    cases, stored = stored_cases(card, tmp_path)
    assert stored[0].mask()[0, 0].tolist() == [2, 2, 0, 2, 0, 2, 0, 2, 2] + [0] * 11
    check_polygons(card, cases, stored)
    said = capsys.readouterr().err
    assert "in labels.gpkg, 2 features have no geometry" in said
    assert "only polygons are labels, so 1 Point, 1 LineString in labels.gpkg are left out" in said
    assert "in labels.gpkg, 1 polygons cross or touch their own outline" in said


def test_coordinates_that_are_no_numbers(tmp_path):
    scene(tmp_path)
    with np.errstate(invalid="ignore"):
        wrong = shapely.Polygon([(450000, 35000), (np.nan, 35000), (450002, 34990)])
    write_polygons(tmp_path / "labels.gpkg", [box(0, 0, 2, 2), wrong], {"type": ["water"] * 2}, CRS)
    with pytest.raises(InputError, match=r"labels.gpkg: geometry 2 has a coordinate that is NaN"):
        labels_of(card_of(tmp_path, {"attribute": "type"}), tmp_path)


def test_polygons_and_scenes_that_do_not_meet(tmp_path, capsys):
    scene(tmp_path)
    scene(tmp_path, "scene2", left=1000)
    write_polygons(tmp_path / "labels.gpkg", [box(0, 0, 2, 2), box(500, 0, 502, 2)], {"type": ["water"] * 2}, CRS)
    card = card_of(tmp_path, {"attribute": "type"})
    check_polygons(card, *stored_cases(card, tmp_path))
    said = capsys.readouterr().err
    assert "in labels.gpkg, 1 of 2 polygons lie outside the images in use" in said
    assert "1 of 2 scenes, such as scene2, have no polygon" in said
    swapped = shapely.transform(np.array([shapely.box(32.5, 0.3, 32.6, 0.4)]), lambda p: p[:, ::-1])
    write_polygons(tmp_path / "wrong.geojson", swapped, {"type": ["water"]}, "EPSG:4326")
    card = card_of(tmp_path / "b", {"attribute": "type", "mask": "wrong.geojson"})
    with pytest.raises(InputError, match=r"none of its 1 polygons touches scene1 and 1 others: .*x 0.3 to 0.4"):
        check_polygons(card, *stored_cases(card, tmp_path))


def test_a_changed_part_of_a_shapefile_rebuilds_the_store(tmp_path):
    scene(tmp_path)
    for kind in ("water", "house"):
        write_polygons(tmp_path / "new.shp", [box(0, 0, 2, 2)], {"type": [kind]}, CRS)
        if kind == "water":
            for part in tmp_path.glob("new.*"):
                part.rename(tmp_path / f"labels{part.suffix}")
        else:
            (tmp_path / "new.dbf").replace(tmp_path / "labels.dbf")
        _, (stored,) = stored_cases(card_of(tmp_path / kind, {"mask": "labels.shp", "attribute": "type"}), tmp_path)
        assert stored.mask()[0, 0, 0] == {"water": 2, "house": 1}[kind]


def test_one_file_per_scene_and_no_crs(tmp_path):
    scene(tmp_path, "scene1")
    scene(tmp_path, "scene2")
    (tmp_path / "labels").mkdir()
    for k in (1, 2):
        write_polygons(tmp_path / f"labels/scene{k}.gpkg", [box(0, 0, k, 1)], {"type": ["water"]}, None)
    write_polygons(tmp_path / "labels/scene3.gpkg", [box(0, 0, 1, 1)], {"type": ["water"]}, None)
    card = card_of(tmp_path, {"mask": "labels/{case}.*", "attribute": "type"})
    cases, stored = stored_cases(card, tmp_path)
    assert [case.voxels[2] for case in stored] == [1, 2]
    assert stored[0].notes == ("scene1.gpkg has no CRS; its coordinates are taken to be in that of the image",)
    assert cases[0].files[-1].name == "scene1.gpkg"


def test_photos_have_no_place(tmp_path):
    from PIL import Image

    Image.fromarray(noise(4, 4, 3)).save(tmp_path / "scene1.png")
    write_polygons(tmp_path / "labels.gpkg", [box(0, 0, 2, 2)], {"type": ["water"]}, CRS)
    card = card_of(tmp_path, {"patterns": [r"(?P<case>scene\d)\.png"], "attribute": "type"})
    with pytest.raises(InputError, match=r"polygons label rasters with a georeference, and scene1.png is none"):
        labels_of(card, tmp_path)


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        ({}, "values of polygons need the name of their attribute"),
        ({"mask": "a.tif", "attribute": "type"}, "attribute is for labels as polygons, but mask names no vector file"),
        ({"attribute": "type", "rest": "lake"}, "rest is 'lake', which is no class"),
        ({"attribute": "type", "ignored_values": ["house"]}, "'house' is listed by building and by ignored_values"),
        ({"attribute": "type", "others": "drop"}, "Unknown others of layout"),
        ({"attribute": 3}, "attribute of layout is 3, expected the attribute of polygons"),
    ],
)
def test_keys_that_contradict_each_other(tmp_path, layout, said):
    with pytest.raises(InputError, match=said):
        card_of(tmp_path, layout)


def test_training_on_polygons(tmp_path, capsys):
    scene(tmp_path)
    write_polygons(tmp_path / "labels.gpkg", [box(0, 0, 9, 5)], {"type": ["tree"]}, CRS)
    card = card_of(tmp_path, {"attribute": "type", "others": "skip"})
    data = SegmentationDataModule(
        str(card.folder), str(tmp_path), crop=[8, 8], augment="none", cache_dir=str(tmp_path / "cache")
    )
    with pytest.raises(InputError, match=r"these values of type: 'tree' \(1\). Compare them"):
        data.prepare_data()
    assert Path(tmp_path / "cache").is_dir()


def folder_of(tmp_path, fields, suffixes=(".gpkg", ".geojson"), name="scene{k}"):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for k in (1, 2):
        scene(tmp_path / "images", f"scene{k}")
    for k, suffix in enumerate(suffixes, 1):
        crs = "EPSG:4326" if suffix == ".geojson" else CRS
        shape = np.array([box(0, 0, 4, 4)])
        if suffix == ".geojson":
            shape = shapely.transform(shape, lambda p: np.stack(transform(CRS, "EPSG:4326", *p.T), axis=1))
        write_polygons(tmp_path / "labels" / f"{name.format(k=k)}{suffix}", shape, fields, crs)
    return tmp_path


def test_folder_without_a_card(tmp_path, capsys):
    root = folder_of(tmp_path, {"class": ["roof"], "class_id": [3]})
    card = card_of_folder(None, root)
    note_polygon_folder(card)
    said = capsys.readouterr().err
    assert "the attribute class of the polygons tells their class; classes background, roof; channels red" in said
    _, stored = stored_cases(card, root)
    assert [case.voxels for case in stored] == [(184, 16), (184, 16)]


def test_folder_without_a_card_and_one_file_without_classes(tmp_path, capsys):
    root = folder_of(tmp_path, {"name": ["a"]}, [".shp"], "all")
    card = card_of_folder(None, root)
    note_polygon_folder(card)
    said = capsys.readouterr().err
    assert "not all files have a text class, so every polygon is of one class" in said
    assert "classes background, labelled; channels red, green, blue" in said
    assert "labels/all.shp labels all images" in said
    _, stored = stored_cases(card, root)
    assert [case.voxels for case in stored] == [(184, 16), (184, 16)]


def test_polygons_without_a_class_in_a_folder_without_a_card(tmp_path):
    root = folder_of(tmp_path, {"class": [""]})
    with pytest.raises(InputError, match="the attribute class names the classes, but 2 polygons have none"):
        card_of_folder(None, root)


def test_small_polygons_and_unread_geometries_are_said(tmp_path, capsys):
    import pyogrio

    scene(tmp_path)
    corner = shapely.to_wkb(shapely.Polygon([(0, 0), (1, 0), (0, 1)]))
    triangle = corner[:1] + (17).to_bytes(4, "little") + corner[5:]  # stored like a polygon
    shapes = shapely.to_wkb([box(2, 2, 6, 6), box(8.6, 3, 9.4, 3.4), box(8.4, 3, 9.4, 5)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # triangles are an extension of GeoPackage
        pyogrio.raw.write(
            tmp_path / "labels.gpkg",
            np.array([*shapes, triangle], object),
            [],
            [],
            geometry_type="Unknown",
            crs=CRS,
            driver="GPKG",
        )
    for touched in (False, True):
        card = card_of(tmp_path / str(touched), {"all_touched": touched}, CLASSES[:1] + CLASSES[2:])
        check_polygons(card, *stored_cases(card, tmp_path))
        said = capsys.readouterr().err
        assert "in labels.gpkg, 1 features have geometries that are not read and label nothing (1 Triangle)." in said
        assert ("in labels.gpkg, 1 polygons are so small that they hold no pixel's centre" in said) == (not touched)
