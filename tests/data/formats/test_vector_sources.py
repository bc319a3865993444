"""Vector files are read by the driver of their suffix alone, and one layer of polygons is found in them."""

from __future__ import annotations

import json
import sqlite3

import numpy as np
import pytest
import shapely

from maps import write_polygons
from mlla_seg.data.formats.vector_sources import open_layer, parts_of
from mlla_seg.errors import InputError

BOX = [shapely.box(0, 0, 2, 2), shapely.box(4, 4, 6, 6)]


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".shp", ".GPKG"])
def test_features_in_a_box(tmp_path, suffix):
    path = write_polygons(tmp_path / f"a{suffix.lower()}", BOX, {"kind": ["roof", "tree"], "id": [3, 4]}, "EPSG:4326")
    path = path.rename(tmp_path / f"a{suffix}")
    layer = open_layer(path, attribute="kind")
    assert (layer.count, layer.crs) == (2, "EPSG:4326")
    features = layer.read((5, 5, 7, 7))
    assert list(features.values) == ["tree"]
    assert shapely.equals(features.geometries()[0], BOX[1])
    assert list(open_layer(path, attribute="id").read((5, 5, 7, 7)).values) == [4]
    assert len(layer.touching((1, 1, 5, 5))) == 2
    assert sum(len(batch.ids) for batch in layer.batches()) == 2
    assert layer.bounds() == (0, 0, 6, 6)


def test_attribute_values_of_mixed_json(tmp_path):
    features = [
        {"type": "Feature", "properties": own, "geometry": shapely.geometry.mapping(BOX[0])}
        for own in ({"fid": "roof"}, {"fid": 2, "FID": 1}, {}, {"fid": ["a", "b"]})
    ]
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    assert len(open_layer(tmp_path / "a.geojson", attribute="fid").read((0, 0, 9, 9)).values) == 4


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.geojson", b"<OGRVRTDataSource></OGRVRTDataSource>", "is not a GeoJSON .*begins with '<OGRVRT"),
        ("a.geojson", b'{"type": "Topology", "objects": {}}', "is not a GeoJSON"),
        ("a.geojson", b"https://example.org/wfs", "is not a GeoJSON"),
        ("a.geojson", b"", "is empty"),
        ("a.gpkg", b"<OGRVRTDataSource></OGRVRTDataSource>", "is not a GeoPackage"),
        ("a.gpkg", b"SQLite format 3\x00" + b"\x01" * 300, "cannot be read as .gpkg"),
        ("a.shp", b'{"type": "FeatureCollection", "features": []}', "is not a shapefile"),
        (
            "a.geojson",
            b'{"type": "FeatureCollection", "features": [], '
            b'"crs": {"type": "link", "properties": {"href": "http://example.org/crs"}}}',
            "names its CRS by an address",
        ),
    ],
)
def test_other_content_is_refused(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said):
        open_layer(tmp_path / name)


def test_virtual_tables_are_refused(tmp_path):
    path = write_polygons(tmp_path / "a.gpkg", BOX, {"id": [1, 2]}, "EPSG:4326")
    database = sqlite3.connect(path)
    database.execute("PRAGMA writable_schema = ON")
    statement = "CREATE VIRTUAL TABLE far USING VirtualOGR('http://example.org')"
    database.execute("INSERT INTO sqlite_master VALUES ('table', 'far', 'far', 0, ?)", (statement,))
    database.commit()
    database.close()
    with pytest.raises(InputError, match="its table far is virtual"):
        open_layer(path)


def test_damaged_tables_are_refused(tmp_path):
    path = write_polygons(tmp_path / "a.gpkg", BOX, {"id": [1, 2]}, "EPSG:4326")
    path.write_bytes(path.read_bytes().replace(b'CREATE TABLE "labels"', b'CREATE \xffABLE "labels"'))
    with pytest.raises(InputError, match=r"a\.gpkg: cannot be read as \.gpkg"):  # SQLite's message is not UTF-8
        open_layer(path)


def test_layer_and_attribute(tmp_path):
    path = write_polygons(tmp_path / "a.gpkg", BOX, {"id": [1, 2]}, "EPSG:4326", layer="roofs")
    write_polygons(path, [shapely.Point(1, 1)], {"id": [1]}, "EPSG:4326", layer="trees", kind="Point")
    assert open_layer(path).name == "roofs"
    write_polygons(path, BOX, {"id": [1, 2]}, "EPSG:4326", layer="extent", kind="MultiPolygon")
    with pytest.raises(InputError, match=r"has 2 layers of polygons, roofs, extent. Set layer in the card's layout"):
        open_layer(path)
    assert open_layer(path, "extent").name == "extent"
    with pytest.raises(InputError, match=r"Unknown layer .*'extend'. Did you mean extent"):
        open_layer(path, "extend")
    with pytest.raises(InputError, match=r"Unknown attribute of .*a.gpkg: 'class'.* Known: id"):
        open_layer(path, "extent", "class")


def test_layer_without_polygons(tmp_path):
    path = write_polygons(tmp_path / "a.gpkg", [shapely.Point(1, 1)], {"id": [1]}, "EPSG:4326", kind="Point")
    with pytest.raises(InputError, match=r"has no layer of polygons, but labels \(Point\)"):
        open_layer(path)
    with pytest.raises(InputError, match="no such file"):
        open_layer(tmp_path / "b.gpkg")


def test_files_of_a_shapefile(tmp_path):
    path = write_polygons(tmp_path / "a[1].shp", BOX, {"id": [1, 2]}, "EPSG:4326")
    (tmp_path / "a[1].tif").touch()
    assert {part.suffix for part in parts_of(path)} == {".shp", ".shx", ".dbf", ".prj", ".cpg"}
    (tmp_path / "a[1].shx").unlink()
    with pytest.raises(InputError, match=r"cannot be read as .shp"):
        open_layer(path)


def test_texts_in_another_encoding_are_refused(tmp_path):
    path = write_polygons(tmp_path / "a.shp", BOX, {"kind": ["forêt", "eau"]}, "EPSG:4326")
    layer = open_layer(path, attribute="kind")
    assert layer.read().values == ["forêt", "eau"]
    table = tmp_path / "a.dbf"
    table.write_bytes(table.read_bytes().replace("forêt".encode(), b"for\xeat "))
    with pytest.raises(InputError, match=r"a\.shp: its text 'for\\xeat *' is not in UTF-8.*its \.cpg"):
        layer.read()
    table.write_bytes(table.read_bytes().replace(b"kind", b"k\xeend"))
    with pytest.raises(InputError, match=r"is not in UTF-8"):
        open_layer(path)


def test_large_geojson_is_converted_in_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("mlla_seg.data.formats.vector_sources.BATCH", 7)
    boxes = shapely.box(*(np.arange(30.0) + k for k in (0, 0, 0.5, 0.5)))
    layer = open_layer(write_polygons(tmp_path / "a.geojson", boxes, {"id": [*range(30)]}, "EPSG:4326"), attribute="id")
    assert sorted(value for batch in layer.batches() for value in batch.values) == [*range(30)]
    assert layer.source != layer.path
