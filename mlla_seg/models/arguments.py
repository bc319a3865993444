"""The schema of the arguments that rebuild a network, as checkpoints and ``config.json`` hold them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mlla_seg.data.halving import STEPS
from mlla_seg.data.rules import (
    Rule,
    above,
    either,
    flag,
    list_of,
    number,
    one_of,
    optional,
    require,
    shown,
    text,
    whole,
)
from mlla_seg.data.spec_rules import LARGEST_SIDE
from mlla_seg.errors import InputError

MOST_CHANNELS = 10_000
WIDEST = 1024
"""Largest number of channels at stride 4; networks in use have up to 256."""
DEEPEST = 128
"""Largest number of blocks in a stage; networks in use have up to 32."""

_depths = list_of(whole(0, DEEPEST), 3, 3)
_rate = Rule(optional(lambda value: number(value) and 0 <= value < 1), "a number from 0 to below 1")
_shared = {
    "num_classes": Rule(whole(1, 255), "a whole number from 1 to 255"),
    "in_channels": Rule(whole(1, MOST_CHANNELS), f"a whole number from 1 to {MOST_CHANNELS}"),
    "normalisation": Rule(optional(lambda value: isinstance(value, Mapping)), "keys such as mean and std, or null"),
    "drop_path_rate": _rate,
}
CREATE_MODEL = {
    **_shared,
    "encoder": Rule(text, "the name of an encoder"),
    "decoder": Rule(text, "the name of a decoder"),
    "decoder_depths": Rule(optional(_depths), f"three whole numbers from 0 to {DEEPEST}, or null"),
    "mixer": Rule(text, "the name of a token mixer"),
    "block": Rule(text, "the name of a block"),
    "norm_outputs": Rule(flag, "true or false"),
    "frame": Rule(
        optional(list_of(whole(0, LARGEST_SIDE), 2, 3)),
        f"[height, width] or [slices, height, width] up to {LARGEST_SIDE}, or null",
    ),
    "dims": Rule(whole(2, 3), "2 for images or 3 for volumes"),
    "strides": Rule(
        optional(list_of(list_of(whole(1, 2), 2, 3), STEPS, STEPS)), f"{STEPS} lists of a 1 or 2 per axis, or null"
    ),
}
MLLA_UNET = {
    **_shared,
    "embed_dim": Rule(whole(1, WIDEST), f"a whole number from 1 to {WIDEST}"),
    "depths": Rule(list_of(whole(0, DEEPEST), 4, 4), f"four whole numbers from 0 to {DEEPEST}"),
    "num_heads": Rule(list_of(whole(1, WIDEST), 4, 4), f"four whole numbers from 1 to {WIDEST}"),
    "decoder_depths": Rule(_depths, f"three whole numbers from 0 to {DEEPEST}"),
    "mlp_ratio": Rule(above(0, 64), "a number above 0, up to 64"),
}
RULES = {"create_model": CREATE_MODEL, "MLLAUNet": MLLA_UNET}
"""Rules of the arguments of each function that builds networks."""
BUILD = {"build": Rule(one_of(RULES), f"one of {', '.join(RULES)}", tuple(RULES))}
_values = either(number, list_of(number))
_pair = list_of(number, 2, 2)
NORMALISE = {
    "mean": Rule(_values, "a number, or one per channel"),
    "std": Rule(_values, "a number above zero, or one per channel"),
    "window": Rule(optional(either(_pair, list_of(optional(_pair)))), "[low, high], one per channel, or null"),
    "per_image": Rule(flag, "true or false"),
}


def require_arguments(build: Any, arguments: Any, where: str) -> None:
    """Check the name of a function in ``RULES`` and its arguments.

    Raises:
        InputError: The function or an argument is unknown, or a value is not allowed.
    """
    require({"build": build}, BUILD, where)
    require(arguments, RULES[build], where, "network")
    if arguments.get("normalisation") is not None:
        require(arguments["normalisation"], NORMALISE, where, "normalisation of the network")


def require_numbers(build: str, arguments: Mapping[str, Any]) -> None:
    """Check numbers of a network before it is built, so that none is trained whose checkpoint would be refused.

    Raises:
        InputError: One is not allowed, such as no class or a rate of 1.
    """
    names = (*_shared.keys() - {"normalisation"}, "decoder_depths")
    require({name: arguments[name] for name in names}, RULES[build], build)


@contextmanager
def building(where: str) -> Iterator[None]:
    """Name the file whose network could not be built; the libraries that build one raise errors of many types.

    Raises:
        InputError: Any exception was raised.
    """
    try:
        yield
    except InputError as error:
        message = str(error)
        raise InputError(message if where in message else f"{where}: {message}") from error
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{where}: describes a network that cannot be built: {shown(reason)[1:-1]}.") from error
