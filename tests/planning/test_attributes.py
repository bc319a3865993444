import numpy as np
import pyogrio
import pytest
import shapely

from mlla_seg.planning.attributes import survey_polygons


def write(path, **fields):
    shapes = shapely.to_wkb(np.array([shapely.box(k, 0, k + 1, 1) for k in range(6)], dtype=object))
    values = [
        np.array(column) if isinstance(column[0], int) else np.array(column, object) for column in fields.values()
    ]
    pyogrio.raw.write(path, shapes, values, list(fields), geometry_type="Polygon", crs="EPSG:32636", driver="GPKG")
    return path


@pytest.mark.parametrize(
    ("fields", "attribute", "counts"),
    [
        ({"fid_old": [1, 2, 3, 4, 5, 6], "landuse": ["a", "a", "b", "b", "b", "a"]}, "landuse", {"a": 3, "b": 3}),
        ({"quality": ["x", "y"] * 3, "type_id": [1, 1, 2, 3, 3, 3]}, "type_id", {"1": 2, "2": 1, "3": 3}),
        ({"quality": ["x", "y"] * 3}, "quality", {"x": 3, "y": 3}),
        ({"source": ["survey"] * 6}, None, {"": 6}),
        ({"class": ["a", None, "a", "b", "b", "b"]}, "class", {"a": 2, "b": 3, "": 1}),
        ({"class": ["a", "b", *[None] * 4]}, None, {"": 6}),
        ({"quality": ["a", None, "a", "b", "b", "b"]}, None, {"": 6}),
        ({"kind": ["building"] * 6, "id": [1] * 6}, "kind", {"building": 6}),
        ({"kind": ["a"] * 6, "quality": ["x", "y"] * 3}, "quality", {"x": 3, "y": 3}),
        ({"class": ["1"] * 6}, None, {"": 6}),
    ],
)
def test_attribute_with_few_values_and_a_usual_name_tells_the_class(tmp_path, fields, attribute, counts):
    assert survey_polygons([write(tmp_path / "a.gpkg", **fields)]) == (attribute, counts)


def test_attribute_must_be_in_all_files(tmp_path):
    files = [write(tmp_path / "a.gpkg", kind=["a", "b"] * 3), write(tmp_path / "b.gpkg", other=["a", "b"] * 3)]
    assert survey_polygons(files) == (None, {"": 12})
