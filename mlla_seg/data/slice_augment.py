"""Geometric augmentation of slices and scenes, by albumentations."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlla_seg.data.augment import Augment
from mlla_seg.data.boxes import Box
from mlla_seg.data.formats.picture import Array
from mlla_seg.errors import lookup

# albumentations looks for a newer version online when it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

SMOOTH = 8.0
"""Standard deviation, in pixels, of the Gaussian that smooths elastic deformations."""
ROTATION = 20.0
"""Maximum rotation of ``transunet`` and ``anatomy`` in degrees, in either direction."""


def _affine(degrees: float, scale: tuple[float, float], shift: float, p: float) -> object:
    import albumentations as A
    import cv2

    return A.Affine(
        rotate=(-degrees, degrees),
        scale=scale,
        balanced_scale=scale[0] < 1 < scale[1],
        translate_percent=(-shift, shift),
        interpolation=cv2.INTER_LINEAR,
        mask_interpolation=cv2.INTER_NEAREST,
        border_mode=cv2.BORDER_REPLICATE,
        p=p,
    )


def _elastic(deviation: float) -> object:
    """Build an elastic deformation, smooth over 8 pixels; ``deviation`` is its standard deviation per axis in
    pixels.
    """
    import albumentations as A
    import cv2

    return A.ElasticTransform(
        alpha=deviation * 2 * SMOOTH * math.sqrt(3 * math.pi),  # amplitude of the uniform noise before smoothing
        sigma=SMOOTH,
        noise_distribution="uniform",
        interpolation=cv2.INTER_LINEAR,
        mask_interpolation=cv2.INTER_NEAREST,
        border_mode=cv2.BORDER_REPLICATE,
        p=1 / 3,
    )


def _none() -> list[object]:
    return []


def _transunet() -> list[object]:
    """TransUNet's recipe: quarter turns and a flip for half of the samples, up to 20 degrees for half of the rest."""
    import albumentations as A

    flips = A.Sequential([A.RandomRotate90(p=1), A.HorizontalFlip(p=1)], p=0.5)  # yields all four reflections
    rotation = _affine(ROTATION, (1.0, 1.0), 0.0, p=0.5)
    return [A.OneOf([flips, A.Sequential([rotation], p=0.5)], p=1)]


def _anatomy() -> list[object]:
    """For organs with a fixed orientation: rotation, scaling by 0.7 to 1.4 and a small shift, without flips."""
    return [_affine(ROTATION, (0.7, 1.4), 0.05, p=0.8)]


def _aerial() -> list[object]:
    """For views from above, which have no up: flips, quarter turns, small rotations, scaling by 0.5 to 2."""
    import albumentations as A

    return [A.D4(p=1), _affine(15, (0.5, 2.0), 0.0, p=0.5)]


@dataclass(frozen=True)
class GeometricAugmentation:
    """Geometric part of an augmentation."""

    steps: Callable[[], list[object]]
    """Builds the albumentations transforms."""
    reach: float = 1.0
    """Side of the region that a moved sample can show, relative to the sample; determines how much is cut."""
    quarter_turns: bool = False
    """Whether height and width are exchanged; samples must then be square."""
    mirrored: bool = False
    """Whether the network sees mirror images; otherwise it fails on them in test-time augmentation."""
    colours: bool = False
    """Whether brightness and contrast also change per channel, as colours do with light and sensor."""


def _reach(degrees: float, smallest: float, shift: float = 0.0) -> float:
    angle = math.radians(degrees)
    return (math.cos(angle) + math.sin(angle)) / smallest + 2 * shift


AUGMENTATIONS: dict[str, GeometricAugmentation] = {
    "none": GeometricAugmentation(_none),
    "transunet": GeometricAugmentation(_transunet, _reach(ROTATION, 1.0), quarter_turns=True, mirrored=True),
    "anatomy": GeometricAugmentation(_anatomy, _reach(ROTATION, 0.7, 0.05 * 2)),
    "aerial": GeometricAugmentation(_aerial, _reach(15, 0.5), quarter_turns=True, mirrored=True, colours=True),
}


MOST_CHANNELS = 127
"""Maximum number of channels that OpenCV, used by albumentations, transforms at once."""


MIRRORS = {"rows": "VerticalFlip", "columns": "HorizontalFlip"}
"""Axes along which samples can be mirrored, and the albumentations transforms for them."""


class SliceAugment(Augment):
    """Augmentation of slices and scenes by albumentations.

    Args:
        name: A name in ``AUGMENTATIONS``.
        crop: ``(height, width)`` of samples, or none for whole slices.
        mirror: Axes in ``MIRRORS`` along which half of the samples are mirrored in addition.
        elastic: Standard deviation in pixels of elastic deformations of a third of the samples; 0 disables them.
        how: Arguments of :class:`Augment`, except ``colours``.
    """

    def __init__(
        self, name: str, crop: Sequence[int] | None, mirror: Sequence[str] = (), elastic: float = 0.0, **how: Any
    ) -> None:
        import albumentations as A
        import cv2

        cv2.setNumThreads(0)  # worker processes already use all cores
        self.geometry = lookup(AUGMENTATIONS, name, "augmentation")
        super().__init__(**how, colours=self.geometry.colours)
        self.crop = crop
        self.elastic = elastic
        steps = [*self.geometry.steps(), *(getattr(A, lookup(MIRRORS, axis, "mirror axis"))(p=0.5) for axis in mirror)]
        if elastic:
            steps.append(_elastic(elastic))
        self.steps = [A.Compose([step]) for step in steps]  # within one Compose, all would draw the same numbers

    def needed(self, box: Box, seed: int = 0) -> Box:
        return box.grown(self.geometry.reach, math.ceil(4 * self.elastic))

    def moved(self, image: Array, masks: list[Array], sides: tuple[int, ...], seed: int) -> tuple[Array, list[Array]]:
        moved: dict[str, Any] = {"image": np.ascontiguousarray(np.moveaxis(image, 0, 2)), "masks": masks}
        seeds = np.random.SeedSequence(seed).generate_state(len(self.steps)).tolist()
        for step, own_seed in zip(self.steps, seeds, strict=True):
            step.set_random_seed(own_seed)
            moved = step(**moved)
        middle = tuple(slice((n - side) // 2, (n + side) // 2) for n, side in zip(masks[0].shape, sides, strict=True))
        return np.moveaxis(moved["image"], 2, 0)[(slice(None), *middle)], [mask[middle] for mask in moved["masks"]]
