"""Batches: the same global batch on any number of devices, and cases divided among devices for evaluation."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from itertools import islice
from threading import Thread
from typing import Any

from torch.utils.data import DataLoader, Dataset, DistributedSampler

from mlla_seg.data.dataset import CaseDataset
from mlla_seg.errors import InputError


class EpochSampler(DistributedSampler[Any]):
    """Sampler of ``(epoch, index)`` pairs, which determine training samples; Lightning sets the epoch.

    A resumed run has trained on the first ``done[1]`` samples of epoch ``done[0]`` already.
    """

    done = (0, 0)

    def __iter__(self) -> Iterator[Any]:
        skip = self.done[1] if self.epoch == self.done[0] else 0
        return ((self.epoch, index) for index in islice(super().__iter__(), skip, None))


def serve_on(worker: int) -> None:
    """Let a loader process outlive a signal to stop that all processes of a run receive, for the step in progress.

    Its parent ends it after that step.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # on Linux
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        continue
    os._exit(0)


def training_batches(
    samples: Dataset[Any],
    batch_size: int,
    world: int,
    rank: int,
    seed: int,
    num_workers: int,
    epoch: int = 0,
    done: int = 0,
    what: str = "slices",
) -> DataLoader[Any]:
    """Return this device's share of each global batch.

    Args:
        samples: Training samples.
        batch_size: Samples per optimiser step, over all devices.
        world: Number of devices.
        rank: Index of this device.
        seed: Seed of the order of samples.
        num_workers: Loader processes of this device.
        epoch: First epoch.
        done: Batches of that epoch to leave out.
        what: Name of the samples in messages.

    Raises:
        InputError: The batch cannot be divided among the devices, or there are fewer samples than one batch.
    """
    if batch_size % world:
        less = batch_size // world * world
        fits = f"{less} or {less + world}" if less else world
        raise InputError(f"--data.batch_size {batch_size} cannot be divided among {world} devices: set it to {fits}.")
    count = len(samples)  # type: ignore[arg-type]  # torch's Dataset leaves the length to its subclasses
    if count < batch_size:
        raise InputError(
            f"The training split has {count} {what}, fewer than one batch: "
            f"set --data.batch_size to {max(1, count // world * world)} or less."
        )
    sampler = EpochSampler(samples, world, rank, shuffle=True, seed=seed, drop_last=True)
    sampler.set_epoch(epoch)
    sampler.done = (epoch, done * (batch_size // world))
    return DataLoader(
        samples,
        batch_size=batch_size // world,
        sampler=sampler,
        drop_last=True,
        num_workers=num_workers,
        worker_init_fn=serve_on,
        persistent_workers=num_workers > 0,
        pin_memory=True,
    )


def cases_in_turn(cases: CaseDataset, world: int, rank: int) -> DataLoader[Any]:
    """Return this device's share of whole cases, one at a time.

    Ranks may see a case twice to have equal lengths; metrics count it once, see ``evaluation/overlap.py``.
    """
    sampler: DistributedSampler[Any] = DistributedSampler(cases, world, rank, shuffle=False)
    return DataLoader(cases, batch_size=None, sampler=sampler)
