"""Options of the data module that decide what a training sample is, and checks that they go together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlla_seg.data.slice_augment import AUGMENTATIONS, MIRRORS, MOST_CHANNELS
from mlla_seg.data.slices import AXES
from mlla_seg.data.volume_augment import VOLUME_AUGMENTATIONS, require_for_volumes
from mlla_seg.errors import InputError, lookup


@dataclass(frozen=True)
class SampleOptions:
    """See :class:`mlla_seg.data.datamodule.SegmentationDataModule` for the options."""

    dims: int | None
    resize: Sequence[int] | float | None
    crop: Sequence[int] | None
    context: int
    augment: str
    intensity: float
    mirror: Sequence[str]
    elastic: float
    balance: float | bool

    @property
    def axes(self) -> int:
        """Number of axes of samples, see :func:`axes_of`."""
        return axes_of(self.dims, self.crop)

    @property
    def mirrored(self) -> tuple[str, ...]:
        """Axes along which samples are mirrored, over which test-time augmentation averages."""
        chosen = {*self.mirror, *(MIRRORS if AUGMENTATIONS[self.augment].mirrored else ())}
        return tuple(axis for axis in AXES if axis in chosen)


def axes_of(dims: int | None, crop: Sequence[int] | None) -> int:
    """Return the number of axes of samples and of the network: 2 for slices, 3 for patches of volumes.

    Args:
        dims: The option ``--model.dims``: 2, 3, or None for as many as ``crop`` has numbers.
        crop: The option ``--data.crop``: ``[height, width]``, ``[slices, height, width]`` or None. Where ``dims`` is 3
            and these are not three numbers, the data module chooses the size of patches.

    Raises:
        InputError: A value is not allowed, or they contradict each other.
    """
    if dims not in (None, 2, 3):
        raise InputError(f"--model.dims is 2 for slices or 3 for volumes, got {dims}.")
    if crop is not None and (len(crop) not in (2, 3) or min(crop) < 1):
        raise InputError(
            f"--data.crop takes two numbers, [height, width], or three, [slices, height, width], got {crop}."
        )
    if dims == 2 and len(crop or ()) == 3:
        raise InputError(
            f"--model.dims 2 makes a network of slices, but --data.crop {list(crop or ())} makes patches of volumes: "
            "give [height, width], or set --model.dims 3."
        )
    return dims or len(crop or (0, 0))


def require_possible(options: SampleOptions) -> None:
    """Check the options of samples.

    Raises:
        InputError: A value is not allowed, or two of them contradict each other.
    """
    crop, resize = options.crop, options.resize
    lookup(AUGMENTATIONS, options.augment, "augmentation")
    for name, strength in (("intensity", options.intensity), ("elastic", options.elastic)):
        if not 0 <= strength < math.inf:
            raise InputError(f"--data.{name} must be 0 or more, got {strength}.")
    if not 0 <= options.balance <= 1:
        raise InputError(f"--data.balance must be a fraction from 0 to 1, got {options.balance}.")
    axes = options.axes
    if isinstance(resize, list) and (len(resize) != 2 or min(resize) < 1):
        raise InputError(f"--data.resize takes two numbers, [height, width], got {resize}.")
    if isinstance(resize, float) and resize <= 0:
        raise InputError(f"--data.resize takes [height, width] or a factor above zero, got {resize}.")
    if options.context < 0:
        raise InputError(f"--data.context must be 0 or more, got {options.context}.")
    if axes == 2 and crop is None and not isinstance(resize, list):
        raise InputError("Training slices need one size: set --data.crop or --data.resize to [height, width].")
    if axes == 3:
        _require_possible_for_volumes(options)
    else:
        _require_possible_for_slices(options)


def _require_possible_for_slices(options: SampleOptions) -> None:
    for axis in options.mirror:
        lookup(MIRRORS, axis, "mirror axis")
    turned = options.crop or options.resize
    if isinstance(turned, list) and turned[0] != turned[1] and AUGMENTATIONS[options.augment].quarter_turns:
        raise InputError(
            f"--data.augment {options.augment} makes quarter turns, so crops must be square, got {turned}."
        )


def _require_possible_for_volumes(options: SampleOptions) -> None:
    for_slices = {
        "--data.context 0": options.context,
        "--data.resize null": options.resize,
        "--data.elastic 0": options.elastic,
        "--data.augment anatomy": options.augment not in VOLUME_AUGMENTATIONS,
    }
    if needed := [off for off, value in for_slices.items() if value]:
        what = "--model.dims 3" if options.dims else f"--data.crop {list(options.crop or ())}"
        names = " and ".join(off.split()[0] for off in needed)
        raise InputError(
            f"{what} makes patches of volumes, but {names} {'are' if len(needed) > 1 else 'is'} for slices: set "
            f"{' '.join(needed)}. Volumes are resampled by --data.spacing_mm."
        )
    require_for_volumes(options.augment, options.mirror)


def require_counts(from_one: Mapping[str, int], from_zero: Mapping[str, int]) -> None:
    """Check options of the data that count something, by name.

    Raises:
        InputError: One is too small.
    """
    for least, counts in ((1, from_one), (0, from_zero)):
        for name, count in counts.items():
            if count < least:
                raise InputError(f"--data.{name} must be {least} or more, got {count}.")


def require_few_channels(options: SampleOptions, channels: int) -> None:
    """Check that the library which moves slices can do so with all their channels at once.

    Raises:
        InputError: There are too many.
    """
    stacked = channels * (2 * options.context + 1)
    if options.augment != "none" and options.axes == 2 and stacked > MOST_CHANNELS:
        raise InputError(
            f"--data.augment {options.augment} supports at most {MOST_CHANNELS} channels, got {stacked}: use none."
        )
