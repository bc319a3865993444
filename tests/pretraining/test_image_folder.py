"""Images in class folders: what is found, left out and refused; samples depend on seed, epoch and index alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from class_folders import CLASSES, write_class_folders
from PIL import Image

from mlla_seg.errors import InputError
from mlla_seg.pretraining.augmentation import augmentation, posterize
from mlla_seg.pretraining.image_folder import ImageFolderDataModule
from mlla_seg.pretraining.labelled import UNCOUNTED, Images, TrainingImages, ValidationImages


@pytest.fixture
def root(tmp_path):
    return write_class_folders(tmp_path / "images")


def data_of(root, **options):
    return ImageFolderDataModule(str(root), **{"batch_size": 4, "size": [24, 32], "num_workers": 0, **options})


def test_images_are_found_and_described(root):
    data = data_of(root)
    assert data.in_words() == f"{root}: 12 training images of 3 classes, 6 validation images, as RGB of 24 x 32"
    spec = data.spec.to_dict()
    assert spec["classes"] == list(CLASSES)
    assert spec["mean"] == [0.485, 0.456, 0.406]
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (4, 3, 24, 32)
    assert [batch["label"].shape for batch in data.val_dataloader()] == [(4,), (2,)]


@pytest.mark.parametrize(("channels", "policy"), [(1, "rand-m9-mstd0.5-inc1"), (3, "rand-m9-mstd0.5-inc1"), (4, None)])
def test_channels(root, channels, policy):
    data = data_of(root, channels=channels, auto_augment=policy)
    assert next(iter(data.train_dataloader()))["image"].shape == (4, channels, 24, 32)
    assert len(data.spec.to_dict()["mean"]) == channels


def test_a_sample_depends_on_seed_epoch_and_index(root):
    data = data_of(root)
    samples = TrainingImages(Images(data.train_images, 3, data.augment), seed=0)
    first = samples[0, 5]["image"]
    torch.rand(7)
    torch.testing.assert_close(samples[0, 5]["image"], first, rtol=0, atol=0)
    assert not torch.equal(samples[1, 5]["image"], first)
    assert not torch.equal(TrainingImages(samples.images, seed=1)[0, 5]["image"], first)


def test_a_resumed_loader_goes_on_where_it_was(root):
    data = data_of(root)
    whole = list(data.train_dataloader())
    data.start = (0, 1)
    torch.testing.assert_close(list(data.train_dataloader()), whole[1:], rtol=0, atol=0)


def test_processes_get_equally_many_validation_images_and_each_counts_once(root):
    images = Images(data_of(root).val_images, 3, lambda image: torch.zeros(()))
    samples = ValidationImages(images, world=4)
    labels = [samples[index]["label"] for index in range(len(samples))]
    assert labels == [0, 0, 1, 1, 2, 2, UNCOUNTED, UNCOUNTED]


def test_validation_has_the_classes_of_training(root, capsys):
    """Otherwise a class that is missing from val would shift the labels of all that follow."""
    for path in (root / "val" / CLASSES[0]).iterdir():
        path.unlink()
    (root / "val/unseen").mkdir()
    Image.new("L", (8, 8)).save(root / "val/unseen/0.png")
    data = data_of(root)
    assert [label for _, label in data.val_images.reader.samples] == [1, 1, 2, 2]
    said = capsys.readouterr().err
    assert f"1 files below {root / 'val'} are left out, such as unseen/0.png" in said
    assert "of no training class" in said


def test_without_validation_images_nothing_is_validated(root):
    (root / "val").rename(root / "other")
    data = data_of(root)
    assert not data.validates
    assert data.val_dataloader() == []
    assert "nothing to validate" in data.in_words()


def test_other_files_and_equal_names_are_noted(root, capsys):
    (root / "train/across/readme.txt").touch()
    (root / "train/more/along").mkdir(parents=True)
    Image.new("L", (8, 8)).save(root / "train/more/along/x.png")
    assert len(data_of(root).train_images) == 13
    said = capsys.readouterr().err
    assert "1 files below" in said
    assert "such as across/readme.txt" in said
    assert "1 classes are in several folders" in said
    assert "such as along" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 5}, "--data.channels must be 1, 3, 4, got 5"),
        ({"channels": 4}, "set it to null for 4 channels"),
        ({"size": [32]}, r"--data.size needs 2 numbers, got \[32\]"),
        ({"mean": [0.5]}, r"--data.mean needs 3 numbers, got \[0.5\]"),
        ({"std": [0.5, 0.0, 0.5]}, "--data.std must be above 0"),
        ({"auto_augment": "random"}, "--data.auto_augment random is no policy of timm"),
    ],
)
def test_wrong_options_are_refused(root, options, message):
    with pytest.raises(InputError, match=message):
        data_of(root, **options)


def test_wrong_folders_are_refused(root):
    with pytest.raises(InputError, match=r"absent/train does not exist\. It should hold train/CLASS"):
        _ = data_of(root / "absent").spec
    Image.new("L", (8, 8)).save(root / "train/loose.png")
    with pytest.raises(InputError, match="holds images outside class folders"):
        _ = data_of(root).spec
    (root / "empty/train").mkdir(parents=True)
    with pytest.raises(InputError, match="Found 0 images"):
        _ = data_of(root / "empty").spec


def test_files_that_cannot_be_used_are_named(root):
    (root / "train/across/0.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    Image.fromarray(np.full((20, 20), 3000, np.uint16)).save(root / "train/across/1.png")
    data = data_of(root)
    samples = TrainingImages(Images(data.train_images, 3, data.augment), seed=0)
    with pytest.raises(InputError, match=r"across/0\.png: cannot be read as an image"):
        samples[0, 0]
    with pytest.raises(InputError, match=r"across/1\.png: has more than 8 bits per channel \(I;16"):
        samples[0, 1]


def test_posterising_keeps_a_bit_at_least():
    """Timm asks Pillow for none in about one of 400 images of the published recipe."""
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    assert np.unique(posterize(image, 0)).tolist() == [0, 128]
    assert len(np.unique(posterize(image, 3))) == 8
    transform = augmentation("rand-m10-n1-inc1", 1, input_size=(1, 16, 16), mean=(0.5,), std=(0.2,))
    (policy,) = (step for step in transform.transforms if hasattr(step, "ops"))
    policy.ops = [operation for operation in policy.ops if operation.name.startswith("Posterize")]
    for operation in policy.ops:
        operation.prob = 1.0
    assert transform(image).shape == (1, 16, 16)
