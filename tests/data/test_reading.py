"""Reading scenes into the store: strips equal to whole scenes, band selection, masks on another grid, errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import Affine

from layouts import PLACE, away, write_scene
from mlla_seg.data import reading, sampling
from mlla_seg.data.card import load_card
from mlla_seg.data.datamodule import SegmentationDataModule
from mlla_seg.data.layouts import find_cases
from mlla_seg.data.store.notes import note_unlabelled_cases, note_warped
from mlla_seg.data.store.opening import open_store
from mlla_seg.errors import InputError

BASE = load_card("kampala")
CARD = replace(
    BASE,
    channels=("a", "b", "c"),
    layout={"format": "files", "patterns": [r"(?P<case>\w+)\.tif"], "mask": "{case}_mask.*", "tree": ""},
)
RNG = np.random.default_rng(0)


def pair(root, image=None, mask=None, name="one", place=PLACE, mask_place=None, **profile):
    image = RNG.integers(1, 250, (3, 50, 40)).astype(np.uint8) if image is None else image
    mask = RNG.integers(0, 2, (1, 50, 40)).astype(np.uint8) if mask is None else mask
    root.mkdir(exist_ok=True)
    write_scene(root / f"{name}.tif", image, transform=place, **profile)
    write_scene(root / f"{name}_mask.tif", mask, transform=mask_place or place)
    return image, mask


def build(root, card=CARD):
    card = replace(card, layout=replace(card.layout, patterns=[r"(?P<case>[a-z]+)\.tif"]))
    cases = find_cases(card, root)
    return open_store(card, cases, root, root / "store")


def refused(root, card=CARD):
    with pytest.raises(InputError) as caught:
        build(root, card)
    assert not [path for path in (root / "store").iterdir() if path.name.startswith(".")]  # nothing half-written
    return str(caught.value)


@pytest.fixture(params=["whole", "by strips"])
def strips(request, monkeypatch):
    if request.param == "by strips":
        monkeypatch.setattr(reading, "STRIP", 7 * 40)
        monkeypatch.setattr(sampling, "PART", 7 * 40)


@pytest.mark.usefixtures("strips")
def test_arrays_equal_the_scene(tmp_path):
    image, mask = pair(tmp_path)
    (case,) = build(tmp_path)
    assert case.shape == (1, 3, 50, 40)
    assert case.image().dtype == np.uint8
    np.testing.assert_array_equal(case.image()[0], image)
    np.testing.assert_array_equal(case.mask(), mask)
    assert case.voxels == tuple(np.bincount(mask.ravel()))
    assert (case.ground.shape, case.warped) == ((50, 40), {})
    assert Affine(*case.ground.transform) == PLACE


@pytest.mark.usefixtures("strips")
def test_what_has_no_data_is_nan_and_ignored(tmp_path):
    image = RNG.integers(1, 250, (3, 50, 40)).astype(np.uint16)
    image[1, 10:20, 5:9] = 0
    _, mask = pair(tmp_path, image, nodata=0)
    (case,) = build(tmp_path)
    assert case.image().dtype == np.float32
    expected = image.astype(np.float32)
    expected[1, 10:20, 5:9] = np.nan
    np.testing.assert_array_equal(case.image()[0], expected)
    labels = mask.copy()
    labels[0, 10:20, 5:9] = 255
    np.testing.assert_array_equal(case.mask(), labels)
    assert sum(case.voxels) == 50 * 40 - 40
    assert np.isfinite(case.values()).all()


@pytest.mark.usefixtures("strips")
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_nodata_tag_of_a_mask_hides_no_class(tmp_path, elsewhere):
    """Many programs tag 0, the background, as nodata; other tagged values are ignored."""
    _, mask = pair(tmp_path)
    mask[0, :5] = 7
    place = PLACE
    if elsewhere:  # on a grid of its own, to which masks are warped: 10 rows more above
        place = PLACE * Affine.translation(0, -10)
        mask = np.concatenate([np.full((1, 10, 40), 1, np.uint8), mask], axis=1)
    for nodata, ignored, notes in ((0, None, 1), (7, 5 * 40, 0)):
        write_scene(tmp_path / "one_mask.tif", np.where(mask == 7, nodata, mask), transform=place, nodata=nodata)
        (case,) = build(tmp_path)
        assert sum(case.voxels) == 50 * 40 - (ignored or 0)
        shown = case.mask()[0, 5:]
        np.testing.assert_array_equal(shown, mask[0, -45:])
        assert len(case.notes) == notes
    write_scene(tmp_path / "one_mask.tif", np.where(mask == 7, 0, mask), transform=place, nodata=0)
    assert build(tmp_path)[0].notes == (
        "its mask tags 0 as nodata, but the card has it as the class background, which it stays",
    )


@pytest.mark.usefixtures("strips")
def test_samples_are_even_and_of_what_they_say(tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "SAMPLE", 100)
    monkeypatch.setattr(sampling, "PLACES", 30)
    rows = np.arange(50)[:, None].repeat(40, axis=1)
    mask = (rows % 10 == 3).astype(np.uint8)[None]
    pair(tmp_path, np.stack([rows, rows * 2, rows * 3]).astype(np.uint8), mask)
    (case,) = build(tmp_path)
    values, places = case.values(), case.places()
    assert values.shape == (3, 100)
    np.testing.assert_array_equal(values[1], values[0] * 2)
    assert values[0].mean() == pytest.approx(24.5, abs=1)
    for k in (0, 1):
        own = places[places[:, 0] == k]
        assert len(own) == 30
        assert len({tuple(row) for row in own.tolist()}) == 30
        assert (mask[own[:, 1], own[:, 2], own[:, 3]] == k).all()
        assert own[:, 2].max() - own[:, 2].min() >= 40  # from everywhere


@pytest.mark.usefixtures("strips")
def test_wrong_values_of_all_strips_are_counted_together(tmp_path):
    mask = np.zeros((1, 50, 40), np.uint8)
    mask[0, ::10, 0] = 7
    pair(tmp_path, mask=mask)
    assert "one_mask.tif: mask value 7 in 5 voxels; expected 0 to 1" in refused(tmp_path)


def test_mask_on_another_grid_is_brought_to_the_image(tmp_path):
    mask = RNG.integers(0, 2, (1, 60, 60)).astype(np.uint8)
    pair(tmp_path, mask=mask, mask_place=PLACE * Affine.translation(-4, 5))
    (case,) = build(tmp_path)
    np.testing.assert_array_equal(case.mask()[0, 5:], mask[0, :45, 4:44])
    assert (case.mask()[0, :5] == 255).all()  # where the mask does not reach nothing is known
    assert list(case.warped) == ["one_mask.tif"]


def test_mask_may_be_an_image_file(tmp_path):
    pair(tmp_path)
    mask = RNG.integers(0, 2, (50, 40)).astype(np.uint8)
    (tmp_path / "one_mask.tif").unlink()
    Image.fromarray(mask).save(tmp_path / "one_mask.png")
    np.testing.assert_array_equal(build(tmp_path)[0].mask()[0], mask)
    (tmp_path / "one_mask.png").unlink()
    np.savez(tmp_path / "one_mask.npz", label=mask)
    assert "one_mask.npz: the mask of a scene must be a raster or an image file" in refused(tmp_path)


def test_two_masks_for_one_image_are_refused(tmp_path):
    pair(tmp_path)
    Image.fromarray(np.zeros((50, 40), np.uint8)).save(tmp_path / "one_mask.png")
    with pytest.raises(InputError, match=r"one\.tif: both one_mask\.png and one_mask\.tif match its mask; keep one"):
        build(tmp_path)


def test_channels_are_chosen_by_name(tmp_path):
    image, _ = pair(tmp_path)
    (case,) = build(tmp_path, CARD.using(["c", "a"]))
    np.testing.assert_array_equal(case.image()[0], image[[2, 0]])
    with pytest.raises(InputError, match=r"kampala: Unknown channel 'd'\. .*Known: a, b, c"):
        CARD.using(["d"])
    with pytest.raises(InputError, match="channels must be one or more names without repetition, got a, a"):
        CARD.using(["a", "a"])
    fixed = replace(CARD, normalisation={"mean": [1, 2, 3], "std": 1})
    with pytest.raises(InputError, match="mean of normalisation has 3 values, but the channels are a, b"):
        fixed.using(["a", "b"])


def test_channels_may_lie_in_files_of_their_own(tmp_path):
    card = replace(
        CARD, layout=replace(CARD.layout, extra_channels={"height": "dsm_{case}.tif", "slope": "no_{case}.tif"})
    )
    image, _ = pair(tmp_path)
    height = RNG.normal(100, 10, (1, 50, 40)).astype(np.float32)
    whole = np.pad(height, ((0, 0), (3, 3), (2, 2)))
    write_scene(tmp_path / "dsm_one.tif", whole, transform=PLACE * Affine.translation(-2, -3))  # covers more
    (case,) = build(tmp_path, card.using(["height", "b"]))
    np.testing.assert_array_equal(case.image()[0], np.stack([height[0], image[1]]))
    assert case.warped == {"dsm_one.tif": 1}
    assert build(tmp_path, card)[0].shape == (1, 3, 50, 40)  # not used, not needed
    with pytest.raises(InputError, match=r"one\.tif: its channel slope is missing, expected .*no_one\.tif\."):
        build(tmp_path, card.using(["a", "slope"]))


def test_bands_are_found_by_name_and_gaps_by_the_card(tmp_path):
    image = RNG.integers(1, 250, (3, 50, 40)).astype(np.uint8)
    image[:, 3, 4], image[0, 5, 6] = 7, 7
    pair(tmp_path, image)
    with rasterio.open(tmp_path / "one.tif", "r+") as file:
        file.descriptions = ("c", "b", "a")
    card = replace(CARD, nodata=7)
    (case,) = build(tmp_path, card)
    np.testing.assert_array_equal(case.image()[0, :, 5:], image[::-1, 5:])
    assert np.argwhere(case.mask()[0] == 255).tolist() == [[3, 4]]
    assert case.notes == ("bands by name: a, b, c (numbers 3, 2, 1)",)
    (case,) = build(tmp_path, replace(card, nodata_rule="any"))  # built anew
    assert [5, 6] in np.argwhere(case.mask()[0] == 255).tolist()


def test_transparent_pixels_of_photos_are_ignored(tmp_path):
    image = RNG.integers(1, 250, (9, 8, 4)).astype(np.uint8)
    image[..., 3] = np.where(np.arange(8) < 2, 0, 255)
    Image.fromarray(image).save(tmp_path / "one.png")
    Image.fromarray(np.ones((9, 8), np.uint8)).save(tmp_path / "one_mask.png")
    card = replace(CARD, layout=replace(CARD.layout, patterns=[r"(?P<case>[a-z]+)\.png"]))
    cases = find_cases(card, tmp_path)
    (case,) = open_store(card, cases, tmp_path, tmp_path / "store")
    assert case.shape == (1, 3, 9, 8)
    assert ((case.mask()[0] == 255) == (np.arange(8) < 2)).all()


def test_a_mask_that_covers_nothing_is_refused_and_a_part_is_said(tmp_path, capsys):
    pair(tmp_path, mask_place=PLACE * Affine.translation(1000, 0))
    assert "one_mask.tif: covers nothing of one.tif" in refused(tmp_path)
    pair(tmp_path, mask_place=PLACE * Affine.translation(20, 0))
    (case,) = build(tmp_path)
    note_warped([case])
    said = capsys.readouterr().err
    assert "1 of these cover only a part of their image, such as one_mask.tif with 50% of it" in said


def test_cases_without_a_pixel_to_learn_from_are_said(tmp_path, capsys):
    pair(tmp_path, mask=np.full((1, 50, 40), 255, np.uint8))
    note_unlabelled_cases(CARD, build(tmp_path))
    assert "1 of 1 cases of kampala, such as one, have no pixel with a class" in capsys.readouterr().err


def test_other_numbers_of_bands_are_refused(tmp_path):
    pair(tmp_path, RNG.integers(1, 9, (2, 50, 40)).astype(np.uint8))
    assert "one.tif: has 2 bands; the card kampala expects 3 (a, b, c)" in refused(tmp_path)


def test_damaged_block_is_named(tmp_path):
    pair(tmp_path, compress="deflate", tiled=True, blockxsize=16, blockysize=16)
    data = bytearray((tmp_path / "one.tif").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 500] = b"x" * 500
    (tmp_path / "one.tif").write_bytes(data)
    assert "one.tif: cannot be read as .tif (" in refused(tmp_path)


def test_scenes_of_two_splits_that_overlap_are_said(tmp_path, capsys):
    for name, place in (("mosaic_A", PLACE), ("mosaic_B", PLACE * Affine.translation(20, 0))):
        pair(tmp_path / "data", name=f"{name}_image", place=place)
        (tmp_path / f"data/{name}_image_mask.tif").rename(tmp_path / f"data/{name}_mask.tif")
    module = SegmentationDataModule("kampala", tmp_path / "data", crop=[16, 16], cache_dir=tmp_path / "cache")
    module.prepare_data()
    assert "note: B (test) overlaps A (train) on the ground, 50% of it: its scores" in capsys.readouterr().err
    module.prepare_data()  # as Lightning does
    assert "overlaps" not in capsys.readouterr().err
    pair(tmp_path / "data", name="mosaic_B_image", place=away(1))
    (tmp_path / "data/mosaic_B_image_mask.tif").rename(tmp_path / "data/mosaic_B_mask.tif")
    module = SegmentationDataModule("kampala", tmp_path / "data", crop=[16, 16], cache_dir=tmp_path / "cache")
    module.prepare_data()
    assert "overlaps" not in capsys.readouterr().err
