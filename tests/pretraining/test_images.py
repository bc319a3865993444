"""Images of masked pretraining: which are seen, which are left out, and which patches are masked."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import rasterio
import rasterio.transform
import torch
from PIL import Image

from layouts import hippocampus
from mlla_seg.data.pseudonyms import known_patients
from mlla_seg.errors import InputError
from mlla_seg.pretraining.images import ImagesDataModule, draw_visible
from samples import write_nifti


def module(folder, tmp_path, **options):
    given = {"root": str(folder), "cache_dir": str(tmp_path / "cache"), "batch_size": 1, "crop": [32, 64]}
    return ImagesDataModule(**{**given, "num_workers": 0, "augment": "none", **options})


def names(data):
    return [case.name for case in data.by_split["train"]]


def photos(folder, count=3, suffix=".png", channels=3):
    folder.mkdir(parents=True)
    for k in range(count):
        pixels = np.random.default_rng(k).integers(0, 255, (40, 70, channels), np.uint8)
        Image.fromarray(pixels.squeeze()).save(folder / f"photo_{k}{suffix}")
    return folder


def test_a_share_of_the_patches_with_data_is_masked():
    valid = np.ones((96, 64), bool)
    for seed in range(3):
        visible = draw_visible(valid, 16, 0.6, np.random.default_rng(seed))
        assert visible.shape == (6, 4)
        assert (~visible).sum() == 14  # round(0.6 * 24)
    valid[:, 32:] = False
    masked = ~draw_visible(valid, 32, 0.6, np.random.default_rng(0))
    assert masked.sum() == 2
    assert not masked[:, 1].any()
    assert draw_visible(np.zeros((32, 32), bool), 32, 0.6, np.random.default_rng(0)).all()
    assert draw_visible(np.ones((50, 20), bool), 32, 0.99, np.random.default_rng(0)).sum() == 1


def test_only_the_training_split_of_a_card_is_seen(tmp_path, capsys):
    hippocampus(tmp_path / "data", cases=10)
    data = module(tmp_path / "data", tmp_path, card="hippocampus", context=1, patch=8)
    assert len(names(data)) == 7
    assert data.in_words().endswith("images of 7 cases; 3 of validation and test are not seen")
    data.prepare_data()
    data.setup("fit")
    sample, again, other = data.train_set[0, 1], data.train_set[0, 1], data.train_set[1, 1]
    assert sample["image"].shape == (3, 32, 64)
    assert sample["visible"].shape == (4, 8)
    assert sample["name"] in names(data)
    assert all(torch.equal(sample[key], again[key]) for key in ("image", "visible", "valid"))
    assert not torch.equal(sample["visible"], other["visible"])
    held = [case.patient for case in data.held_out]
    assert len(known_patients(names(data), data.state_dict())) == 7
    assert not known_patients(held, data.state_dict())


def test_further_images_that_are_held_out_are_recognised_by_name_file_and_content(tmp_path, capsys):
    hippocampus(tmp_path / "data", cases=10)
    folder = tmp_path / "more"
    folder.mkdir()
    first = module(tmp_path / "data", tmp_path, card="hippocampus")
    train, held = first.splits.train, first.held_out
    shutil.copy(held[0].images[0][0], folder / "renamed.nii.gz")
    shutil.copy(train[0].images[0][0], folder / "known.nii.gz")
    (folder / "link.nii.gz").symlink_to(held[1].images[0][0])
    write_nifti(folder / f"{held[2].name}_0000.nii.gz", np.random.default_rng(0).random((30, 40, 3)).astype(np.float32))
    write_nifti(folder / "new.nii.gz", np.random.default_rng(1).random((30, 40, 3)).astype(np.float32))
    data = module(tmp_path / "data", tmp_path, card="hippocampus", unlabelled=str(folder))
    assert [case.name for case in data.further] == ["new"]
    assert names(data)[-1] == "new"
    said = capsys.readouterr().err
    assert f"note: 3 of 5 images in {folder}" in said
    assert f"note: 1 of 5 images in {folder}, such as known, are in the training split already." in said
    assert ": images of 8 cases, 1 of them without labels; 3 of validation" in data.in_words()


def test_a_folder_of_photos_needs_no_card_and_no_masks(tmp_path, capsys):
    folder = photos(tmp_path / "photos")
    Image.fromarray(np.zeros((40, 70), np.uint8)).save(folder / "photo_0_mask.png")
    data = module(folder, tmp_path)
    assert names(data) == ["photo_0", "photo_1", "photo_2"]
    assert data.spec.channels == ("red", "green", "blue")
    assert "1 of 4 files" in capsys.readouterr().err
    assert "3 images without labels, such as photo_0; channels red, green, blue" in data.in_words()
    data.setup("fit")
    images = torch.stack([data.train_set[k]["image"] for k in range(len(data.train_set))])
    assert images.mean().abs() < 0.2
    assert 0.8 < images.std() < 1.2


def test_pixels_of_a_scene_without_data_are_not_compared(tmp_path):
    folder = tmp_path / "scenes"
    folder.mkdir()
    pixels = np.random.default_rng(0).random((5, 32, 64)).astype(np.float32)
    pixels[:, :, 40:] = -9999
    size = {"height": 32, "width": 64, "count": 5, "dtype": "float32", "nodata": -9999}
    size["transform"] = rasterio.transform.from_origin(0, 0, 10, 10)
    with rasterio.open(folder / "a.tif", "w", driver="GTiff", **size) as file:
        file.write(pixels)
    data = module(folder, tmp_path)
    data.setup("fit")
    sample = data.train_set[0]
    assert sample["image"].shape == (5, 32, 64)
    assert sample["image"].isfinite().all()
    assert sample["valid"][:, :40].all()
    assert not sample["valid"][:, 40:].any()


def test_volumes_without_a_card_are_standardised_each_by_itself(tmp_path):
    (tmp_path / "mr").mkdir()
    for k, scale in enumerate((1, 1000)):
        array = np.random.default_rng(k).random((30, 40, 3)).astype(np.float32) * scale
        write_nifti(tmp_path / "mr" / f"scan{k}_0000.nii.gz", array)
    data = module(tmp_path / "mr", tmp_path, context=1)
    assert names(data) == ["scan0", "scan1"]
    assert data.spec.in_channels == 3
    data.setup("fit")
    assert all(0.5 < data.train_set[k]["image"].std() < 2 for k in range(len(data.train_set)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_ratio": 1.0}, "--data.mask_ratio must be between 0 and 1, got 1.0"),
        ({"patch": 10}, "--data.patch must be one of 8, 16, 32, got 10"),
        ({"fold": 0}, "--data.splits and --data.fold divide labelled cases"),
        ({"root": ""}, "--data.root is missing"),
        ({"crop": [8, 32, 32]}, r"--data.crop takes \[height, width\], as masked pretraining sees slices"),
    ],
)
def test_wrong_options_are_refused(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        module(photos(tmp_path / "photos"), tmp_path, **options)


def test_a_list_of_images_is_read_as_predict_reads_it(tmp_path):
    folder = photos(tmp_path / "photos")
    (tmp_path / "few.txt").write_text("photos/photo_2.png\nphotos/photo_0.png\n")
    assert names(module(tmp_path / "few.txt", tmp_path)) == ["photo_0", "photo_2"]
    assert len(names(module(folder, tmp_path))) == 3


def test_a_folder_without_images_and_names_that_repeat_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        module(tmp_path / "nowhere", tmp_path)
    with pytest.raises(InputError, match="contains no image of a supported format"):
        module(tmp_path / "empty", tmp_path)
    folder = photos(tmp_path / "photos")
    Image.fromarray(np.zeros((40, 70, 3), np.uint8)).save(folder / "photo_0.bmp")
    with pytest.raises(InputError, match=r"photo_0\.bmp and photo_0\.png have the same name"):
        module(folder, tmp_path).splits  # noqa: B018
