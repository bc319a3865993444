"""Data module of labelled images in class folders, such as ImageNet's, with timm's readers and augmentation."""

from __future__ import annotations

import os
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_dataset, create_transform
from torch.utils.data import DataLoader, DistributedSampler

from mlla_seg.data.batches import serve_on, training_batches
from mlla_seg.errors import InputError
from mlla_seg.pretraining.augmentation import augmentation
from mlla_seg.pretraining.image_spec import ImageSpec
from mlla_seg.pretraining.labelled import MODES, Images, TrainingImages, ValidationImages
from mlla_seg.pretraining.parts import PretrainingData
from mlla_seg.progress import note

LAYOUT = "It should hold train/CLASS/*.jpg and, to validate, val/CLASS/*.jpg (or .png)."


class ImageFolderDataModule(PretrainingData):
    """Images below ``train/CLASS/`` and ``val/CLASS/``; without ``val`` nothing is validated.

    Args:
        root: Folder with ``train`` and ``val``.
        batch_size: Images per optimiser step, over all devices together.
        size: ``[height, width]`` of the images that the network gets.
        channels: 1 for grey, 3 for RGB, 4 for RGBA.
        mean: Mean of each channel in 0..1; by default that of ImageNet.
        std: Standard deviation of each channel in 0..1; by default that of ImageNet.
        scale: Smallest and largest fraction of an image's area in a training crop.
        flip: Probability of a horizontal flip.
        auto_augment: RandAugment or another policy in timm's words; ``null`` for none.
        color_jitter: Strength of colour changes; used without ``auto_augment``.
        erasing: Probability of random erasing.
        interpolation: ``bicubic``, ``bilinear`` or ``random``.
        crop_pct: Fraction of the side of a validation image that is seen, in the centre.
        num_workers: Loader processes per device.
        seed: Seed of order and augmentation.
    """

    def __init__(
        self,
        root: str,
        batch_size: int = 1024,
        size: list[int] = [224, 224],  # noqa: B006 - never changed
        channels: int = 3,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        scale: list[float] = [0.08, 1.0],  # noqa: B006
        flip: float = 0.5,
        auto_augment: str | None = "rand-m9-mstd0.5-inc1",
        color_jitter: float = 0.4,
        erasing: float = 0.25,
        interpolation: str = "bicubic",
        crop_pct: float = 0.875,
        num_workers: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.root = Path(root)
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        if channels not in MODES:
            raise InputError(
                f"--data.channels must be {', '.join(map(str, MODES))}, got {channels}: timm reads photos. For other "
                "bands, pretrain without labels."
            )
        counts: dict[str, Any] = {
            "size": (size, 2),
            "scale": (scale, 2),
            "mean": (mean, channels),
            "std": (std, channels),
        }
        for name, (values, count) in counts.items():
            if values is not None and len(values) != count:
                raise InputError(f"--data.{name} needs {count} numbers, got {values}.")
        if min(std or [1.0]) <= 0:
            raise InputError(f"--data.std must be above 0, got {std}.")
        self.channels, self.size = channels, (size[0], size[1])
        self.mean, self.std = (
            tuple(given) if given else imagenet if channels == 3 else (sum(imagenet) / 3,) * channels
            for given, imagenet in ((mean, IMAGENET_DEFAULT_MEAN), (std, IMAGENET_DEFAULT_STD))
        )
        shared: dict[str, Any] = {"input_size": (channels, *self.size), "interpolation": interpolation}
        shared |= {"mean": self.mean, "std": self.std}
        self.augment = augmentation(
            auto_augment,
            channels,
            **shared,
            scale=(scale[0], scale[1]),
            hflip=flip,
            color_jitter=color_jitter,
            re_prob=erasing,
            re_mode="pixel",
        )
        self.frame = create_transform(**shared, crop_pct=crop_pct)

    @cached_property
    def spec(self) -> ImageSpec:  # type: ignore[override]  # found when it is asked for
        classes = self.train_images.reader.class_to_idx
        return ImageSpec(self.channels, tuple(sorted(classes, key=classes.get)), self.size, self.mean, self.std)

    @cached_property
    def train_images(self) -> Any:
        """Timm's dataset of the training images."""
        return self._found("train")

    @cached_property
    def val_images(self) -> Any:
        """Timm's dataset of the validation images, with the classes of the training images; none without a folder."""
        return self._found("val", self.train_images.reader.class_to_idx) if (self.root / "val").is_dir() else None

    def _found(self, split: str, classes: Any = None) -> Any:
        folder = self.root / split
        if not folder.is_dir():
            raise InputError(f"{folder} does not exist. {LAYOUT}")
        try:
            found = create_dataset("", str(folder), search_split=False, class_map=classes)
        except RuntimeError as error:
            raise InputError(f"{folder}: {' '.join(str(error).split())}. {LAYOUT}") from error
        if "" in found.reader.class_to_idx:
            raise InputError(f"{folder} holds images outside class folders. {LAYOUT}")
        note_left_out(folder, found, split)
        return found

    @property
    def validates(self) -> bool:
        return self.val_images is not None

    def in_words(self) -> str:
        validated = f"{len(self.val_images)} validation images" if self.validates else "nothing to validate"
        classes, (height, width) = len(self.spec.classes), self.size
        return (
            f"{self.root}: {len(self.train_images)} training images of {classes} classes, {validated}, as "
            f"{MODES[self.channels]} of {height} x {width}"
        )

    def train_dataloader(self) -> DataLoader[Any]:
        images = TrainingImages(Images(self.train_images, self.channels, self.augment), self.seed)
        return training_batches(
            images, self.batch_size, *self._processes(), self.seed, self.num_workers, *self.start, what="images"
        )

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        if not self.validates:
            return []
        world, rank = self._processes()
        images = ValidationImages(Images(self.val_images, self.channels, self.frame), world)
        sampler: DistributedSampler[Any] = DistributedSampler(images, world, rank, shuffle=False)
        return DataLoader(
            images,
            batch_size=max(1, self.batch_size // world),
            sampler=sampler,
            num_workers=self.num_workers,
            worker_init_fn=serve_on,
        )

    def _processes(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)


def note_left_out(folder: Path, found: Any, split: str) -> None:
    """Note files that timm does not take, and classes that it puts together."""
    taken = {found.filename(index, absolute=True) for index in range(len(found))}
    others = [
        Path(place, name)
        for place, _, names in os.walk(folder, followlinks=True)
        for name in names
        if os.path.join(place, name) not in taken and not name.startswith(".")
    ]
    if others:
        note(
            f"note: {len(others)} files below {folder} are left out, such as {others[0].relative_to(folder)}: they are "
            "not .jpg or .png" + (", or of no training class." if split == "val" else ".")
        )
    folders = Counter(os.path.basename(place) for place in {os.path.dirname(path) for path in taken})
    if together := [name for name, count in folders.items() if count > 1]:
        note(f"note: {len(together)} classes are in several folders below {folder}, such as {together[0]}.")
