"""Data module of labelled images in WebDataset shards, read in a stream by timm."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from importlib.util import find_spec
from typing import Any

from timm.data import create_dataset
from torch.utils.data import DataLoader, IterableDataset

from mlla_seg.data.batches import serve_on
from mlla_seg.errors import InputError
from mlla_seg.pretraining.image_folder import ImageFolderDataModule
from mlla_seg.pretraining.image_spec import ImageSpec
from mlla_seg.pretraining.labelled import MODES


class ShardsDataModule(ImageFolderDataModule):
    """Images in shards of WebDataset, whose ``_info.json`` or ``info.json`` names the splits.

    A stream cannot be entered in its middle: a run resumed within an epoch reads the first images again.

    Args:
        root: Folder of the shards.
        classes: Number of classes.
        train_split: Name of the split to train on.
        val_split: Name of the split to validate on; ``null`` for none.
        options: Those of :class:`~mlla_seg.pretraining.image_folder.ImageFolderDataModule`.
    """

    def __init__(
        self, root: str, classes: int, train_split: str = "train", val_split: str | None = "validation", **options: Any
    ) -> None:
        if find_spec("webdataset") is None:
            raise InputError("Shards are read by the package webdataset, which is missing: pip install webdataset")
        super().__init__(root, **options)
        self.classes, self.train_split, self.val_split = classes, train_split, val_split

    @cached_property
    def spec(self) -> ImageSpec:  # type: ignore[override]
        names = tuple(map(str, range(self.classes)))
        return ImageSpec(self.channels, names, self.size, self.mean, self.std)

    @property
    def validates(self) -> bool:
        return self.val_split is not None

    def in_words(self) -> str:
        counts = [len(self._stream(self.train_split, True))]
        counts += [len(self._stream(self.val_split, False))] if self.val_split else []
        words = " and ".join(map(str, counts))
        height, width = self.size
        return (
            f"{self.root}: {words} training{' and validation' * self.validates} images of {self.classes} classes in "
            f"shards, as {MODES[self.channels]} of {height} x {width}"
        )

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader(self._stream(self.train_split, True), drop_last=True)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        return self._loader(self._stream(self.val_split, False), drop_last=False) if self.val_split else []

    def _stream(self, split: str, training: bool) -> Stream:
        """Return the images of a split for this process; timm's reader asks torch which of several it is."""
        world, _ = self._processes()
        try:
            images: Any = create_dataset(
                "wds/",
                str(self.root),
                split=split,
                is_training=training,
                batch_size=max(1, self.batch_size // world),
                seed=self.seed,
                input_img_mode=MODES[self.channels],
            )
        except (RuntimeError, KeyError, OSError) as error:
            raise InputError(
                f"{self.root}: the split {split} cannot be found ({error}). The folder should hold shards and an "
                "_info.json with splits, each with name, filenames, shard_lengths and num_samples."
            ) from error
        images.set_loader_cfg(num_workers=self.num_workers)
        images.transform = self.augment if training else self.frame
        return Stream(images)

    def _loader(self, images: Stream, drop_last: bool) -> DataLoader[Any]:
        return DataLoader(
            images,
            batch_size=max(1, self.batch_size // self._processes()[0]),
            drop_last=drop_last,
            num_workers=self.num_workers,
            worker_init_fn=serve_on,
        )


class Stream(IterableDataset[dict[str, Any]]):
    """Samples of an iterable dataset of timm."""

    def __init__(self, images: Any) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, on which the order depends."""
        self.images.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for image, label in self.images:
            yield {"image": image, "label": label}
