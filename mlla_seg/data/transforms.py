"""Augmentation of training samples: albumentations behind one function, so that it can be replaced in one place.

Images are ``(H, W, C)`` float32 in raw units, masks ``(H, W)`` with 255 for ignore. Geometry mirrors the image at its
border, with its labels; padding up to the crop repeats the border and is ignored in the mask, never class 0.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np
import torch

from mlla_seg.data.picture import Array
from mlla_seg.errors import lookup
from mlla_seg.resampling import resize_images, resize_masks

# albumentations asks the network for its newest version when it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

IGNORE = 255


def _affine(degrees: float, scale: float, shift: float, p: float) -> object:
    import albumentations as A
    import cv2

    return A.Affine(
        rotate=(-degrees, degrees),
        scale=(1 / scale, scale),
        translate_percent=(-shift, shift),
        interpolation=cv2.INTER_LINEAR,
        mask_interpolation=cv2.INTER_NEAREST,
        border_mode=cv2.BORDER_REFLECT_101,
        p=p,
    )


def _none() -> list[object]:
    return []


def _transunet() -> list[object]:
    """TransUNet's recipe: quarter turns and a flip for half the samples, up to 20 degrees for half of the rest."""
    import albumentations as A

    flips = A.Sequential([A.RandomRotate90(p=1), A.HorizontalFlip(p=1)], p=0.5)  # all four reflections
    rotation = _affine(20, 1.0, 0.0, p=0.5)
    return [A.OneOf([flips, A.Sequential([rotation], p=0.5)], p=1)]


def _anatomy() -> list[object]:
    """For organs that keep their orientation: moderate rotation, scaling and shift, no flips."""
    return [_affine(20, 1.2, 0.08, p=0.9)]


def _aerial() -> list[object]:
    """For views from above, which have no preferred direction: all eight flips and quarter turns, and rescaling."""
    import albumentations as A

    return [A.D4(p=1), _affine(15, 1.25, 0.0, p=0.5)]


AUGMENTATIONS: dict[str, Callable[[], list[object]]] = {
    "none": _none,
    "transunet": _transunet,
    "anatomy": _anatomy,
    "aerial": _aerial,
}


QUARTER_TURNS = ("transunet", "aerial")
"""Augmentations that exchange height and width, and so need square crops."""
MIRRORED = ("transunet", "aerial")
"""Augmentations that show the network mirror images; one that never saw them fails on them."""


MOST_CHANNELS = 127
"""What OpenCV, below albumentations, moves at once."""


class Augment:
    """What happens to a training sample: resize, pad and crop to one size, then move, then change intensities.

    Args:
        name: A name in ``AUGMENTATIONS``.
        crop: ``(height, width)`` of the random crop, padded where the slice is smaller, or none.
        intensity: Strength of the change of contrast, brightness, gamma and noise, relative to the spread of the
            image's values, so that it means the same for HU, reflectances and bytes; 0 changes nothing.
    """

    def __init__(self, name: str, crop: Sequence[int] | None, intensity: float = 0.0) -> None:
        import albumentations as A
        import cv2

        cv2.setNumThreads(0)  # workers are the parallelism
        steps = lookup(AUGMENTATIONS, name, "augmentation")()
        if crop is not None:
            steps = [A.RandomCrop(*crop), *steps]
        self.crop = crop
        self.intensity = intensity
        self.pipeline = A.Compose(steps)

    def __call__(
        self, image: Array, mask: Array, seed: int, size: tuple[int, int] | None = None
    ) -> tuple[Array, Array]:
        """Transforms ``image`` ``(C, H, W)`` and ``mask`` ``(H, W)``, resized first to ``size``.

        The seed decides everything random.
        """
        if size is not None:
            image = resize_images(torch.from_numpy(image)[None], size)[0].numpy()
            mask = resize_masks(torch.from_numpy(mask)[None], size)[0].numpy()
        if self.crop is not None:
            image, mask = pad_to(image, mask, self.crop)
        self.pipeline.set_random_seed(seed)
        result = self.pipeline(image=np.moveaxis(image, 0, 2), mask=mask)
        image = np.ascontiguousarray(np.moveaxis(result["image"], 2, 0))
        if self.intensity:
            image = change_intensity(image, np.random.default_rng(seed), self.intensity)
        return image, np.ascontiguousarray(result["mask"])


def pad_to(image: Array, mask: Array, size: Sequence[int]) -> tuple[Array, Array]:
    """Pads ``(C, H, W)`` and ``(H, W)`` to at least ``size``: the image repeats its border, the mask is ignored."""
    pads = [
        (missing // 2, missing - missing // 2)
        for missing in (max(0, s - n) for s, n in zip(size, mask.shape, strict=True))
    ]
    if not any(map(any, pads)):
        return image, mask
    return np.pad(image, [(0, 0), *pads], mode="edge"), np.pad(mask, pads, constant_values=IGNORE)


def change_intensity(image: Array, rng: np.random.Generator, strength: float) -> Array:
    """Random gamma, contrast, brightness and noise for ``(C, H, W)`` in any units, the same change in all channels."""
    gamma = np.float32(np.exp(rng.uniform(-0.4, 0.4) * strength))
    contrast = np.float32(np.exp(rng.uniform(-0.25, 0.25) * strength))
    brightness = np.float32(rng.uniform(-0.2, 0.2) * strength)
    noise = np.float32(rng.uniform(0, 0.1) * strength)
    values = image.reshape(len(image), -1)  # reducing the last, contiguous axis is several times faster
    low, high = values.min(axis=1, keepdims=True), values.max(axis=1, keepdims=True)
    span = np.maximum(high - low, np.float32(1e-6))
    values = ((values - low) / span) ** gamma * span + low
    mean, spread = values.mean(axis=1, keepdims=True), values.std(axis=1, keepdims=True)
    change = brightness + noise * rng.standard_normal(values.shape, dtype=np.float32)
    return ((values - mean) * contrast + mean + change * spread).reshape(image.shape)
