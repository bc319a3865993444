"""Images with a file for each channel, in folders of their own."""

from __future__ import annotations

import numpy as np
import pytest

from jobs import Pixelwise, spec_of
from layouts import write_scene
from mlla_seg import Predictor
from mlla_seg.data.channel_folders import channel_folders
from mlla_seg.data.formats.registry import read_image
from mlla_seg.errors import InputError
from mlla_seg.inference.files import images_at, segment_files
from mlla_seg.inference.scenes import MapOptions

BANDS = ("B04", "B8A", "B02")


def scene(folder, bands=BANDS, start="T32TQM_20220512_", size=40):
    folder.mkdir(parents=True)
    for k, band in enumerate(bands):
        write_scene(folder / f"{start}{band}.tif", np.full((1, size, size), 10 * (k + 1), np.uint16))
    return folder


def test_bands_are_found_in_the_order_of_the_channels_and_the_rest_is_said(tmp_path, capsys):
    scene(tmp_path / "one")
    scene(tmp_path / "two", (*BANDS, "B11"), "T32_2021_")
    found = [[path.name[-7:-4] for path in files] for files in images_at(tmp_path, ("B02", "B4", "B8A"))]
    assert found == [["B02", "B04", "B8A"]] * 2
    said = capsys.readouterr().err
    assert "note: 2 images of 3 channels by the names of the files in a folder, such as one/T32TQM_20220512_B02" in said
    assert "note: 1 files beside them are no channels of the network and ignored, such as" in said
    assert [len(files) for files in images_at(str(tmp_path / "two"), ("B02", "B04"))] == [2]


def test_the_longest_name_counts(tmp_path):
    scene(tmp_path / "a", ("red", "red_edge", "nir"), "")
    (files,) = channel_folders(tmp_path, ("red edge", "red")).values()
    assert [path.stem for path in files] == ["red_edge", "red"]


@pytest.mark.parametrize("bands", [("B02", "B04"), ("B02", "B04", "B8A", "x_B02")])
def test_a_folder_with_a_channel_missing_or_twice_is_no_image(tmp_path, bands):
    scene(tmp_path / "one", bands)
    with pytest.raises(InputError, match=r"DICOM or for files with the names of all channels \(B02, B04, B8A\)"):
        images_at(tmp_path, ("B02", "B04", "B8A"))


def test_images_that_are_named_as_channels_are_images(tmp_path):
    for name in ("red", "green"):
        write_scene(tmp_path / f"{name}.tif", np.zeros((2, 40, 40), np.uint8))
    assert len(images_at(tmp_path, ("red", "green"))) == 2


def test_the_map_has_the_name_of_the_folder(tmp_path):
    for name in ("one", "two"):
        scene(tmp_path / "new" / name, ("channel_2", "channel_1", "channel_0"))
    predictor = Predictor(Pixelwise(3), spec_of(3))
    segment_files(predictor, tmp_path / "new", tmp_path / "maps", MapOptions())
    assert sorted(path.name for path in (tmp_path / "maps").glob("[!.]*.tif")) == ["one.tif", "two.tif"]
    segment_files(predictor, str(tmp_path / "new/one"), tmp_path / "alone", MapOptions())
    files = ",".join(str(tmp_path / f"new/one/T32TQM_20220512_channel_{k}.tif") for k in range(3))
    segment_files(predictor, files, tmp_path / "typed.tif", MapOptions())
    np.testing.assert_array_equal(
        read_image(tmp_path / "alone/one.tif").array, read_image(tmp_path / "typed.tif").array
    )
