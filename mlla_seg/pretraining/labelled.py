"""Labelled images of timm's readers as samples that depend on seed, epoch and index alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mlla_seg.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

UNCOUNTED = -1
"""Label of images that only pad the batches of some processes."""
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's mode by the number of channels; timm's transforms work on these."""
DEEP = ("I", "F")
"""First letters of Pillow's modes of more than 8 bits per channel, which it would clip."""


class Images:
    """Images and labels of a dataset of timm, read by its reader and changed by its transform.

    timm's dataset replaces a file that cannot be read by the next one, with a warning; here it is an error.

    Args:
        dataset: Of ``timm.data.create_dataset``.
        channels: Channels of the images, a key of ``MODES``.
        transform: Of ``timm.data.create_transform``.
    """

    def __init__(self, dataset: Any, channels: int, transform: Callable[[Image.Image], Tensor]) -> None:
        self.dataset, self.channels, self.transform = dataset, channels, transform

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int) -> tuple[Tensor, int]:
        """Return an image ``(C, H, W)`` and its label.

        Raises:
            InputError: The file cannot be read, or has more than 8 bits per channel.
        """
        from PIL import Image

        file, label = self.dataset.reader[index]
        name = self.dataset.filename(index, absolute=True)
        try:
            with file, Image.open(file) as opened:
                mode = opened.mode
                image = opened.convert(MODES[self.channels])
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise InputError(f"{name}: cannot be read as an image: {error}. Remove or replace it.") from error
        if mode.startswith(DEEP):
            raise InputError(
                f"{name}: has more than 8 bits per channel ({mode}), which the photo pipeline would clip. Convert it "
                "to 8 bits, or pretrain without labels, which reads such files."
            )
        return self.transform(image), label


class TrainingImages(Dataset[dict[str, Any]]):
    """Augmented samples, by ``(epoch, index)``.

    timm's transforms draw from the global generators, so these are seeded for each sample; the training step seeds them
    again for its own draws.
    """

    def __init__(self, images: Images, seed: int) -> None:
        self.images, self.seed = images, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, at: tuple[int, int]) -> dict[str, Any]:
        epoch, index = at
        numbers = np.random.SeedSequence((self.seed, epoch, index)).generate_state(3)
        random.seed(int(numbers[0]))
        np.random.seed(numbers[1])
        torch.manual_seed(int(numbers[2]))
        image, label = self.images.read(index)
        return {"image": image, "label": label}


class ValidationImages(Dataset[dict[str, Any]]):
    """Samples, padded to a multiple of ``world`` by uncounted ones, so that all processes have equally many."""

    def __init__(self, images: Images, world: int) -> None:
        self.images, self.world = images, world

    def __len__(self) -> int:
        return -(-len(self.images) // self.world) * self.world

    def __getitem__(self, index: int) -> dict[str, Any]:
        count = len(self.images)
        image, label = self.images.read(index % count)
        return {"image": image, "label": label if index < count else UNCOUNTED}
