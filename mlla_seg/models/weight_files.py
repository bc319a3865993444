"""Files of weights, however another program has wrapped them: the state dict in a file, read without executing code."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlla_seg.checksums import require_intact_archive, require_intact_folder
from mlla_seg.data.rules import shown
from mlla_seg.errors import InputError
from mlla_seg.finite import require_finite_weights

FILE_KEYS = ("state_dict_ema", "model_ema", "model", "state_dict")
"""Keys under which files keep weights; the first one present is used, averaged weights before others, as in timm."""
DEEPEST = 4
"""Levels of keys above a state dict, at most."""


def read_state_dict(path: str | Path) -> tuple[dict[str, Tensor], str]:
    """Read a state dict without executing code stored in the file.

    Args:
        path: A ``.safetensors`` or torch file (including Lightning and timm checkpoints), or a folder of
            ``save_pretrained``.

    Returns:
        The state dict and its key in the file: one of ``FILE_KEYS``, or the only one that holds weights; empty at the
        top level.

    Raises:
        InputError: No such file, not a weights file, one that cannot be read without executing code, or one that holds
            several state dicts.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        raise InputError(
            f"No weights at {path}. Download the file first and give its path; mlla_seg downloads nothing."
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            require_intact_folder(path.parent)
            return load_file(path), ""
        require_intact_archive(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # options in timm checkpoints; plain data
            content = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # its text may be a bare number, or advise executing the code
        stored = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"its {stored[1]} would execute code" if stored else "it is damaged or not a weights file"
        raise InputError(
            f"{path} cannot be read as weights: {reason}. Expected .safetensors, or a torch file of plain tensors."
        ) from error
    return _state_dict_of(content, path)


def _state_dict_of(content: Any, path: Path) -> tuple[dict[str, Tensor], str]:
    """Return the state dict in the content of a file and its key, see :func:`read_state_dict`."""
    taken = ""
    while isinstance(content, dict) and (key := next((k for k in FILE_KEYS if isinstance(content.get(k), dict)), "")):
        taken, content = taken or key, content[key]
    found = dict(_state_dicts(content))
    if len(found) > 1:
        keys = [shown(key) for key in found]
        raise InputError(
            f"{path} holds {len(found)} state dicts, under {', '.join(keys[:4])}: save the one that you mean in a file "
            "of its own."
        )
    if not found:
        keys = [shown(key) for key in content] if isinstance(content, dict) else [f"a {type(content).__name__}"]
        raise InputError(
            f"{path} holds no state dict, but {', '.join(keys[:4]) or 'nothing'}. Expected tensors by name, at the top "
            "level or under a key such as 'model'."
        )
    ((key, weights),) = found.items()
    return weights, taken or key


def _state_dicts(content: Any, key: str = "", level: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the dicts with weights in the content of a file, and their keys; not the moments of optimisers."""
    if not isinstance(content, dict) or level > DEEPEST:
        return
    weights = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if any(value.ndim > 1 for value in weights.values()):  # others are states of random generators, counts, ...
        yield key, weights
        return
    for name, part in content.items():
        if isinstance(name, str) and not name.startswith("optim"):
            yield from _state_dicts(part, f"{key}.{name}" if key else name, level + 1)


def require_weights(name: str, weights: Mapping[str, Tensor]) -> None:
    """Check that tensors are finite numbers in a precision of networks, which torch would otherwise convert in silence.

    Args:
        name: The file, for messages.
        weights: Tensors that are to become weights.

    Raises:
        InputError: They are quantised, sparse or without values, or some are NaN or infinite.
    """
    for key, value in weights.items():
        kind = "without values" if value.is_meta else "sparse" if value.layout != torch.strided else ""
        if not kind and (not value.is_floating_point() or value.element_size() < 2):
            kind = f"of type {str(value.dtype).removeprefix('torch.')}, such as quantised weights have"
        if kind:
            raise InputError(
                f"{key} in {name} is {kind}. Expected dense tensors of float16, bfloat16, float32 or float64."
            )
    require_finite_weights(name, weights, "Use another file.")
