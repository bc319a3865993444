"""Encoders written by users, by class path or as an entry of ``ENCODERS``, and the rule for class paths in files.

A class path, such as ``my_package.my_module.MyEncoder``, names code. Commands of training import it, because the user
wrote it; a checkpoint or a ``config.json`` never makes this program import a module. There the class is used only if
its module is imported already, or if the environment variable ``MLLA_SEG_ENCODERS`` lists the module.
"""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mlla_seg.errors import InputError
from mlla_seg.models.foreign import ForeignEncoder

ALLOWED = "MLLA_SEG_ENCODERS"
"""Environment variable that lists modules of encoders, separated by commas."""
STRIDES = (2, 4, 8, 16, 32)
SIZE = (64, 96)
"""Height and width of the image with which an encoder is tried."""


def is_class_path(name: str) -> bool:
    """Return whether the name of an encoder or a loss is a class path."""
    return "." in name and "/" not in name


def import_own(name: str, what: str = "encoder") -> None:
    """Import the module of a class path that the user wrote.

    Args:
        name: Class path.
        what: What the class is, for messages.

    Raises:
        InputError: It cannot be imported.
    """
    module = name.rpartition(".")[0]
    try:
        importlib.import_module(module)
    except Exception as error:  # importing runs the user's code
        raise InputError(
            f"{what.capitalize()} {name}: {module} cannot be imported: {type(error).__name__}: {error}. PYTHONPATH "
            "must list the folder of the package."
        ) from error


def class_of(path: str, what: str = "encoder") -> Callable[..., nn.Module]:
    """Return the class of a class path whose module is imported or allowed.

    Args:
        path: Class path.
        what: What the class is, for messages.

    Raises:
        InputError: It is neither, or no such class is in it.
    """
    module, _, name = path.rpartition(".")
    if module not in sys.modules:
        if module not in os.environ.get(ALLOWED, "").split(","):
            raise InputError(
                f"The network's {what} is {path}, code that is not imported because a file names it. If you trust "
                f"{module}, import it first in Python, or set the environment variable {ALLOWED}={module}."
            )
        import_own(path, what)
    found = getattr(sys.modules[module], name, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise InputError(f"{path}: {module} has no class {name} that is a torch.nn.Module.")
    return found


class OwnEncoder(ForeignEncoder):
    """Encoder written by a user: ``(B, C, H, W)``, H and W multiples of 32, to five feature maps at strides 2 to 32.

    Contract: ``MyEncoder(in_channels=C)`` is a ``torch.nn.Module`` that returns a list of feature maps
    ``(B, C_i, H / s_i, W / s_i)`` from fine to coarse, at the strides 2, 4, 8, 16 and 32. As in timm the first may be
    missing, and as in segmentation_models_pytorch the image may come before it.

    Args:
        name: Class path or key of ``ENCODERS``.
        build: The class.
        in_channels: Channels of the image.
        output_stride: Stride of the coarsest feature map that the decoder asks for.

    Raises:
        InputError: The class does not keep the contract.
    """

    def __init__(
        self, name: str, build: Callable[..., nn.Module], in_channels: int = 3, output_stride: int = 32
    ) -> None:
        super(ForeignEncoder, self).__init__()
        self.name = name
        self.in_channels = in_channels
        if output_stride != STRIDES[-1]:
            raise InputError(
                f"{name} has stride 32, but the decoder needs stride {output_stride}: use another decoder."
            )
        try:
            self.encoder = build(in_channels=in_channels).eval()
            with torch.no_grad():
                maps = self.encoder(torch.zeros(1, in_channels, *SIZE))
        except Exception as error:  # the user's code
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise InputError(
                f"{name} cannot be used as an encoder: {reason} (it is built with in_channels={in_channels} and must "
                f"accept multiples of 32; tried {SIZE[0]} x {SIZE[1]})."
            ) from error
        shapes = [tuple(feature.shape) for feature in maps]
        self.skipped = len(maps) - len(STRIDES) if len(maps) > len(STRIDES) else 0
        """Maps before stride 2: the image."""
        self.lacking = max(0, len(STRIDES) - len(maps))
        """Missing finest maps."""
        sizes = [shape[2:] for shape in shapes[self.skipped :]]
        expected = [tuple(side // stride for side in SIZE) for stride in STRIDES[self.lacking :]]
        if self.skipped > 1 or self.lacking > 1 or sizes != expected:
            raise InputError(
                f"{name} cannot be used as an encoder: of an image of {SIZE[0]} x {SIZE[1]} it returns {shapes}, "
                f"expected feature maps at the strides {', '.join(map(str, STRIDES))}."
            )
        self.out_channels = [0] * self.lacking + [shape[1] for shape in shapes[self.skipped :]]
        self.encoder.train()

    def forward(self, x: Tensor) -> list[Tensor]:
        maps: Any = list(self.encoder(x))[self.skipped :]
        if self.lacking:
            maps.insert(0, x.new_zeros(len(x), 0, x.shape[2] // 2, x.shape[3] // 2))
        return maps
