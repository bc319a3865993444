"""Blocks of single scenes as splits: apart by the gap, hidden from training, scored by their own pixels only."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from layouts import PLACE, write_scene
from mlla_seg import SegmentationDataModule
from mlla_seg.data.block_splits import draw_blocks, seen_in_training, traces
from mlla_seg.data.blocks import Part, pixel_size_m
from mlla_seg.data.boxes import Box, whole
from mlla_seg.data.card import load_card
from mlla_seg.data.formats.georeference import Ground
from mlla_seg.data.pseudonyms import pseudonyms
from mlla_seg.errors import InputError

SIZE = (97, 130)
SPLITS = {"blocks": "4x5", "gap_px": 6, "test": 0.25, "val": 0.2}


@pytest.fixture
def card():
    return replace(load_card("geotiff_pairs"), splits=SPLITS)


def own_pixels(drawn, gap):
    """A map of the pixels of each split."""
    parts = {split: Part("s", "s", (4, 5), cells, cells) for split, cells in drawn.items()}
    return {split: part.own(SIZE, gap, whole(SIZE)) for split, part in parts.items()}


@pytest.mark.parametrize("gap", [0, 1, 6, 7])
@pytest.mark.parametrize("seed", range(4))
def test_pixels_of_different_splits_are_apart_by_the_gap(card, gap, seed):
    from scipy.ndimage import distance_transform_cdt

    own = own_pixels(draw_blocks(replace(card, splits={**SPLITS, "seed": seed}), "s", None, 5), gap)
    for split, pixels in own.items():
        others = np.any([other for name, other in own.items() if name != split], axis=0)
        least = distance_transform_cdt(~others, "chessboard")[pixels].min()
        assert gap < least <= gap + 2  # at least the gap between them, and not much more
    if not gap:
        assert np.sum([*own.values()], axis=0).min() == np.sum([*own.values()], axis=0).max() == 1


def test_blocks_are_drawn_from_seed_and_name_and_dealt_to_folds(card):
    drawn = draw_blocks(card, "s", None, 5)
    assert drawn == draw_blocks(card, "s", None, 5) != draw_blocks(card, "other", None, 5)
    assert {split: len(cells) for split, cells in drawn.items()} == {"train": 11, "val": 4, "test": 5}
    folds = [draw_blocks(card, "s", k, 3) for k in range(3)]
    assert {fold["test"] for fold in folds} == {drawn["test"]}
    assert sorted(cell for fold in folds for cell in fold["val"]) == sorted(drawn["train"] + drawn["val"])
    with pytest.raises(InputError, match="15 blocks outside the test split cannot form 16 folds"):
        draw_blocks(card, "s", 0, 16)


def test_windows_hold_a_margin_inside_the_scene():
    part = Part("s", "s", (2, 2), ((1, 0),), ((1, 0),), margin=10)
    assert part.window((100, 80)) == Box((40, 0), (60, 50))


@pytest.fixture
def module(tmp_path):
    """A scene whose pixels are 0 to 99 in blocks that a given split does not have, and a data module of it."""

    def made(**options):
        rng = np.random.default_rng(0)
        mask = rng.integers(0, 2, (1, 96, 96)).astype(np.uint8)
        image = np.full((3, 96, 96), 50, np.uint8)
        how = {"blocks": "4x4", "gap_px": 4, "test": 0.25, "val": 0.125, **options.pop("splits", {})}
        cells = draw_blocks(replace(load_card("geotiff_pairs"), splits=how), "s", None, 5)
        for split, value in (("val", 150), ("test", 250)):
            for r, c in cells[split]:
                image[:, 24 * r : 24 * r + 24, 24 * c : 24 * c + 24] = value
        (tmp_path / "data").mkdir(exist_ok=True)
        write_scene(tmp_path / "data/s.tif", image)
        write_scene(tmp_path / "data/s_mask.tif", mask)
        defaults = {"crop": [32, 32], "augment": "aerial", "batch_size": 2, "num_workers": 0}
        more = {**defaults, "cache_dir": str(tmp_path / "cache"), "splits": how, **options}
        return SegmentationDataModule("geotiff_pairs", str(tmp_path / "data"), **more), cells

    return made


@pytest.mark.parametrize("balance", [0.0, 1.0])
def test_training_never_sees_pixels_of_other_splits(module, balance, capsys):
    data, cells = module(balance=balance)
    data.prepare_data()
    data.setup("fit")
    (case,) = data.train_set.cases
    image = case.image()
    assert np.nanmax(image) == np.nanmin(image) == 50 and data.spec.normalisation.mean == (50, 50, 50)
    samples = [data.train_set[epoch, 0] for epoch in range(12)]
    assert all(float(sample["image"].abs().max()) < 1e-3 for sample in samples)  # 50 is the mean
    assert all((sample["mask"] != 255).any() for sample in samples)
    assert len(data.train_set) == round(len(cells["train"]) * 24 * 24 / 32**2)
    said = capsys.readouterr().err
    assert re.search(r"s is divided into 4x4 blocks, splits 4 pixels apart: 10 train \(t\), 2 val \(v\), 4 test", said)
    assert len(re.findall("^    [tvx] [tvx] [tvx] [tvx]$", said, re.MULTILINE)) == 4 and "ignored" not in said


def test_scores_count_own_pixels_and_windows_look_around(module):
    data, cells = module()
    data.prepare_data()
    data.setup("test")
    assert [case.name for case in data.test_set.cases] == [f"s_r{r + 1}c{c + 1}" for r, c in cells["test"]]
    for case, (r, c) in zip(data.test_set.cases, cells["test"], strict=True):
        window = Box((24 * r - 32, 24 * c - 32), (88, 88)).inside((96, 96))
        assert case.shape == (1, 3, *window.sides)
        scored = case.mask()[0] != 255
        assert scored.any() and (case.image()[0, 0][scored] == 250).all() and scored.sum() == case.own <= 24 * 24
        assert (case.image() != 250).any()


def test_a_checkpoint_is_not_scored_on_blocks_that_it_saw(module):
    data, _ = module()
    saved = pseudonyms(traces(data.splits.train))
    assert not seen_in_training(data.splits.test + data.splits.val, saved)
    others = [module(splits=splits)[0].splits for splits in ({"seed": 1}, {"blocks": "6x6"})]
    assert all(seen_in_training(splits.test, saved) for splits in others)
    assert seen_in_training(others[0].test, pseudonyms(["s"]))  # trained on the whole scene
    whole_scene = [replace(data.splits.train[0], part=None)]
    assert seen_in_training(whole_scene, saved) == ["s"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"splits": {"gap_px": 23}}, "4x4 blocks of 96 x 96 pixels have sides of 24, no more than the gap of 23"),
        ({"splits": {"gap_px": None}}, r"--data\.splits: blocks of splits needs gap_px or gap_m"),
        ({"splits": {"val": None, "test": None}}, "blocks of splits needs val or test"),
        ({"splits": {"blocks": "4 by 4"}}, "blocks of splits is '4 by 4', expected rows x columns"),
        ({"crop": None, "resize": [32, 32]}, "blocks of splits need crops at the scale of the scene"),
    ],
)
def test_blocks_that_cannot_be_meant_are_refused(tmp_path, options, problem):
    how = {"blocks": "4x4", "gap_px": 4, "test": 0.25, "val": 0.125, **options.pop("splits", {})}
    given = {"crop": [32, 32], "cache_dir": str(tmp_path), **options, "splits": how}
    write_scene(tmp_path / "s.tif", np.ones((3, 96, 96), np.uint8))
    write_scene(tmp_path / "s_mask.tif", np.eye(96, dtype=np.uint8)[None])
    with pytest.raises(InputError, match=problem):
        SegmentationDataModule("geotiff_pairs", str(tmp_path), **given).prepare_data()


def test_size_of_pixels_in_metres_whatever_the_crs():
    from rasterio.crs import CRS

    utm = Ground(CRS.from_epsg(32636).to_wkt(), tuple(PLACE)[:6], (10, 10))
    assert pixel_size_m(utm) == pytest.approx(0.5, rel=0.01)
    mercator = Ground(CRS.from_epsg(3857).to_wkt(), (1, 0, 0, 0, -1, 8_399_738), (10, 10))  # 60 degrees north
    assert pixel_size_m(mercator) == pytest.approx(0.5, rel=0.01)
    assert pixel_size_m(replace(utm, crs=None)) is None
