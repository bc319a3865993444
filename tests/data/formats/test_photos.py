"""Photos are read as a viewer shows them, in the depth of their files."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from PIL import Image

from mlla_seg.data.formats.photos import ORIENTATION, TURNED, TURNED_MASK
from mlla_seg.data.formats.registry import read_image, read_mask
from mlla_seg.data.formats.voxel_grids import require_same_grid
from mlla_seg.errors import InputError

PIXELS = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)


def test_the_camera_s_orientation_is_obeyed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by a quarter to view
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    array = read_image(tmp_path / "a.png").array
    assert array.shape == (1, 3, 4, 6)
    np.testing.assert_array_equal(np.moveaxis(array[0], 0, 2), np.rot90(PIXELS, -1))


def pair(folder, of_image, of_mask, side=6):
    """Write a photo and its mask as PNG, with an EXIF orientation each, and read them."""
    for name, pixels, orientation in (("a", PIXELS[:side], of_image), ("b", PIXELS[:side, :, 0], of_mask)):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        Image.fromarray(pixels).save(folder / f"{name}.png", exif=exif)
    return folder / "a.png", read_image(folder / "a.png"), folder / "b.png", read_mask(folder / "b.png")


@pytest.mark.parametrize("orientation", range(10))
def test_photos_and_masks_that_are_turned_are_noted(orientation, tmp_path):
    _, image, _, mask = pair(tmp_path, orientation, orientation)
    turned = 2 <= orientation <= 8
    assert (image.notes, mask.notes) == (((TURNED,), (TURNED_MASK,)) if turned else ((), ()))


def test_a_mask_of_the_pixels_as_stored_is_refused_with_the_reason(tmp_path):
    reason = (
        "b.png: shape .* The EXIF orientation of the {} turns it, as viewers do, and the {} has no such tag: draw the"
    )
    for of_image, of_mask, which, lacks in ((6, 1, "image", "mask"), (1, 8, "mask", "image")):
        with pytest.raises(InputError, match=reason.format(which, lacks)):
            require_same_grid(*pair(tmp_path, of_image, of_mask))
    require_same_grid(*pair(tmp_path, 6, 8))
    require_same_grid(*pair(tmp_path, 6, 1, side=4))  # cannot be told apart, but is noted


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize("bands", [1, 3])
def test_sixteen_bits_stay_sixteen(tmp_path, bands):
    deep = np.arange(bands * 5 * 7, dtype=np.uint16).reshape(bands, 5, 7) * 100
    with rasterio.open(tmp_path / "a.png", "w", driver="PNG", width=7, height=5, count=bands, dtype="uint16") as file:
        file.write(deep)
    array = read_image(tmp_path / "a.png").array
    assert array.dtype == np.uint16
    np.testing.assert_array_equal(array[0], deep)


def test_one_bit_gives_zero_and_one(tmp_path):
    mask = np.indices((4, 6)).sum(axis=0) % 2 == 0
    Image.fromarray(mask).save(tmp_path / "a.png")
    for read in (read_image, read_mask):
        array = read(tmp_path / "a.png").array
        assert array.dtype == np.uint8
        np.testing.assert_array_equal(array[0, 0], mask)


def test_an_indexed_file_has_colours_as_an_image_and_ids_as_a_mask(tmp_path):
    image = Image.fromarray(np.array([[0, 2], [1, 0]], np.uint8), mode="P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    image.save(tmp_path / "a.png", transparency=0)
    assert read_mask(tmp_path / "a.png").array.tolist() == [[[[0, 2], [1, 0]]]]
    assert read_mask(tmp_path / "a.png", colours=True).array[0, :, 0, 1].tolist() == [0, 255, 0]
    picture = read_image(tmp_path / "a.png")
    assert picture.alpha and picture.array[0, :, 0].tolist() == [[0, 0], [0, 255], [0, 0], [0, 255]]


def test_too_large_a_photo_says_what_to_do(tmp_path, monkeypatch):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(InputError, match=r"a\.png: has too many pixels for a photo .*Save it as a GeoTIFF"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("world", ["ortho.jgw", "ortho.jpgw", "ortho.WLD"])
def test_world_files_that_are_not_used_are_said(tmp_path, world):
    path = tmp_path / "ortho.jpg"
    Image.new("RGB", (4, 4)).save(path)
    assert read_image(path).notes == ()
    (tmp_path / world).write_text("1\n0\n0\n-1\n0\n0\n")
    (said,) = read_image(path).notes
    assert said.startswith("a world file tells its place on the ground")


def test_an_animation_is_refused(tmp_path):
    first, second = Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)
    first.save(tmp_path / "a.png", save_all=True, append_images=[second])
    with pytest.raises(InputError, match=r"a\.png: is an animation of 2 images, and only single ones are read"):
        read_image(tmp_path / "a.png")
