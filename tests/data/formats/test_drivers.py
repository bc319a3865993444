"""Files of a data set are opened with the driver of their suffix, without the network; others hold nobody up."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from layouts import write_scene
from mlla_seg.data.formats.drivers import OFFLINE
from mlla_seg.data.formats.geotiff import open_rasters
from mlla_seg.data.formats.registry import is_readable, read_image
from mlla_seg.data.image_files import find_images
from mlla_seg.data.tree import list_tree
from mlla_seg.errors import InputError

PIXELS = np.ones((1, 64, 64), np.uint8)
SERVICE = (
    "<GDAL_WMS><Service name='TMS'><ServerUrl>{}/${{z}}/${{x}}/${{y}}.png</ServerUrl></Service><DataWindow>"
    "<UpperLeftX>0</UpperLeftX><UpperLeftY>64</UpperLeftY><LowerRightX>64</LowerRightX><LowerRightY>0</LowerRightY><TileLevel>3"
    "</TileLevel><TileCountX>1</TileCountX><TileCountY>1</TileCountY></DataWindow><BandsCount>1</BandsCount></GDAL_WMS>"
)
BAND = "<VRTRasterBand dataType='Byte' band='1'>{}</VRTRasterBand>"
PAM = "<PAMDataset><Metadata domain='{}'><MDI key='{}'>{}</MDI></Metadata></PAMDataset>"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Address of a server in a process of its own, as GDAL holds all threads up, and a function for its requests."""
    log = tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(log.parent)]
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            yield re.search(r"http://[\d.:]+", process.stdout.readline())[0], log.read_text
        finally:
            process.terminate()


def vrt(band, before=""):
    return f"<VRTDataset rasterXSize='64' rasterYSize='64'>{before}{BAND.format(band)}</VRTDataset>"


def tagged(path, value):
    """A GeoTIFF whose own metadata name its overviews."""
    write_scene(path, PIXELS)
    with rasterio.open(path, "r+") as file:
        file.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=value)


def hostile(folder, address):
    """Write files that make GDAL ask a server, each in one way."""
    far = f"/vsicurl/{address}/a.tif"
    scene = {"transform": Affine(1, 0, 5, 0, -1, 9), "crs": "EPSG:32636"}
    texts = {f"service{suffix}": SERVICE.format(address) for suffix in (".tif", ".vrt", ".jp2", ".png", ".jpg")}
    texts |= {
        "cached.tif": f"<MRF_META><CachedSource><Source>{far}</Source></CachedSource></MRF_META>",
        "earth.tif": f"<kml><GroundOverlay><Icon><href>{address}/a.png</href></Icon></GroundOverlay></kml>",
        "tiles.tif": f'{{"stac_version": "1.0.0", "assets": {{"a": {{"href": "{address}/a.tif"}}}}}}',
        "plain.vrt": vrt(f"<SimpleSource><SourceFilename>{far}</SourceFilename></SimpleSource>"),
        "small.vrt": vrt(f"<simplesource><sourcefilename>{far}</sourcefilename></simplesource>"),
        "attribute.vrt": vrt(f"<SimpleSource SourceFilename='{far}'/>"),
        "coded.vrt": vrt(f"<SimpleSource><SourceFilename>&#47;vsicurl&#47;{address}</SourceFilename></SimpleSource>"),
        "nested.vrt": vrt("<SimpleSource><SourceFilename relativeToVRT='1'>cached.tif</SourceFilename></SimpleSource>"),
        "prefix.vrt": vrt(f"<SimpleSource><SourceFilename>wms:{address}</SourceFilename></SimpleSource>"),
        "overview.vrt": vrt(f"<Overview><SourceFilename>{far}</SourceFilename></Overview>"),
        "srs.vrt": vrt("", f"<SRS>{address}/srs</SRS>"),
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    write_scene(folder / "overview.tif", PIXELS, **scene)
    (folder / "overview.tif.aux.xml").write_text(PAM.format("OVERVIEWS", "OVERVIEW_FILE", far))
    write_scene(folder / "place.tif", PIXELS, **scene)
    (folder / "place.tif.aux.xml").write_text(PAM.format("GEOLOCATION", "X_DATASET", far))
    for ending in (".ovr", ".msk"):
        write_scene(folder / f"b{ending[1:]}.tif", PIXELS, **scene)
        (folder / f"b{ending[1:]}.tif{ending}").write_text(SERVICE.format(address))
    tagged(folder / "inside.tif", far)
    tagged(folder / "beside.tif", ":::BASE:::service.tif")


def test_no_file_of_a_folder_reaches_the_network(tmp_path, server):
    address, requests = server
    hostile(tmp_path, address)
    files = [path for (path,) in find_images(tmp_path, 1)]
    assert len(files) == 22
    read = set()
    for path in files:
        try:
            read_image(path)
            with open_rasters([path]) as raster:
                for dataset in raster.datasets:
                    dataset.overviews(1)
                    dataset.read(1, out_shape=(8, 8))
            read.add(path.name)
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017 - some are read
    assert read <= {"inside.tif", "beside.tif", "srs.vrt"}  # their own pixels
    assert requests() == ""


def test_the_options_alone_keep_gdal_off_the_network(tmp_path, server):
    address, requests = server
    hostile(tmp_path, address)
    warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
    with rasterio.Env(**OFFLINE):
        for path in find_images(tmp_path, 1):
            try:
                with rasterio.open(path[0]) as dataset:
                    dataset.read()
            except rasterio.errors.RasterioError:
                pass
    assert requests() == ""


def test_a_file_of_another_format_is_not_opened_by_its_content(tmp_path):
    write_scene(tmp_path / "a.tif", PIXELS)
    (tmp_path / "a.tif").rename(tmp_path / "a.jp2")
    with pytest.raises(InputError, match=r"a\.jp2: cannot be read as \.jp2 \(.*Is it really \.jp2"):
        read_image(tmp_path / "a.jp2")


def test_pipes_sockets_devices_and_folders_hold_nobody_up(tmp_path, capsys):
    kinds = {"a named pipe": "pipe", "a socket": "socket", "a device": "device"}
    for suffix in (".png", ".tif", ".nii.gz", ".npz"):
        os.mkfifo(tmp_path / f"pipe{suffix}")
        (tmp_path / f"device{suffix}").symlink_to("/dev/zero")
        (tmp_path / f"folder{suffix}").mkdir()
        with socket.socket(socket.AF_UNIX) as own:
            own.bind(str(tmp_path / f"socket{suffix}"))
        for kind, name in kinds.items():
            path = tmp_path / f"{name}{suffix}"
            assert not is_readable(path)
            for found in (lambda path=path: read_image(path), lambda path=path: find_images(path, 1)):
                with pytest.raises(InputError, match=f"{path.name}: is {kind}, not a file"):
                    found()
        with pytest.raises(InputError, match=f"folder{suffix}: contains no DICOM image"):
            read_image(tmp_path / f"folder{suffix}")
    write_scene(tmp_path / "a.tif", PIXELS)
    assert find_images(tmp_path, 1) == [(tmp_path / "a.tif",)]
    assert "have no known format and are skipped: " in capsys.readouterr().err
    tree = list_tree(tmp_path)
    assert (list(tree.names), len(tree.special)) == (["a.tif"], 12)
    (tmp_path / "list.txt").write_text("pipe.png\n")
    assert find_images(tmp_path / "list.txt", 1) == [(Path(tmp_path / "pipe.png"),)]  # named when its turn comes
