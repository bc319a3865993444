"""Folders of images: which files are one image, and what becomes of the others when one fails."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from jobs import Pixelwise, spec_of
from layouts import write_scene
from mlla_seg import Predictor
from mlla_seg.data.formats.registry import read_image
from mlla_seg.data.image_files import find_images
from mlla_seg.errors import InputError
from mlla_seg.inference.files import images_at, segment_files
from mlla_seg.inference.scenes import MapOptions


def photo(path, channels=1):
    shape = (8, 9) if channels == 1 else (8, 9, channels)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)).save(path)


def names(folder, channels):
    return [[path.name for path in files] for files in find_images(folder, channels)]


def test_files_numbered_from_0000_are_channels_of_an_image(tmp_path, capsys):
    for name in ("a_0000.png", "a_0001.png", "b_0001.png", "b_0000.png"):
        photo(tmp_path / name)
    assert names(tmp_path, 2) == [["a_0000.png", "a_0001.png"], ["b_0000.png", "b_0001.png"]]
    said = capsys.readouterr().err
    assert (
        said.count("note: 2 images of 2 channels by the numbers of the files, such as a_0000.png ... a_0001.png") == 1
    )
    assert names(tmp_path, 1) == [["a_0000.png"], ["a_0001.png"], ["b_0000.png"], ["b_0001.png"]]


@pytest.mark.parametrize("numbers", [(1, 2, 3), (0, 1), (0, 1, 2, 3), (2021, 2022, 2023)])
def test_other_numbers_are_names(tmp_path, capsys, numbers):
    for number in numbers:
        photo(tmp_path / f"DSC_{number:04}.png")
    assert names(tmp_path, 3) == [[f"DSC_{number:04}.png"] for number in numbers]
    assert capsys.readouterr().err == ""


def test_photos_that_have_all_channels_are_images_whatever_their_numbers(tmp_path):
    for number in range(3):
        photo(tmp_path / f"DSC_{number:04}.png", 3)
    assert names(tmp_path, 3) == [[f"DSC_{number:04}.png"] for number in range(3)]


def test_a_damaged_channel_stops_no_other_image(tmp_path, capsys):
    for name in ("a_0000.png", "a_0001.png", "b_0000.png", "b_0001.png"):
        photo(tmp_path / name)
    (tmp_path / "a_0000.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"(?s)1 of 2 images have no mask.*a_0000\.png: cannot be read"):
        segment_files(Predictor(Pixelwise(2), spec_of(2)), tmp_path, tmp_path / "out", MapOptions())
    assert [path.name for path in (tmp_path / "out").glob("[!.]*")] == ["b_0000.png"]


def test_what_is_wrong_with_all_images_is_said_once(tmp_path):
    for name in ("a.tif", "b.tif"):
        write_scene(tmp_path / name, np.ones((2, 70, 70), np.uint8))
    spec = spec_of(2, patch_size=[64, 64])
    with pytest.raises(InputError) as caught:
        segment_files(Predictor(Pixelwise(2), spec), tmp_path, tmp_path / "out", MapOptions(window=8))
    assert "2 of 2 images have no mask" in str(caught.value)
    assert str(caught.value).count("--window 8") == 1
    assert "(2 images)" in str(caught.value)


def test_pages_of_a_tiff_are_refused_with_their_number(tmp_path):
    page = Image.fromarray(np.zeros((8, 9), np.uint8))
    page.save(tmp_path / "stack.tif", save_all=True, append_images=[page] * 5)
    with pytest.raises(InputError, match=r"stack\.tif: holds 6 images \(pages\), and only single ones are read"):
        read_image(tmp_path / "stack.tif")
    page.save(tmp_path / "one.tif")
    assert read_image(tmp_path / "one.tif").array.shape == (1, 1, 8, 9)


def test_whatever_goes_wrong_with_one_image_the_others_have_masks(tmp_path, capsys, monkeypatch):
    for name in ("a.png", "b.png", "c.png"):
        photo(tmp_path / name)
    predictor = Predictor(Pixelwise(), spec_of())
    read = predictor.read

    def fails(files):
        if files[0].name == "b.png":
            raise MemoryError("cannot allocate\n9 GiB")
        return read(files)

    monkeypatch.setattr(predictor, "read", fails)
    with pytest.raises(InputError, match=r"(?s)1 of 3 images have no mask.*b\.png: does not fit into memory \(cannot"):
        segment_files(predictor, tmp_path, tmp_path / "out", MapOptions())
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == ["a.png", "c.png"]
    assert "2 of 3 masks written" in capsys.readouterr().out


def test_photos_without_data_somewhere_get_masks_that_say_so(tmp_path):
    image = np.full((8, 9, 4), 200, np.uint8)
    image[:2, :, 3] = 0
    Image.fromarray(image).save(tmp_path / "a.png")
    predictor = Predictor(Pixelwise(3), spec_of(3))
    segment_files(predictor, str(tmp_path / "a.png"), tmp_path / "mask.png", MapOptions())
    mask = np.array(Image.open(tmp_path / "mask.png"))
    assert ((mask == 255) == (np.arange(8)[:, None] < 2)).all()
    np.testing.assert_array_equal(predictor(tmp_path / "a.png") == 255, mask == 255)


def test_typed_files_of_a_scene_may_be_separated_by_commas(tmp_path):
    for name in ("a,b.png", "a.png", "b.png"):
        photo(tmp_path / name)
    two = f"{tmp_path}/a.png,{tmp_path}/b.png"
    assert images_at(two, "ab") == [(tmp_path / "a.png", tmp_path / "b.png")]
    assert images_at(f"{tmp_path}/a,b.png", "a") == [(tmp_path / "a,b.png",)]
    with pytest.raises(InputError, match="no such file"):
        images_at(f"{two},{tmp_path}/c.png", "abc")


@pytest.mark.parametrize("name", ["-n", "a b ", "a*", "a[0]", "$_{a}", "{case}", "ä", "a,b", "a.1", "a\nb"])
def test_special_signs_in_names_of_files_and_folders(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    photo(folder / f"{name}.png")
    photo(folder / "a.PNG")
    segment_files(Predictor(Pixelwise(), spec_of()), folder, tmp_path / "out" / name, MapOptions())
    assert {path.name for path in (tmp_path / "out" / name).glob("[!.]*")} == {f"{name}.png", "a.png"}


def test_lists_are_read_as_editors_save_them(tmp_path):
    for name in ("a.png", "b,c.png", "d.png"):
        photo(tmp_path / name)
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa.png\r\n\r\nb,c.png\r\na.png, d.png\r\n")
    assert names(tmp_path / "list.txt", 1) == [["a.png"], ["b,c.png"], ["a.png", "d.png"]]


def test_names_that_are_not_utf8_are_kept(tmp_path, capsys):
    photo(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / os.fsdecode(b"b\xe9ton.png"))
    (tmp_path / "list.txt").write_bytes(b"b\xe9ton.png\n")
    segment_files(Predictor(Pixelwise(), spec_of()), tmp_path / "list.txt", tmp_path / "out", MapOptions())
    assert [os.fsencode(path.name) for path in (tmp_path / "out").glob("[!.]*")] == [b"b\xe9ton.png"]
    assert r"b\xe9ton.png" in capsys.readouterr().out


def test_images_of_one_name_in_several_folders_overwrite_no_mask(tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        photo(tmp_path / folder / "1.png")
    (tmp_path / "list.txt").write_text("a/1.png\nb/1.png\n")
    with pytest.raises(
        InputError, match=r"would be the mask of both .*a/1\.png and .*b/1\.png; segment them into diff"
    ):
        segment_files(Predictor(Pixelwise(), spec_of()), tmp_path / "list.txt", tmp_path / "out", MapOptions())
    assert not (tmp_path / "out").exists()


def test_what_is_no_image_is_said(tmp_path, capsys):
    (tmp_path / "sub").mkdir()
    (tmp_path / "notes.md").touch()
    with pytest.raises(InputError, match=r"but notes\.md, sub/\. Folders inside are only searched for DICOM"):
        find_images(tmp_path, 1)
    photo(tmp_path / "a.JPG")
    assert names(tmp_path, 1) == [["a.JPG"]]
    said = capsys.readouterr().err
    assert f"note: 1 files in {tmp_path} have no known format and are skipped: notes.md" in said
    assert (
        f"note: 1 files in {tmp_path} are folders without DICOM, which are not searched, and are skipped: sub" in said
    )
