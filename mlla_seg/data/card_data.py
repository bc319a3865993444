"""Data of a card below a folder, as a run uses them: cases by split, their stored arrays, and the spec of a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mlla_seg.data.block_splits import block_splits
from mlla_seg.data.card import Card
from mlla_seg.data.card_sections import MEDIAN, SPLITS
from mlla_seg.data.cases import Case
from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.folds import fold_cases, note_folds, number_of_folds
from mlla_seg.data.layouts import find_cases
from mlla_seg.data.patch_choice import chosen_patch, note_patches
from mlla_seg.data.sample_options import SampleOptions
from mlla_seg.data.scribbles import card_of_scribbles, trained_on_scribbles
from mlla_seg.data.splits import Splits, split_cases
from mlla_seg.data.store.case import StoredCase
from mlla_seg.data.store.measured import measured_normalisation, measured_spacing
from mlla_seg.data.store.opening import Group, UnusableCases, open_groups, open_store, store_folder
from mlla_seg.data.stored_checks import stored_checks
from mlla_seg.data.training_set import spec_of
from mlla_seg.data.unlabelled import further_cases
from mlla_seg.errors import InputError


class CardData:
    """Base class of data modules, without Lightning: cases are found, split and stored when they are first needed.

    :class:`~mlla_seg.data.datamodule.SegmentationDataModule` sets the attributes from its options, which are described
    there.
    """

    card: Card
    described: bool
    """Whether the user has named a card."""
    root: Path
    sample: SampleOptions
    batch_size: int
    unlabelled: Path | None
    fold: int | None
    folds: int
    full_labels: bool
    cache_dir: Path
    verify: bool

    @property
    def training_card(self) -> Card:
        """The card by which training cases are read: with scribbles in place of masks, or the same."""
        return card_of_scribbles(self.card)

    @cached_property
    def spec(self) -> DataSpec:
        """What the network must remember of its data."""
        if self.card.is_measured:
            normalisation = measured_normalisation(self.card, self._stored(["train"]))
        else:
            normalisation = self.card.given_normalisation
        return spec_of(self.card, self.sample, normalisation, self.spacing_mm, self.patch_size)

    @cached_property
    def spacing_mm(self) -> tuple[float | None, ...] | None:
        """Spacing of slices, rows and columns at which the network sees volumes, None for an axis that is kept."""
        spacing: Any = self.card.spacing_mm
        if MEDIAN in (spacing or ()):
            spacing = measured_spacing(self.card, self._stored(SPLITS))
        return tuple(spacing) if spacing and any(spacing) else None

    @cached_property
    def patch_size(self) -> tuple[int, ...] | None:
        """Size of samples along each axis, chosen for volumes where no option gives it; None for whole slices."""
        if self.sample.axes == 3 and len(self.sample.crop or ()) != 3:
            return chosen_patch(self._stored(SPLITS), self.spacing_mm, self.batch_size)
        return tuple(self.sample.crop) if self.sample.crop else None

    @cached_property
    def splits(self) -> Splits:
        """Cases found below the root, by split."""
        cases = self.found
        note_folds(self.card, self.root, self.fold)
        if self.card.splits.blocks is not None:
            found = block_splits(self.card, cases, self._margin(), self.fold, self.folds)
        elif self.fold is None:
            found = split_cases(self.card, cases)
        else:
            found = fold_cases(self.card, cases, self.root, self.fold, self.folds)
        return trained_on_scribbles(self.card, found)

    def _margin(self) -> int:
        """Return the pixels around a block that a window over it can reach."""
        crop, resize = self.sample.crop, self.sample.resize
        if crop is None or isinstance(resize, Sequence):
            raise InputError(
                "blocks of splits need crops at the scale of the scene: set --data.crop, and --data.resize to a factor "
                "or null."
            )
        return math.ceil(max(crop) / (resize or 1))

    @cached_property
    def found(self) -> list[Case]:
        """All cases below the root."""
        cases = find_cases(self.card, self.root)
        return [replace(case, test_masks=()) for case in cases] if self.full_labels else cases

    @property
    def hidden(self) -> list[Case]:
        """Cases of which no image may be seen in training."""
        return [*self.splits.val, *self.splits.test, *(case for case in self.found if case.excluded)]

    @cached_property
    def further(self) -> list[Case]:
        """Images of the folder ``unlabelled``, neither held out nor in the training split."""
        if self.unlabelled is None:
            return []
        return further_cases(self.unlabelled, self.card, self.splits.train, self.hidden)

    @cached_property
    def stored_further(self) -> list[StoredCase]:
        """The images of ``further`` in their own store."""
        return self.opened(self.further, self.unlabelled) if self.unlabelled is not None else []

    @property
    def number_of_folds(self) -> int:
        """Number of folds of the cross-validation."""
        return number_of_folds(self.root, self.folds, self.found)

    @cached_property
    def _cases(self) -> dict[str, StoredCase]:
        """The stored cases of all splits by name, checked and built once."""
        train, held = self.splits.train, [*self.splits.val, *self.splits.test]
        store = store_folder(self.cache_dir, self.card, self.root)
        groups = [Group(self.card, [*train, *held], store)]
        if self.training_card is not self.card:
            strokes = store_folder(self.cache_dir, self.training_card, self.root, "scribbles")
            groups = [Group(self.training_card, train, strokes), Group(self.card, held, store)]
        return open_groups(groups, self.root, self.verify)

    def opened(self, cases: Sequence[Case], root: Path) -> list[StoredCase]:
        """Return the stored cases of the images below a folder; build those that are not stored as they are now."""
        return open_store(self.card, cases, root, store_folder(self.cache_dir, self.card, root), self.verify)

    def _stored(self, splits: Sequence[str]) -> list[StoredCase]:
        """Return the stored cases of some splits."""
        return [self._cases[case.name] for name in splits for case in getattr(self.splits, name)]

    def checks(self) -> dict[str, Callable[[], None]]:
        """Return the checks of the stored cases by name; see :func:`stored_checks`."""
        cards = (self.card, self.training_card)
        checks = stored_checks(*cards, self.splits, self.by_split, lambda: self.spec, self.described)
        if self.sample.axes == 3:
            batch_size = None if len(self.sample.crop or ()) == 3 else self.batch_size
            checks["patches"] = lambda: note_patches(self._stored(SPLITS), self.spec.view, batch_size)
        return checks

    @property
    def by_split(self) -> dict[str, list[StoredCase]]:
        """The stored cases of each split."""
        return {name: self._stored([name]) for name in SPLITS}

    def leave_out_unusable(self) -> dict[str, str]:
        """Take the cases that cannot be used out of their splits, and return the reason for each by its name."""
        try:
            _ = self._cases
        except UnusableCases as error:
            self._cases = error.opened
            for name in SPLITS:
                usable = [case for case in getattr(self.splits, name) if case.name in error.opened]
                setattr(self.splits, name, usable)
            return error.problems
        return {}
