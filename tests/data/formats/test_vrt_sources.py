"""A VRT names files alone, and below the folder in which it was found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from layouts import write_scene
from mlla_seg.data.card import load_card
from mlla_seg.data.formats.geotiff import open_rasters
from mlla_seg.data.formats.vrt_sources import require_local
from mlla_seg.data.layouts import find_cases
from mlla_seg.data.reading import open_case
from mlla_seg.errors import InputError
from mlla_seg.inference.files import _require_below

PIXELS = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
SOURCE = "<SimpleSource><SourceFilename relativeToVRT='{}'>{}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>"
BAND = "<VRTRasterBand dataType='Byte' band='1'>{}</VRTRasterBand>"
VRT = f"<VRTDataset rasterXSize='4' rasterYSize='4'>{BAND}</VRTDataset>"


def write_vrt(path, place, relative=1):
    path.write_text(VRT.format(SOURCE.format(relative, place)))
    return path


def read(path):
    with open_rasters([path]) as raster:
        return raster.read(0, 0, *raster.shape)


@pytest.mark.parametrize("place", ["/vsicurl/http://127.0.0.1:9/a.tif", "http://127.0.0.1:9/a.tif", "WMS:x"])
def test_a_vrt_that_names_another_place_is_refused(tmp_path, place):
    write_vrt(tmp_path / "inner.tif", place, 0)
    write_vrt(tmp_path / "outer.vrt", "inner.tif")
    for name in ("inner.tif", "outer.vrt"):
        with pytest.raises(InputError, match=rf"{name}: names {place}, which is not a file"):
            read(tmp_path / name)


def test_a_description_of_a_service_is_refused(tmp_path):
    (tmp_path / "a.tif").write_text("<GDAL_WMS><Service name='TMS'/></GDAL_WMS>")
    with pytest.raises(InputError, match=r"a\.tif describes a service \(GDAL_WMS\), not an image"):
        read(tmp_path / "a.tif")


def test_all_files_that_stand_behind_a_vrt_are_found(tmp_path):
    write_scene(tmp_path / "a.tif", PIXELS)
    inner = write_vrt(tmp_path / "inner.vrt", "a.tif")
    outer = write_vrt(tmp_path / "outer.vrt", tmp_path / "inner.vrt", 0)
    assert require_local(outer, tmp_path) == [outer, inner, tmp_path / "a.tif"]
    np.testing.assert_array_equal(read(outer), PIXELS)


def test_only_what_the_user_typed_may_lead_out_of_its_folder(tmp_path):
    (tmp_path / "data").mkdir()
    write_scene(tmp_path / "a.tif", PIXELS)
    for place, relative in (("../a.tif", 1), (tmp_path / "a.tif", 0)):
        path = write_vrt(tmp_path / "data/a.vrt", place, relative)
        np.testing.assert_array_equal(read(path), PIXELS)  # as typed
        require_local(path, tmp_path)
        with pytest.raises(InputError, match=r"a\.vrt: names .*a\.tif, outside of .*data, where the VRT was found"):
            require_local(path, tmp_path / "data")
    (tmp_path / "data/a.tif").symlink_to(tmp_path / "a.tif")
    with pytest.raises(InputError, match="outside of"):
        require_local(write_vrt(tmp_path / "data/a.vrt", "a.tif"), tmp_path / "data")


def test_images_and_masks_of_a_data_set_stay_below_its_root(tmp_path):
    for folder in ("root/images", "root/masks"):
        (tmp_path / folder).mkdir(parents=True)
    write_scene(tmp_path / "root/images/a.tif", np.repeat(PIXELS, 3, axis=0))
    write_scene(tmp_path / "secret.tif", PIXELS)
    write_vrt(tmp_path / "root/masks/a.vrt", "../../secret.tif")
    card = load_card("image_folder")
    (case,) = find_cases(card, tmp_path / "root")
    with pytest.raises(InputError, match=r"a\.vrt: names .*secret\.tif, outside of .*root"), open_case(card, case):
        pass


def test_images_of_a_folder_stay_below_it(tmp_path):
    (tmp_path / "data").mkdir()
    write_scene(tmp_path / "secret.tif", PIXELS)
    path = write_vrt(tmp_path / "data/a.vrt", "../secret.tif")
    (tmp_path / "data/list.txt").write_text("a.vrt\n")
    _require_below(path, [path])  # typed
    for source in (tmp_path / "data", tmp_path / "data/list.txt"):
        with pytest.raises(InputError, match="outside of"):
            _require_below(source, [path])


@pytest.mark.parametrize("raw", ["subClass='VRTRawRasterBand'", "subclass='vrtrawrasterband'"])
def test_a_raw_band_of_any_file_is_refused(tmp_path, raw):
    text = VRT.format("<SourceFilename>/etc/passwd</SourceFilename>").replace("band='1'", f"band='1' {raw}")
    (tmp_path / "a.vrt").write_text(text)
    with pytest.raises(InputError, match=r"a\.vrt has a raw band, which shows any file as pixels"):
        read(tmp_path / "a.vrt")
    with pytest.raises(InputError, match=r"names passwd, which is no image of a known format"):
        require_local(write_vrt(tmp_path / "b.vrt", "/etc/passwd", 0), Path("/"))


def test_documents_that_never_end_are_refused(tmp_path):
    (tmp_path / "deep.vrt").write_text(VRT.format("<a>" * 100_000 + "</a>" * 100_000))
    write_vrt(tmp_path / "self.vrt", "self.vrt")
    (tmp_path / "entity.vrt").write_text("<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>" + VRT.format("&x;"))
    write_scene(tmp_path / "v0.vrt", PIXELS, driver="GTiff")
    for k in range(1, 70):
        write_vrt(tmp_path / f"v{k}.vrt", f"v{k - 1}.vrt")
    for name, said in {
        "deep": "are nested more than 64 deep",
        "self": "Recursion detected",
        "entity": r"defines XML entities \(DOCTYPE\)",
        "v69": "VRTs within VRTs, more than 64 deep",
    }.items():
        with pytest.raises(InputError, match=said):
            read(tmp_path / f"{name}.vrt")


def test_python_in_a_vrt_does_not_run(tmp_path):
    write_scene(tmp_path / "a.tif", PIXELS)
    code = (
        "<PixelFunctionType>f</PixelFunctionType><PixelFunctionLanguage>Python</PixelFunctionLanguage>"
        f"<PixelFunctionCode>open('{tmp_path}/run', 'w')</PixelFunctionCode>"
    )
    text = VRT.format(code + SOURCE.format(1, "a.tif")).replace("band='1'", "band='1' subClass='VRTDerivedRasterBand'")
    (tmp_path / "a.vrt").write_text(text)
    with pytest.raises(InputError, match="has been explicitly disabled"):
        read(tmp_path / "a.vrt")
    assert not (tmp_path / "run").exists()


def test_addresses_that_are_only_shown_are_no_reason(tmp_path):
    write_scene(tmp_path / "a.tif", PIXELS)
    shown = "<Metadata><MDI key='TIFFTAG_COPYRIGHT'>https://example.org/licence</MDI></Metadata>"
    path = write_vrt(tmp_path / "a.vrt", "a.tif")
    path.write_text(path.read_text().replace("<VRTRasterBand", f"{shown}<SRS>EPSG:32636</SRS><VRTRasterBand"))
    (tmp_path / "a.tif.aux.xml").write_text(f"<PAMDataset>{shown}</PAMDataset>")
    np.testing.assert_array_equal(read(path), PIXELS)
