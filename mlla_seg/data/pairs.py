"""Dataset that pairs each training sample with an unlabelled one in two views, for a mean teacher."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from mlla_seg.data.dataset import SliceDataset
from mlla_seg.data.formats.classes import IGNORE_INDEX
from mlla_seg.data.formats.picture import Array
from mlla_seg.data.intensity import change_intensity
from mlla_seg.data.patches import PatchDataset
from mlla_seg.errors import InputError


class PairedDataset(Dataset[dict[str, Any]]):
    """Samples of a labelled dataset, each with the key ``unlabelled``.

    Its value is ``{"image": (C, *spatial), "plain": (C, *spatial), "valid": (*spatial) bool, "name": str}``: the same
    place with changed and with unchanged intensities, and where it has data. Each unlabelled sample is used once before
    any is used again. A pair depends on seed, epoch and index alone, so loaders, resumed runs and several devices need
    nothing else.

    Args:
        labelled: The labelled samples.
        unlabelled: Samples of cases without labels, moved but with their intensities, whose masks tell where data are.
        intensity: Strength of the changes of intensity.
        seed: Random seed.
    """

    def __init__(
        self,
        labelled: SliceDataset | PatchDataset,
        unlabelled: SliceDataset | PatchDataset,
        intensity: float,
        seed: int = 0,
    ) -> None:
        self.labelled = labelled
        self.unlabelled = unlabelled
        self.intensity = intensity
        self.seed = seed

    def __len__(self) -> int:
        return len(self.labelled)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """Return the sample of an index, or of an ``(epoch, index)`` pair."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        turn, place = divmod(epoch * len(self) + index, len(self.unlabelled))
        other = int(_order(self.seed, turn, len(self.unlabelled))[place])
        sample = self.unlabelled[turn, other]
        rng = np.random.default_rng((self.seed, turn, other, 2))
        changed = change_intensity(sample["image"].numpy(), rng, self.intensity, self.unlabelled.augment.colours)
        views = {"image": torch.from_numpy(changed), "plain": sample["image"]}
        views |= {"valid": sample["mask"] != IGNORE_INDEX, "name": sample["name"]}
        return {**self.labelled[epoch, index], "unlabelled": views}


def require_two_views(intensity: float) -> None:
    """Check that the views of an unlabelled sample differ.

    Raises:
        InputError: Nothing changes its intensities.
    """
    if not intensity:
        raise InputError(
            "--data.unlabelled needs --data.intensity above 0, such as 0.5: the network sees images with these "
            "changes, and the averaged network, from which it learns, without them."
        )


@lru_cache(maxsize=8)
def _order(seed: int, turn: int, count: int) -> Array:
    """Return the order of the unlabelled samples in a turn."""
    return np.random.default_rng((seed, turn)).permutation(count)
