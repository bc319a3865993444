"""Augmentation of training samples: geometric before the network's normalisation, intensity after it.

Geometric transforms move image and mask in raw units. Intensity transforms change normalised images, so that the
normalisation does not undo them. Outside the image its border is replicated, as in prediction, and ignored in the mask.
Strengths are options of ``datamodule.py``: ``--data.intensity``, ``--data.elastic``, ``--data.mirror``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch

from mlla_seg.data.boxes import Box, cut
from mlla_seg.data.dataspec import Normalisation
from mlla_seg.data.formats.picture import Array
from mlla_seg.data.intensity import change_intensity
from mlla_seg.data.normalisation import normalise, window_tensor


class Augment(ABC):
    """Augmentation and normalisation of a training sample, from its file to the encoder.

    Args:
        intensity: Strength of changes of brightness, contrast, gamma, noise and sharpness; 0 disables them.
        normalisation: Normalisation of the data; none leaves images unchanged.
        context: Neighbouring slices on each side among the channels.
        colours: Whether brightness and contrast also change per channel.
    """

    def __init__(
        self,
        intensity: float = 0.0,
        normalisation: Normalisation | None = None,
        context: int = 0,
        colours: bool = False,
    ) -> None:
        self.intensity = intensity
        self.normalisation = (normalisation or Normalisation()).for_network(context)
        self.colours = colours

    @abstractmethod
    def needed(self, box: Box, seed: int) -> Box:
        """Return the region that the sample of ``box`` may show after the geometric transforms."""

    @abstractmethod
    def moved(self, image: Array, masks: list[Array], sides: tuple[int, ...], seed: int) -> tuple[Array, list[Array]]:
        """Transform image and masks of the needed region, and return the middle of the given sides."""

    def __call__(self, image: Array, mask: Array, box: Box, seed: int) -> tuple[Array, Array]:
        """Return the sample of ``box`` from an image ``(C, H, W)`` in raw units and its mask ``(H, W)``, or a volume.

        The seed determines all randomness. The image is returned normalised.
        """
        image, mask, own = cut(image, mask, self.needed(box, seed))
        image, (mask, own) = self.moved(image, [mask, own], box.sides, seed)
        normal = self._normalised(torch.from_numpy(np.ascontiguousarray(image)), own).numpy()
        if self.intensity:
            normal = change_intensity(normal, np.random.default_rng(seed), self.intensity, self.colours)
        return normal, np.ascontiguousarray(mask)

    def _normalised(self, image: torch.Tensor, own: Array) -> torch.Tensor:
        how = self.normalisation
        defaults = {"mean": 0.0, "std": 1.0}
        mean, std = (torch.as_tensor(how.get(key, defaults[key])).float().expand(len(image)) for key in defaults)
        window = window_tensor(how.get("window"))
        pixels = None if own.all() or not own.any() else torch.from_numpy(own > 0)
        rows = image.flatten(1, -2)  # of all slices
        normal = normalise(rows, mean, std, window, bool(how.get("window")), bool(how.get("per_image")), pixels)
        return normal.reshape(image.shape)
