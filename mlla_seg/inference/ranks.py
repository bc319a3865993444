"""Processes that share the images of one command, as torchrun, ``srun`` or ``predict --devices`` start them.

No process distributes the work. Each goes through all images and takes those that no other has taken: the locks and
records of masks (:mod:`mlla_seg.inference.records`) and the parts of scenes (:mod:`mlla_seg.inference.partial_maps`)
already keep processes apart, on one machine or on several with a common folder. So a process that ends early, or never
starts, leaves its work to the others. The environment only decides which process prints for all, and which device each
uses.

This module does not import torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from mlla_seg.errors import InputError
from mlla_seg.progress import silent

NAMES = (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"))
"""Variables of torchrun and of ``srun``: number of this process, of all, and of this process on its machine."""


@dataclass(frozen=True)
class Ranks:
    """Place of this process among all of the command.

    Args:
        rank: Its number, from 0; the first prints for all.
        size: How many there are.
        local: Its number among those of the same machine.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this process prints for all."""
        return self.rank == 0

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Let only the first process print what all would; errors are printed by each."""
        if self.first:
            yield
        else:
            with silent():
                yield

    def in_turn(self, count: int) -> list[int]:
        """Return the numbers of parts that lie in a row, in the order in which this process should try to take them.

        The share of this process comes first, from its start; then what others may have left, from the end.
        """
        first, end = (count * rank // self.size for rank in (self.rank, self.rank + 1))
        return [*range(first, end), *reversed(range(end, count)), *reversed(range(first))]


ALONE = Ranks()


def ranks_of(environment: Mapping[str, str] = os.environ) -> Ranks:
    """Return the place of this process, as its starter has set it; a single process by default.

    Raises:
        InputError: The variables contradict each other.
    """
    for names in NAMES:
        if not all(environment.get(name) for name in names[:2]):
            continue
        values = [environment.get(name) or "0" for name in names]
        if not all(value.isdecimal() for value in values) or int(values[0]) >= int(values[1]):
            said = ", ".join(f"{name}={environment.get(name)}" for name in names[:2])
            raise InputError(f"{said}: no process has this number. Start several with torchrun or srun, or unset both.")
        return Ranks(*map(int, values))
    return ALONE
