"""Options of the data module that decide what a training sample is, and which of them go together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlla_seg.data.slice_augment import AUGMENTATIONS, MIRRORS, MOST_CHANNELS
from mlla_seg.data.volume_augment import require_for_volumes
from mlla_seg.errors import InputError, lookup


@dataclass(frozen=True)
class SampleOptions:
    """See :class:`mlla_seg.data.datamodule.SegmentationDataModule` for the options."""

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
        """Number of axes of samples: 2 for slices, 3 for patches of volumes."""
        return len(self.crop or (0, 0))

    @property
    def mirrored(self) -> bool:
        """Whether samples are mirrored along rows and along columns, as test-time augmentation needs."""
        return AUGMENTATIONS[self.augment].mirrored or set(self.mirror) >= set(MIRRORS)


def require_possible(options: SampleOptions) -> None:
    """Check the options of samples.

    Raises:
        InputError: A value is not allowed, or two of them contradict each other.
    """
    crop, resize = options.crop, options.resize
    lookup(AUGMENTATIONS, options.augment, "augmentation")
    for name, strength in (("intensity", options.intensity), ("elastic", options.elastic)):
        if strength < 0:
            raise InputError(f"--data.{name} must be 0 or more, got {strength}.")
    if not 0 <= options.balance <= 1:
        raise InputError(f"--data.balance must be a fraction from 0 to 1, got {options.balance}.")
    if crop is not None and (len(crop) not in (2, 3) or min(crop) < 1):
        raise InputError(
            f"--data.crop takes two numbers, [height, width], or three, [slices, height, width], got {crop}."
        )
    if isinstance(resize, list) and (len(resize) != 2 or min(resize) < 1):
        raise InputError(f"--data.resize takes two numbers, [height, width], got {resize}.")
    if isinstance(resize, float) and resize <= 0:
        raise InputError(f"--data.resize takes [height, width] or a factor above zero, got {resize}.")
    if options.context < 0:
        raise InputError(f"--data.context must be 0 or more, got {options.context}.")
    if crop is None and not isinstance(resize, list):
        raise InputError("Training slices need one size: set --data.crop or --data.resize to [height, width].")
    if options.axes == 3:
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
    require_for_volumes(options.augment, options.mirror)
    for name, value, instead in (
        ("context", options.context, "the network sees all slices of a patch"),
        ("resize", options.resize, "use --data.spacing_mm"),
        ("elastic", options.elastic, "only slices can be deformed"),
    ):
        if value:
            raise InputError(
                f"--data.{name} {value} is for slices, but --data.crop {list(options.crop or ())} makes patches of "
                f"volumes: {instead}."
            )


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
