"""Normalisation schemes of channels, under the names by which nnU-Net knows them.

``ct`` clips to the percentiles 0.5 and 99.5 of the values under the training masks and standardises by their mean and
standard deviation; ``zscore`` and ``rescale_to_0_1`` take each case by itself; ``rgb_to_0_1`` divides by 255.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from mlla_seg.data.dataspec import Normalisation, Window
from mlla_seg.data.formats.picture import Array
from mlla_seg.data.sampling import statistics
from mlla_seg.data.slices import RESCALE, ZSCORE
from mlla_seg.errors import InputError

Scheme = Literal["ct", "zscore", "nonorm", "rescale_to_0_1", "rgb_to_0_1"]
CT, RGB = "ct", "rgb_to_0_1"
PER_CASE = (ZSCORE, RESCALE)
BYTE = 255.0


def scheme_of(channel: str) -> Scheme:
    """Return the scheme of a channel by its name in any case, as nnU-Net does: ``zscore`` unless it names another."""
    schemes: dict[str, Scheme] = {name: name for name in get_args(Scheme)}
    return schemes.get(channel.casefold(), "zscore")


def per_case(schemes: Sequence[str]) -> bool | tuple[str | None, ...]:
    """Return what is done to whole cases, as in :class:`~mlla_seg.data.dataspec.Normalisation`."""
    own = tuple(scheme if scheme in PER_CASE else None for scheme in schemes)
    return any(own) and (all(scheme == ZSCORE for scheme in own) or own)


def normalisation_of(schemes: Mapping[str, str], values: Array | None = None) -> Normalisation:
    """Return the normalisation of channels.

    Args:
        schemes: Scheme by channel.
        values: Values of the training cases ``(C, n)``, under their masks for ``ct``; needed for ``ct`` and
            ``rgb_to_0_1``.

    Raises:
        InputError: A channel of ``rgb_to_0_1`` has values that are no bytes.
    """
    windows: list[Window | None] = [None] * len(schemes)
    means, stds = [0.0] * len(schemes), [1.0] * len(schemes)
    for k, (channel, scheme) in enumerate(schemes.items()):
        if scheme == CT:
            assert values is not None
            low, high = np.percentile(values[k].astype(np.float64), (0.5, 99.5)).tolist()
            windows[k], (means[k], stds[k]) = (low, high), statistics(values[k])
        elif scheme == RGB:
            assert values is not None
            if (values[k] < 0).any() or (values[k] > BYTE).any():
                raise InputError(
                    f"channel {channel} has values from {values[k].min():g} to {values[k].max():g}, but {RGB} expects "
                    f"bytes, 0 to 255. Use {RESCALE} or {ZSCORE}."
                )
            stds[k] = BYTE
    cases = per_case(list(schemes.values()))
    if len(schemes) == 1:
        return Normalisation(means[0], stds[0], windows[0], per_case=cases)
    return Normalisation(
        tuple(means) if any(means) else 0.0,
        tuple(stds) if set(stds) != {1.0} else 1.0,
        tuple(windows) if any(windows) else None,
        per_case=cases,
    )
