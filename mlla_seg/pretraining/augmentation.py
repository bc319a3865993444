"""timm's augmentation of photos, adapted to current Pillow and to images other than RGB."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from timm.data import create_transform
from timm.data.auto_augment import RandAugment
from torch import Tensor

from mlla_seg.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

ALPHA = 4
"""Channels of images with an alpha channel, which policies of timm do not take."""


def augmentation(auto_augment: str | None, channels: int, **options: Any) -> Callable[[Image.Image], Tensor]:
    """Return timm's training transform.

    Args:
        auto_augment: RandAugment or another policy in timm's words.
        channels: Channels of the images.
        options: Further arguments of ``timm.data.create_transform``.

    Raises:
        InputError: The policy is unknown, or does not take such images.
    """
    if auto_augment and channels == ALPHA:
        raise InputError("--data.auto_augment works on grey and RGB images: set it to null for 4 channels.")
    try:
        transform = create_transform(is_training=True, auto_augment=auto_augment, **options)
    except (AssertionError, KeyError, ValueError) as error:
        raise InputError(
            f"--data.auto_augment {auto_augment} is no policy of timm, such as rand-m9-mstd0.5-inc1: {error!r}"
        ) from error
    for step in transform.transforms:
        for operation in step.ops if isinstance(step, RandAugment) else ():
            if operation.name.startswith("Posterize"):
                operation.aug_fn = posterize
    return transform


def posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """Keep the highest ``bits`` of each value, at least one.

    timm's own function may ask Pillow for 0 bits, which used to give black images and now raises an error.
    """
    from PIL import ImageOps

    return image if bits >= 8 else ImageOps.posterize(image, max(1, bits))
