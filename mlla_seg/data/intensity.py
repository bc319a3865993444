"""Random changes of normalised intensities, so that a strength means the same for HU, reflectances and bytes."""

from __future__ import annotations

import numpy as np
import torch

from mlla_seg.data.formats.picture import Array


def change_intensity(image: Array, rng: np.random.Generator, strength: float, colours: bool = False) -> Array:
    """Randomly change a normalised image ``(C, H, W)`` or volume ``(C, D, H, W)``.

    Brightness and contrast, gamma (of the image or its negative), blur, lower resolution and noise, at strength 1
    roughly in the ranges of nnU-Net, each applied to a part of the samples. All but the noise are the same in all
    channels. Volumes are blurred and lowered in resolution within their slices, as slices may be far apart.

    Args:
        image: Image to change.
        rng: Random generator.
        strength: Strength of all changes; 0 disables them.
        colours: Also change brightness and contrast of each channel slightly.
    """
    from scipy.ndimage import gaussian_filter

    def drawn(share: float) -> bool:
        return bool(rng.random() < share)

    places = tuple(range(1, image.ndim))

    if drawn(0.5):
        contrast = np.float32(np.exp(rng.uniform(-0.3, 0.3) * strength))
        mean = image.mean(axis=places, keepdims=True)
        image = (image - mean) * contrast + mean + np.float32(rng.uniform(-0.3, 0.3) * strength)
    if colours and drawn(0.5):
        change = rng.uniform(-0.15, 0.15, (2, len(image), *[1] * len(places))).astype(np.float32) * np.float32(strength)
        image = image * np.exp(change[0]) + change[1]
    if drawn(0.3):
        gamma = np.float32(np.exp(rng.uniform(-0.4, 0.4) * strength))
        sign = np.float32(-1 if drawn(0.5) else 1)
        image = sign * _gamma(sign * image, gamma)
    if drawn(0.2):
        sigma = rng.uniform(0, 1) * strength
        image = gaussian_filter(image, (0,) * (image.ndim - 2) + (sigma, sigma), mode="nearest", truncate=3)
    if drawn(0.2):
        image = _coarser(image, 1 / (1 + rng.uniform(0, 1) * strength))
    if drawn(0.3):
        noise = np.float32(rng.uniform(0, 0.15) * strength)
        image = image + noise * rng.standard_normal(image.shape, dtype=np.float32)
    return np.ascontiguousarray(image, np.float32)


def _gamma(image: Array, gamma: np.float32) -> Array:
    """Apply a gamma curve between minimum and maximum of each channel, keeping mean and standard deviation."""
    places = tuple(range(1, image.ndim))
    low, high = image.min(axis=places, keepdims=True), image.max(axis=places, keepdims=True)
    powers = ((image - low) / np.maximum(high - low, np.float32(1e-6))) ** gamma
    mean, spread = image.mean(axis=places, keepdims=True), image.std(axis=places, keepdims=True)
    own_mean, own_spread = powers.mean(axis=places, keepdims=True), powers.std(axis=places, keepdims=True)
    return (powers - own_mean) / (own_spread + np.float32(1e-6)) * spread + mean


def _coarser(image: Array, zoom: float) -> Array:
    """Simulate a lower resolution of slices: downsample to nearest pixels, upsample with bicubic interpolation."""
    from torch.nn.functional import interpolate

    height, width = image.shape[-2:]
    size = (max(1, round(height * zoom)), max(1, round(width * zoom)))
    planes = torch.from_numpy(np.ascontiguousarray(image)).reshape(1, -1, height, width)
    small = interpolate(planes, size, mode="nearest-exact")
    return interpolate(small, (height, width), mode="bicubic", align_corners=False).reshape(image.shape).numpy()
