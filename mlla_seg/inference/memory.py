"""Lack of memory, recognised in errors of any library; :func:`mlla_seg.inference.steps.network_logits` then goes on.

This module does not import torch.
"""

from __future__ import annotations

import re

from mlla_seg.errors import InputError

WORDS = re.compile(
    r"(can't|cannot|could not|unable to|failed to) allocate|out of memory|not enough memory|bad[ _]alloc"
    r"|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)
"""How torch, CUDA, oneDNN, onnxruntime, OpenVINO and NumPy say that memory does not suffice."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error, of any library, is due to a lack of memory."""
    if isinstance(error, InputError) or not isinstance(error, Exception):
        return False
    return isinstance(error, MemoryError) or bool(WORDS.search(str(error)))


def out_of_memory_told(name: object, error: BaseException) -> str:
    """Return a line on an image that does not fit into memory."""
    reason = " ".join(str(error).split())
    reason = next((part for part in re.split(r"(?<=[.;]) | \| ", reason) if WORDS.search(part)), reason)
    return (
        f"{name}: does not fit into memory ({reason.rstrip('.')[:200] or 'MemoryError'}). Close other programs, use a "
        "smaller --batch_size, for scenes a smaller --window, or cut it into parts."
    )
