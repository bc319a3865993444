"""LightningDataModule of a card and a data folder, with the same global batches on any number of devices."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from mlla_seg.data.batches import cases_in_turn, training_batches
from mlla_seg.data.block_splits import block_splits, traces
from mlla_seg.data.card import Card
from mlla_seg.data.card_sections import MEDIAN, SPLITS
from mlla_seg.data.cases import Case
from mlla_seg.data.dataset import CaseDataset
from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.folds import fold_cases, note_folds, number_of_folds
from mlla_seg.data.formats.planes import ACQUIRED, PLANES
from mlla_seg.data.layouts import find_cases
from mlla_seg.data.overrides import card_of, for_volumes, with_options
from mlla_seg.data.pairs import require_two_views
from mlla_seg.data.patch_choice import chosen_patch, note_patches, require_spacing
from mlla_seg.data.pseudonyms import pseudonyms
from mlla_seg.data.sample_options import SampleOptions, require_few_channels, require_possible
from mlla_seg.data.scribbles import card_of_scribbles, trained_on_scribbles
from mlla_seg.data.slice_augment import AUGMENTATIONS
from mlla_seg.data.splits import Splits, split_cases
from mlla_seg.data.store.case import StoredCase
from mlla_seg.data.store.measured import measured_normalisation, measured_spacing
from mlla_seg.data.store.opening import UnusableCases, open_groups, open_store, store_folder
from mlla_seg.data.stored_checks import stored_checks
from mlla_seg.data.training_set import paired, spec_of, training_set
from mlla_seg.data.unlabelled import further_cases
from mlla_seg.data.volume_augment import AXES
from mlla_seg.errors import InputError

# Literal types, so that --help lists the choices.
PlaneName: TypeAlias = Literal[(*PLANES, ACQUIRED)]  # type: ignore[valid-type]
AugmentName: TypeAlias = Literal[tuple(AUGMENTATIONS)]  # type: ignore[valid-type]
MirrorName: TypeAlias = Literal[AXES]  # type: ignore[valid-type]


def position(fit_loop: Mapping[str, Any]) -> tuple[int, int]:
    """Return the epoch at which training goes on, and the number of its batches that are done.

    Args:
        fit_loop: State of Lightning's loop: ``checkpoint["loops"]["fit_loop"]`` or ``trainer.fit_loop.state_dict()``.
    """
    epochs = fit_loop["epoch_progress"]["current"]
    within = epochs["started"] > epochs["processed"]  # otherwise it was saved at the end of an epoch
    return epochs["processed"], fit_loop["epoch_loop.batch_progress"]["current"]["processed"] if within else 0


class SegmentationDataModule(LightningDataModule):
    """Data set described by a card.

    Args:
        card: Name of a card in ``datasets/``, or path of a ``dataset.yaml``; none for an nnU-Net or Decathlon folder,
            which is described by its ``dataset.json``.
        root: Folder of the data as downloaded.
        batch_size: Slices per optimiser step, over all devices together, so that a recipe means the same on any number.
        resize: ``[height, width]``, or a factor, to which slices are resized for the network; masks are returned in the
            original size.
        crop: ``[height, width]`` of random training crops, padded where slices are smaller; larger slices are evaluated
            and predicted with a sliding window of this size. ``[slices, height, width]`` makes the network see volumes
            as volumes: patches of this size, at the card's ``spacing_mm`` or else the median over all cases.
        context: Neighbouring slices on each side that the network sees as additional channels (2.5-D).
        channels: Names of the card's channels that the network sees, in order; by default those that the card uses.
        spacing_mm: ``[slices, rows, columns]`` to which volumes are resampled for the network: numbers, ``median`` for
            the median over all cases, null to keep an axis; by default as in the card.
        plane: ``axial``, ``coronal`` or ``sagittal`` slices of volumes, or ``acquired`` for slices along the coarsest
            axis of each; by default as in the card.
        patient: Regular expression that finds the patient in a case's name, or its first group does; all cases of a
            patient are in one split. By default as in the card; without a card, by usual names such as
            ``patient001_frame01``.
        augment: ``none``, ``transunet``, ``anatomy`` or ``aerial``.
        intensity: Strength of random changes of contrast, brightness, gamma and noise; 0 disables them.
        mirror: Axes, ``rows`` and ``columns``, along which half of the samples are mirrored in addition; with both,
            ``--tta`` can be used. Patches of volumes have ``slices`` too.
        elastic: Standard deviation in pixels of elastic deformations of a third of the samples, usually 2; 0 for none.
        balance: Fraction of the training crops drawn around a pixel of a class, with all classes of a case equally
            likely, for small objects and rare classes; true for all of them. nnU-Net uses a third.
        full_labels: Score the test split with the training masks if the card has separate ones for testing.
        scribbles: Train from the scribbles that the card names, in place of the masks, with cross-entropy over their
            pixels; validation and test are scored with the masks. See docs/training.md.
        unlabelled: Folder of further images of the card's kind, without labels, for a mean teacher; those of
            validation, test or excluded cases are left out. See docs/training.md.
        dims: The same as ``--model.dims``, which need not be given twice.
        num_workers: Processes that load training slices, per device.
        splits: How cases are divided, instead of the card's ``splits``: ``--data.splits.csv cohort.csv
            --data.splits.patient id --data.splits.split set``. See docs/datasets.md.
        exclude: Cases or patients to leave out in addition to those of the card, each with the reason:
            ``--data.exclude '{case_012: motion artefact}'``.
        fold: Cross-validation fold to hold out as the validation split; none for the card's splits.
        folds: Number of folds, unless a table or ``splits_final.json`` in the root defines them.
        cache_dir: Folder of the memory-mapped arrays.
        verify: Compare the content of all files of the data and of the cache with their checksums, and not only their
            sizes and times, to find what a failing disk has changed.
        seed: Random seed of the training samples and their order.
    """

    def __init__(
        self,
        card: str | None = None,
        root: str = "",
        batch_size: int = 24,
        resize: list[int] | float | None = None,
        crop: list[int] | None = None,
        context: int = 0,
        channels: list[str] | None = None,
        spacing_mm: list[float | str | None] | None = None,
        plane: PlaneName | None = None,
        patient: str | None = None,
        augment: AugmentName = "anatomy",
        intensity: float = 0.0,
        mirror: list[MirrorName] | None = None,
        elastic: float = 0.0,
        balance: float | bool = 0.0,
        full_labels: bool = False,
        scribbles: bool = False,
        unlabelled: str | None = None,
        dims: int | None = None,
        num_workers: int = 2,
        splits: dict[str, Any] | None = None,
        exclude: dict[str, str] | None = None,
        fold: int | None = None,
        folds: int = 5,
        cache_dir: str = "cache",
        verify: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not root:
            raise InputError("--data.root is missing: the folder of the data, such as --data.root data/synapse.")
        sample = SampleOptions(dims, resize, crop, context, augment, intensity, mirror or [], elastic, balance)
        require_possible(sample)
        if unlabelled:
            require_two_views(intensity)
        if batch_size < 1:
            raise InputError(f"--data.batch_size must be 1 or more, got {batch_size}.")
        known = self.describe(card, root, channels)
        if sample.axes == 3:
            require_spacing(spacing_mm)
            known = for_volumes(known)
        self.card = with_options(known, plane, patient, spacing_mm, splits, exclude, scribbles)
        require_few_channels(sample, len(self.card.seen))
        self.sample = sample
        self.described = card is not None
        self.root = Path(root)
        self.unlabelled = Path(unlabelled) if unlabelled else None
        self.fold = fold
        self.folds = folds
        self.batch_size = batch_size
        self.resize = resize
        self.crop = crop
        self.context = context
        self.augment = augment
        self.intensity = intensity
        self.mirror = sample.mirror
        self.elastic = elastic
        self.balance = balance
        self.full_labels = full_labels
        self.num_workers = num_workers
        self.verify = verify
        self.prepared = False
        self.start = (0, 0)  # epoch, and batches of it that a resumed run has done
        self.seed = seed
        self.cache_dir = Path(cache_dir)

    def describe(self, card: str | None, root: str, channels: Sequence[str] | None) -> Card:
        """Return the card, without the other options of the data."""
        return card_of(card, root, channels)

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
        if self.sample.axes == 3 and len(self.crop or ()) != 3:
            return chosen_patch(self._stored(SPLITS), self.spacing_mm, self.batch_size)
        return tuple(self.crop) if self.crop else None

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
        if self.crop is None or isinstance(self.resize, list):
            raise InputError(
                "blocks of splits need crops at the scale of the scene: set --data.crop, and --data.resize to a factor "
                "or null."
            )
        return math.ceil(max(self.crop) / (self.resize or 1))

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

    def state_dict(self) -> dict[str, Any]:
        """Return the fold and pseudonyms of the training patients, so that a checkpoint is never scored on them."""
        return {"fold": self.fold, "folds": self.folds, **self._learned}

    @cached_property
    def _learned(self) -> dict[str, Any]:
        return pseudonyms([*traces(self.splits.train), *(case.patient for case in self.further)])

    @cached_property
    def _cases(self) -> dict[str, StoredCase]:
        """The stored cases of all splits by name, checked and built once."""
        train, held = self.splits.train, [*self.splits.val, *self.splits.test]
        store = store_folder(self.cache_dir, self.card, self.root)
        groups = [(self.card, [*train, *held], store)]
        if self.training_card is not self.card:
            strokes = store_folder(self.cache_dir, self.training_card, self.root, "scribbles")
            groups = [(self.training_card, train, strokes), (self.card, held, store)]
        return open_groups(groups, self.root, self.verify)

    def opened(self, cases: Sequence[Case], root: Path) -> list[StoredCase]:
        """Return the stored cases of the images below a folder; build those that are not stored as they are now."""
        return open_store(self.card, cases, root, store_folder(self.cache_dir, self.card, root), self.verify)

    def _stored(self, splits: Sequence[str]) -> list[StoredCase]:
        """Return the stored cases of some splits."""
        return [self._cases[case.name] for name in splits for case in getattr(self.splits, name)]

    def prepare_data(self) -> None:
        """Check every file and build the memory-mapped arrays; runs in one process per machine."""
        if self.prepared:  # called before the trainer, which calls it again
            return
        self.prepared = True
        for check in self.checks().values():
            check()

    def checks(self) -> dict[str, Callable[[], None]]:
        """Return the checks of the stored cases by name; see :func:`stored_checks`."""
        cards = (self.card, self.training_card)
        checks = stored_checks(*cards, self.splits, self.by_split, lambda: self.spec, self.described)
        if self.sample.axes == 3:
            batch_size = None if len(self.crop or ()) == 3 else self.batch_size
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

    def setup(self, stage: str) -> None:
        opened = self.by_split
        self.train_set = training_set(opened["train"], self.spec, self.sample, self.seed)
        if stage == "fit" and self.unlabelled is not None:
            self.pairs = paired(self.train_set, self.stored_further, self.spec, self.sample, self.seed, self.unlabelled)
        self.val_set = CaseDataset(opened["val"])
        self.test_set = CaseDataset(opened["test"])
        for needed, split in (("validate", "val"), ("test", "test")):
            if stage == needed and not opened[split]:
                raise InputError(
                    f"{self.card.name} has no case of split {split} in {self.root}, so there is nothing to {needed}."
                )

    def train_dataloader(self) -> DataLoader[Any]:
        how = (*self._processes(), self.seed, self.num_workers, *self.start)
        what = "patches" if self.sample.axes == 3 else "slices"
        samples = self.train_set if self.unlabelled is None else self.pairs
        return training_batches(samples, self.batch_size, *how, what)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        return cases_in_turn(self.val_set, *self._processes()) if len(self.val_set) else []

    def test_dataloader(self) -> DataLoader[Any]:
        return cases_in_turn(self.test_set, *self._processes())

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Keep whole cases on the CPU; only the slices being predicted go to the device."""
        return batch if "index" in batch else super().transfer_batch_to_device(batch, device, dataloader_idx)

    def _processes(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
