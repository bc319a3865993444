"""Batches: the same global batch on any number of devices, and cases divided among devices for evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, DistributedSampler

from mlla_seg.data.dataset import CaseDataset, SliceDataset
from mlla_seg.errors import InputError


class EpochSampler(DistributedSampler[Any]):
    """Sampler of ``(epoch, index)`` pairs, which determine training samples; Lightning sets the epoch."""

    def __iter__(self) -> Iterator[Any]:
        return ((self.epoch, index) for index in super().__iter__())


def training_batches(
    samples: SliceDataset, batch_size: int, world: int, rank: int, seed: int, num_workers: int
) -> DataLoader[Any]:
    """Return this device's share of each global batch.

    Args:
        samples: Training samples.
        batch_size: Samples per optimiser step, over all devices.
        world: Number of devices.
        rank: Index of this device.
        seed: Seed of the order of samples.
        num_workers: Loader processes of this device.

    Raises:
        InputError: The batch cannot be divided among the devices, or there are fewer samples than one batch.
    """
    if batch_size % world:
        raise InputError(f"--data.batch_size {batch_size} cannot be divided among {world} devices.")
    if len(samples) < batch_size:
        raise InputError(
            f"The training split has {len(samples)} slices, fewer than one batch: "
            f"set --data.batch_size to {max(1, len(samples) // world * world)} or less."
        )
    return DataLoader(
        samples,
        batch_size=batch_size // world,
        sampler=EpochSampler(samples, world, rank, shuffle=True, seed=seed, drop_last=True),
        drop_last=True,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=True,
    )


def cases_in_turn(cases: CaseDataset, world: int, rank: int) -> DataLoader[Any]:
    """Return this device's share of whole cases, one at a time.

    Ranks may see a case twice to have equal lengths; metrics count it once, see ``evaluation/overlap.py``.
    """
    sampler: DistributedSampler[Any] = DistributedSampler(cases, world, rank, shuffle=False)
    return DataLoader(cases, batch_size=None, sampler=sampler)
