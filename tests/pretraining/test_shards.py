"""Shards need another package, which is said in a line; with it, timm reads them."""

from __future__ import annotations

import io
import json
import tarfile
from importlib.util import find_spec

import pytest
from class_folders import write_class_folders

from mlla_seg.errors import InputError
from mlla_seg.pretraining.shards import ShardsDataModule


@pytest.mark.skipif(find_spec("webdataset") is not None, reason="webdataset is there")
def test_the_missing_package_is_named(tmp_path):
    with pytest.raises(InputError, match="package webdataset, which is missing: pip install webdataset"):
        ShardsDataModule(str(tmp_path), 3)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves files open
def test_shards_are_read(tmp_path):
    pytest.importorskip("webdataset")
    root, splits = write_class_folders(tmp_path), {}
    for split, folder in (("train", "train"), ("validation", "val")):
        files = sorted((root / folder).glob("*/*.png"))
        with tarfile.open(root / f"{split}-0.tar", "w") as archive:
            for number, file in enumerate(files):
                label = str(number * 3 // len(files)).encode()
                for suffix, content in (("png", file.read_bytes()), ("cls", label)):
                    entry = tarfile.TarInfo(f"{number:04d}.{suffix}")
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
        names = {"name": split, "filenames": [f"{split}-0.tar"]}
        splits[split] = {**names, "shard_lengths": [len(files)], "num_samples": len(files)}
    (root / "_info.json").write_text(json.dumps({"splits": splits}))
    data = ShardsDataModule(str(root), 3, batch_size=4, size=[32, 32], channels=1, num_workers=0)
    assert "12 and 6 training and validation images of 3 classes in shards" in data.in_words()
    labels = [label for batch in data.val_dataloader() for label in batch["label"].tolist()]
    assert labels == [0, 0, 1, 1, 2, 2]
    assert next(iter(data.train_dataloader()))["image"].shape == (4, 1, 32, 32)
    with pytest.raises(InputError, match="the split test cannot be found"):
        ShardsDataModule(str(root), 3, train_split="test").in_words()
