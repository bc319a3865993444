"""Places that only the user may name: typed texts pass through unmangled, files that name them are refused."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest

from layouts import write_scene
from mlla_seg.data.formats.geotiff import open_rasters
from mlla_seg.data.formats.locations import Remote, located, refuse_stac
from mlla_seg.errors import InputError

PIXELS = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)


def read(location):
    with open_rasters([location]) as raster:
        return raster.read(0, 0, *raster.shape)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("/vsizip//data/a.zip/b.tif", "b.tif"),
        ("/vsis3/bucket/key.tif", "key.tif"),
        ("https://example.org/x.tif?signature=abc", "x.tif"),
        ("s3://bucket/folder/x.tif", "x.tif"),
        ('NETCDF:"a.nc":band', "band"),
    ],
)
def test_typed_places_stay_as_they_are(text, name):
    place = located(text)
    assert isinstance(place, Remote)
    assert (place.text, place.name) == (text, name)
    assert "signature" not in str(place)  # messages do not print it


@pytest.mark.parametrize("text", ["a.tif", "/data/a.tif", "C:/data/a.tif", "../vsi.tif"])
def test_paths_stay_paths(text):
    assert located(text) == Path(text)


def test_an_archive_is_read(tmp_path):
    write_scene(tmp_path / "a.tif", PIXELS)
    with ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.tif", "inside/b.tif")
    np.testing.assert_array_equal(read(located(f"/vsizip/{tmp_path}/a.zip/inside/b.tif")), PIXELS)


def test_an_address_is_read(tmp_path):
    write_scene(tmp_path / "a.tif", PIXELS)
    # In a process of its own, as GDAL does not let other threads run while it opens a file.
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            address = re.search(r"http://[\d.:]+", server.stdout.readline())[0]
            np.testing.assert_array_equal(read(located(f"{address}/a.tif")), PIXELS)
            with pytest.raises(InputError, match=r"/absent\.tif: cannot be read as \.tif"):
                read(located(f"{address}/absent.tif"))
        finally:
            server.terminate()


def test_a_stac_item_says_what_it_names(tmp_path):
    item = tmp_path / "item.json"
    item.write_text('{"stac_version": "1.0.0", "assets": {"B04": {"href": "https://example.org/B04.tif"}}}')
    with pytest.raises(InputError, match=r"is a STAC item, .* B04: https://example\.org/B04\.tif\."):
        refuse_stac(item)
    item.write_text("{}")
    refuse_stac(item)
