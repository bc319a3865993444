"""One-line messages for failures of training that are no mistakes of the user: of memory or of other processes."""

from __future__ import annotations

import re
import shutil
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from mlla_seg.errors import InputError

SHARED_MEMORY = "/dev/shm"
"""Folder through which loader processes pass batches."""
RESUME = "Then resume with --ckpt_path last."
OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|Unable to allocate|Cannot allocate memory|std::bad_alloc"
    r"|CUDNN_STATUS_ALLOC_FAILED|CUBLAS_STATUS_ALLOC_FAILED"
)
OUT_OF_SHARED_MEMORY = re.compile(
    r"Bus error|unable to (write to file|allocate shared memory|open shared memory)|/torch_\d"
)
OUT_OF_FILES = re.compile(r"Too many open files|received 0 items of ancdata|Ancillary data|unable to mmap .* 24")
DEAD_WORKER = re.compile(
    r"DataLoader worker \(pid\(?s?\)? ?([\d, ]+)\) (is killed by signal: (\w[\w ]*)|exited unexpectedly)"
)
LOST_PROCESS = re.compile(
    r"closed by peer|reset by peer|Broken pipe|gloo[/\\]transport|NCCL|ProcessGroup|Gloo .* failed|Connection refused"
    r"|wait timeout|Timed out waiting|failed to recv|monitoredBarrier"
)
ONE_VALUE = re.compile("Expected more than 1 value per channel when training")
NOT_LOGGED = re.compile(r"Early stopping conditioned on metric .* which is not available")
OPTION = (ValueError, TypeError, MisconfigurationException, ImportError, NotImplementedError)
"""Errors by which Lightning refuses an option."""


@contextmanager
def told_in_a_line(options: Mapping[str, Any]) -> Iterator[None]:
    """Turn known failures of training into an :class:`InputError` of one line; other errors keep their traceback.

    Args:
        options: Options of data and model, of which messages name some, such as ``batch_size``.
    """
    try:
        yield
    except InputError as error:
        if line := _from_worker(error):
            raise InputError(line) from error
        raise
    except Exception as error:
        if (line := in_a_line(error, options)) is None:
            raise
        raise InputError(line) from error


def in_a_line(error: BaseException, options: Mapping[str, Any]) -> str | None:
    """Return what happened and what to do next, or None for an unknown error."""
    said = f"{type(error).__name__}: {error}"
    sized = "size" if "size" in options else "crop"  # of pretraining, or of fit
    workers = options.get("num_workers")
    if OUT_OF_FILES.search(said):
        return (
            f"Too many files are open. Allow more with ulimit -n 65536, or lower --data.num_workers (now {workers}). "
            f"{RESUME}"
        )
    if OUT_OF_SHARED_MEMORY.search(said):
        return (
            f"The shared memory in {SHARED_MEMORY} is full ({_free(SHARED_MEMORY)}). Make it larger (docker run "
            f"--shm-size 8g), or lower --data.num_workers (now {workers}) or --data.batch_size (now "
            f"{options.get('batch_size')}). {RESUME}"
        )
    if found := DEAD_WORKER.search(said):
        how = f"was ended by the signal {found[3]}" if found[3] else "ended unexpectedly"
        return (
            f"A loader process ({found[1].strip()}) {how}; the system does so when memory runs out. Lower "
            f"--data.num_workers (now {workers}). {RESUME}"
        )
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or OUT_OF_MEMORY.search(said):
        return out_of_memory(options)
    if isinstance(error, RuntimeError) and LOST_PROCESS.search(said):
        return (
            "Another process of this training ended or cannot be reached, so this one ends too. See its own message; "
            f"if there is none, it was killed, such as for its memory. {RESUME}"
        )
    if isinstance(error, ValueError) and ONE_VALUE.search(said):
        return (
            "Batch norm needs more than one value per channel, but the coarsest feature map of a batch has one: raise "
            f"--data.batch_size (now {options.get('batch_size')}) or --data.{sized} (now {options.get(sized)})."
        )
    if isinstance(error, RuntimeError) and NOT_LOGGED.search(said):
        return one_line(error)
    if isinstance(error, OPTION) and _raised_by_lightning(error):
        return one_line(error)
    return None


def out_of_memory(options: Mapping[str, Any]) -> str:
    """Return the message for a training that does not fit into memory, with the options that decide on it."""
    size = "size" if "size" in options else "crop"  # of pretraining, or of fit
    lower = (
        f"Out of memory in training with --data.batch_size {options.get('batch_size')} and --data.{size} "
        f"{options.get(size) or 'whole images'}. Lower one of them (--trainer.accumulate_grad_batches 2 makes up for "
        "half a batch)"
    )
    if size == "size":
        return f"{lower}. {RESUME}"
    return (
        f"{lower}, or set --model.checkpoint_stages all; in validation, lower --model.eval_batch_size (now "
        f"{options.get('eval_batch_size')}). {RESUME}"
    )


def one_line(error: BaseException) -> str:
    """Return the text of an error without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def _from_worker(error: InputError) -> str | None:
    """Return the message of an error that torch passed on from a loader process, with its traceback, as text."""
    said = str(error)
    if not said.startswith("Caught "):
        return None
    return said.rpartition("InputError: ")[2].strip()


def _raised_by_lightning(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and re.search(r"[/\\]lightning(_utilities|_fabric)?[/\\]", frames[-1].filename) is not None


def _free(folder: str) -> str:
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return "its size is unknown"
    return f"{usage.free / 1e6:.0f} of {usage.total / 1e6:.0f} MB are free"
