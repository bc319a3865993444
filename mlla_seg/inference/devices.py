"""Processes on one machine that ``predict --devices`` starts; torchrun and ``srun`` start their own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import multiprocessing

from mlla_seg.errors import InputError
from mlla_seg.inference.optimize import device_named
from mlla_seg.inference.ranks import NAMES, Ranks, ranks_of
from mlla_seg.progress import complain, note


@contextmanager
def several(count: int, device: str, command: Callable[..., None], arguments: Mapping[str, Any]) -> Iterator[Ranks]:
    """Start further processes of a command, and yield the place of this one among all.

    A process that ends early leaves its work to the others.

    Args:
        count: Number of processes in all; 1 starts none, so there are only those that torchrun or ``srun`` started.
        device: Name of the device; several processes do not share one GPU.
        command: Function of a module, called in each of the others.
        arguments: Its arguments.

    Raises:
        InputError: That many processes cannot be started here.
    """
    ranks = ranks_of()
    if count == 1:
        yield ranks
        return
    _require(count, device, ranks)
    others = multiprocessing.start_processes(
        _run, (count, command, arguments), count - 1, join=False, daemon=True, start_method="spawn"
    )
    try:
        _share_cores(count)
        yield Ranks(0, count)
        for k, process in enumerate(others.processes, 1):
            process.join()
            if process.exitcode:
                note(f"note: process {k} of {count} ended with status {process.exitcode}; the others did its work.")
    finally:
        for process in others.processes:
            process.terminate()


def _require(count: int, device: str, ranks: Ranks) -> None:
    if count < 1:
        raise InputError(f"--devices must be 1 or more processes, got {count}.")
    if ranks.size > 1:
        raise InputError(
            f"--devices {count}: {ranks.size} processes were already started by torchrun or srun. Leave out --devices."
        )
    kind, _, number = device_named(device).partition(":")
    if kind == "cuda" and (number or count > torch.cuda.device_count()):
        found = f"--device {device} is one GPU" if number else f"this machine has {torch.cuda.device_count()} GPUs"
        raise InputError(f"--devices {count}: {found}. Use as many processes as there are GPUs, and --device cuda.")


def _run(number: int, count: int, command: Callable[..., None], arguments: Mapping[str, Any]) -> None:
    """Run the command as one of the others, which begin with 1."""
    os.environ |= dict(zip(NAMES[0], map(str, (number + 1, count, number + 1)), strict=True))
    _share_cores(count)
    try:
        command(**arguments)
    except InputError as error:
        complain(str(error))
        sys.exit(2)


def _share_cores(count: int) -> None:
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // count))
