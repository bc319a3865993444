"""Augmentation of training samples: geometric before the network's normalisation, intensity after it.

Geometric transforms move image and mask in raw units. Intensity transforms change normalised images, so that a strength
means the same for HU, reflectances and bytes, and the normalisation does not undo them. Outside the image its border is
replicated, as in prediction, and ignored in the mask. Strengths are options of ``datamodule.py``: ``--data.intensity``,
``--data.elastic``, ``--data.mirror``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mlla_seg.data.boxes import Box, cut
from mlla_seg.data.dataspec import Normalisation
from mlla_seg.data.formats.picture import Array
from mlla_seg.data.normalisation import normalise, window_tensor
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
class Geometry:
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


AUGMENTATIONS: dict[str, Geometry] = {
    "none": Geometry(_none),
    "transunet": Geometry(_transunet, _reach(ROTATION, 1.0), quarter_turns=True, mirrored=True),
    "anatomy": Geometry(_anatomy, _reach(ROTATION, 0.7, 0.05 * 2)),
    "aerial": Geometry(_aerial, _reach(15, 0.5), quarter_turns=True, mirrored=True, colours=True),
}


MOST_CHANNELS = 127
"""Maximum number of channels that OpenCV, used by albumentations, transforms at once."""


MIRRORS = {"rows": "VerticalFlip", "columns": "HorizontalFlip"}
"""Axes along which samples can be mirrored, and the albumentations transforms for them."""


class Augment:
    """Augmentation and normalisation of a training sample, from its file to the encoder.

    Args:
        name: A name in ``AUGMENTATIONS``.
        crop: ``(height, width)`` of samples, or none for whole slices.
        intensity: Strength of changes of brightness, contrast, gamma, noise and sharpness; 0 disables them.
        normalisation: Normalisation of the data; none leaves images unchanged.
        context: Neighbouring slices on each side among the channels.
        mirror: Axes in ``MIRRORS`` along which half of the samples are mirrored in addition.
        elastic: Standard deviation in pixels of elastic deformations of a third of the samples; 0 disables them.
    """

    def __init__(
        self,
        name: str,
        crop: Sequence[int] | None,
        intensity: float = 0.0,
        normalisation: Normalisation | None = None,
        context: int = 0,
        mirror: Sequence[str] = (),
        elastic: float = 0.0,
    ) -> None:
        import albumentations as A
        import cv2

        cv2.setNumThreads(0)  # worker processes already use all cores
        self.geometry = lookup(AUGMENTATIONS, name, "augmentation")
        self.crop = crop
        self.intensity = intensity
        self.elastic = elastic
        self.normalisation = (normalisation or Normalisation()).for_network(context)
        steps = [*self.geometry.steps(), *(getattr(A, lookup(MIRRORS, axis, "mirror axis"))(p=0.5) for axis in mirror)]
        if elastic:
            steps.append(_elastic(elastic))
        self.steps = [A.Compose([step]) for step in steps]  # within one Compose, all would draw the same numbers

    def needed(self, box: Box) -> Box:
        """Return the region that the sample of ``box`` may show after the geometric transforms."""
        return box.grown(self.geometry.reach, math.ceil(4 * self.elastic))

    def __call__(self, image: Array, mask: Array, box: Box, seed: int) -> tuple[Array, Array]:
        """Return the sample of ``box`` from ``image`` ``(C, H, W)`` in raw units and ``mask`` ``(H, W)``.

        The seed determines all randomness. The image is returned normalised.
        """
        wide = self.needed(box)
        image, mask, own = cut(image, mask, wide)
        moved: dict[str, Any] = {"image": np.ascontiguousarray(np.moveaxis(image, 0, 2)), "masks": [mask, own]}
        seeds = np.random.SeedSequence(seed).generate_state(len(self.steps)).tolist()
        for step, own_seed in zip(self.steps, seeds, strict=True):
            step.set_random_seed(own_seed)
            moved = step(**moved)
        image, (mask, own) = np.moveaxis(moved["image"], 2, 0), moved["masks"]
        middle = tuple(
            slice((around - side) // 2, (around + side) // 2)
            for around, side in zip(wide.sides, box.sides, strict=True)
        )
        image, mask, own = image[(slice(None), *middle)], mask[middle], own[middle]
        normal = self._normalised(torch.from_numpy(np.ascontiguousarray(image)), own).numpy()
        if self.intensity:
            normal = change_intensity(normal, np.random.default_rng(seed), self.intensity, self.geometry.colours)
        return normal, np.ascontiguousarray(mask)

    def _normalised(self, image: torch.Tensor, own: Array) -> torch.Tensor:
        how = self.normalisation
        defaults = {"mean": 0.0, "std": 1.0}
        mean, std = (torch.as_tensor(how.get(key, defaults[key])).float().expand(len(image)) for key in defaults)
        window = window_tensor(how.get("window"))
        pixels = None if own.all() or not own.any() else torch.from_numpy(own > 0)
        return normalise(image, mean, std, window, bool(how.get("window")), bool(how.get("per_image")), pixels)


def change_intensity(image: Array, rng: np.random.Generator, strength: float, colours: bool = False) -> Array:
    """Randomly change a normalised image ``(C, H, W)``; each change applies to a part of the samples.

    Brightness and contrast, gamma (of the image or its negative), blur, lower resolution and noise, at strength 1
    roughly in the ranges of nnU-Net. All but the noise are the same in all channels.

    Args:
        image: Image to change.
        rng: Random generator.
        strength: Strength of all changes; 0 disables them.
        colours: Also change brightness and contrast of each channel slightly.
    """
    from scipy.ndimage import gaussian_filter

    def drawn(share: float) -> bool:
        return bool(rng.random() < share)

    if drawn(0.5):
        contrast = np.float32(np.exp(rng.uniform(-0.3, 0.3) * strength))
        mean = image.mean(axis=(1, 2), keepdims=True)
        image = (image - mean) * contrast + mean + np.float32(rng.uniform(-0.3, 0.3) * strength)
    if colours and drawn(0.5):
        change = rng.uniform(-0.15, 0.15, (2, len(image), 1, 1)).astype(np.float32) * np.float32(strength)
        image = image * np.exp(change[0]) + change[1]
    if drawn(0.3):
        gamma = np.float32(np.exp(rng.uniform(-0.4, 0.4) * strength))
        sign = np.float32(-1 if drawn(0.5) else 1)
        image = sign * _gamma(sign * image, gamma)
    if drawn(0.2):
        sigma = rng.uniform(0, 1) * strength
        image = gaussian_filter(image, (0, sigma, sigma), mode="nearest", truncate=3)
    if drawn(0.2):
        image = _coarser(image, 1 / (1 + rng.uniform(0, 1) * strength))
    if drawn(0.3):
        noise = np.float32(rng.uniform(0, 0.15) * strength)
        image = image + noise * rng.standard_normal(image.shape, dtype=np.float32)
    return np.ascontiguousarray(image, np.float32)


def _gamma(image: Array, gamma: np.float32) -> Array:
    """Apply a gamma curve between minimum and maximum of each channel, keeping mean and standard deviation."""
    low, high = image.min(axis=(1, 2), keepdims=True), image.max(axis=(1, 2), keepdims=True)
    powers = ((image - low) / np.maximum(high - low, np.float32(1e-6))) ** gamma
    mean, spread = image.mean(axis=(1, 2), keepdims=True), image.std(axis=(1, 2), keepdims=True)
    own_mean, own_spread = powers.mean(axis=(1, 2), keepdims=True), powers.std(axis=(1, 2), keepdims=True)
    return (powers - own_mean) / (own_spread + np.float32(1e-6)) * spread + mean


def _coarser(image: Array, zoom: float) -> Array:
    """Simulate a lower resolution: downsample to nearest pixels, upsample with bicubic interpolation."""
    from torch.nn.functional import interpolate

    height, width = image.shape[1:]
    size = (max(1, round(height * zoom)), max(1, round(width * zoom)))
    small = interpolate(torch.from_numpy(np.ascontiguousarray(image))[None], size, mode="nearest-exact")
    return interpolate(small, (height, width), mode="bicubic", align_corners=False)[0].numpy()
