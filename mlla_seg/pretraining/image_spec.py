"""Description of labelled images, which a classifier and its checkpoint remember."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ImageSpec:
    """Channels, classes, size and normalisation of labelled images.

    Args:
        channels: Channels of the images.
        classes: Names of the classes, in the order of their indices.
        size: ``(height, width)`` of the images that the network gets.
        mean: Mean of each channel by which images are normalised, in 0..1.
        std: Standard deviation of each channel, in 0..1.
    """

    channels: int
    classes: tuple[str, ...]
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return lists and numbers, for checkpoints."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
