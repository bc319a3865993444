"""The LightningDataModule: card and folder in, batches out, the same ones for any number of devices."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from lightning.pytorch import LightningDataModule
from pydantic import ValidationError
from torch.utils.data import DataLoader, DistributedSampler

from mlla_seg.data.card import MEDIAN, SPLITS, Card
from mlla_seg.data.card_file import load_card
from mlla_seg.data.cases import Case
from mlla_seg.data.dataset import CaseDataset, SliceDataset
from mlla_seg.data.dataspec import DataSpec, Normalisation
from mlla_seg.data.formats.georeference import note_overlaps
from mlla_seg.data.formats.headers import note_headers
from mlla_seg.data.formats.planes import ACQUIRED, PLANES
from mlla_seg.data.layouts import find_cases
from mlla_seg.data.nnunet import nnunet_card
from mlla_seg.data.splits import Splits, fold_cases, split_cases
from mlla_seg.data.store import (
    build_store,
    check_class_sizes,
    measured_normalisation,
    measured_spacing,
    note_absent_classes,
    note_planes,
    note_resampled,
    note_warped,
    open_store,
)
from mlla_seg.data.transforms import AUGMENTATIONS, MIRRORS, MOST_CHANNELS, Augment
from mlla_seg.errors import InputError, lookup

# Of the tables, so that --help lists them.
PlaneName: TypeAlias = Literal[(*PLANES, ACQUIRED)]  # type: ignore[valid-type]
AugmentName: TypeAlias = Literal[tuple(AUGMENTATIONS)]  # type: ignore[valid-type]
MirrorName: TypeAlias = Literal[tuple(MIRRORS)]  # type: ignore[valid-type]


def card_of(card: str | None, root: str | Path, channels: Sequence[str] | None = None) -> Card:
    """The card by its name or path, or, without one, what ``dataset.json`` in the root says; and which channels."""
    known = load_card(card) if card else nnunet_card(Path(root))
    return known if channels is None else known.using(channels)


class EpochSampler(DistributedSampler[Any]):
    """Hands out the epoch with each index, as samples are decided by both; Lightning tells it the epoch."""

    def __iter__(self) -> Iterator[Any]:
        return ((self.epoch, index) for index in super().__iter__())


class SegmentationDataModule(LightningDataModule):
    """Loads a data set described by a card.

    Args:
        card: Name of a card in ``datasets/``, or path of a ``dataset.yaml``; none for an nnU-Net or Decathlon folder,
            whose ``dataset.json`` says enough.
        root: Folder of the downloaded data, as it is.
        batch_size: Slices per optimiser step, over all devices together, so that a recipe means the same on any number.
        resize: ``[height, width]``, or a factor, to which slices are resized for the network; masks come back in the
            original size.
        crop: ``[height, width]`` of random training crops, padded where slices are smaller; larger slices are evaluated
            and predicted by a sliding window of this size.
        context: Neighbouring slices on each side that the network sees as further channels (2.5-D).
        channels: Names of the card's channels that the network sees, in their order, by default what the card uses.
        spacing_mm: ``[slices, rows, columns]`` to which volumes are resampled for the network, ``median`` for that of
            all cases, null for an axis that stays; by default what the card says.
        plane: ``axial``, ``coronal`` or ``sagittal`` slices of volumes, or ``acquired`` for slices along the coarsest
            axis of each, by default what the card says.
        augment: ``none``, ``transunet``, ``anatomy`` or ``aerial``.
        intensity: Strength of random changes of contrast, brightness, gamma and noise; 0 for none.
        mirror: Axes, ``rows`` and ``columns``, along which half of the samples are mirrored as well; with both,
            ``--tta`` can be used.
        elastic: Deviation in pixels of smooth random shifts in a third of the samples; 0 for none, 2 is usual.
        balance: Share of the training crops that are drawn around pixels of the classes, each class of a case as often
            as the others, for small objects and rare classes; true for all of them. nnU-Net takes a third.
        full_labels: Score the test split by the masks of training where the card has others for testing, such as those
            without boundaries.
        num_workers: Processes that load training slices, per device.
        fold: The fold of a cross-validation that is held out as validation split; none for the card's splits.
        folds: Number of folds, unless ``splits_final.json`` in the root says them.
        cache_dir: Where the memory-mapped arrays are built.
        seed: Decides, with epoch and index, every training sample and their order.
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
        augment: AugmentName = "anatomy",
        intensity: float = 0.0,
        mirror: list[MirrorName] | None = None,
        elastic: float = 0.0,
        balance: float | bool = 0.0,
        full_labels: bool = False,
        num_workers: int = 2,
        fold: int | None = None,
        folds: int = 5,
        cache_dir: str = "cache",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not root:
            raise InputError("--data.root is missing: the folder of the data, such as --data.root data/synapse.")
        geometry = lookup(AUGMENTATIONS, augment, "augmentation")
        for axis in mirror or ():
            lookup(MIRRORS, axis, "mirror axis")
        for name, strength in (("intensity", intensity), ("elastic", elastic)):
            if strength < 0:
                raise InputError(f"--data.{name} is a strength, 0 or more, got {strength}.")
        if not 0 <= balance <= 1:
            raise InputError(f"--data.balance is a share of the samples from 0 to 1, got {balance}.")
        for name, size in (("resize", resize), ("crop", crop)):
            if isinstance(size, list) and (len(size) != 2 or min(size) < 1):
                raise InputError(f"--data.{name} takes two numbers, [height, width], got {size}.")
        if isinstance(resize, float) and resize <= 0:
            raise InputError(f"--data.resize takes [height, width] or a factor above zero, got {resize}.")
        turned = crop or resize
        if isinstance(turned, list) and turned[0] != turned[1] and geometry.quarter_turns:
            raise InputError(f"--data.augment {augment} makes quarter turns, so crops must be square, got {turned}.")
        if batch_size < 1:
            raise InputError(f"--data.batch_size is a number of slices, 1 or more, got {batch_size}.")
        if context < 0:
            raise InputError(f"--data.context is a number of neighbouring slices, 0 or more, got {context}.")
        if crop is None and not isinstance(resize, list):
            raise InputError("Training slices need one size: set --data.crop or --data.resize to [height, width].")
        self.card = card_of(card, root, channels)
        if plane is not None:
            lookup(dict.fromkeys((*PLANES, ACQUIRED)), plane, "plane for --data.plane:")
            self.card = replace(self.card, plane=plane)
        if spacing_mm is not None:
            try:
                self.card = replace(self.card, spacing_mm=spacing_mm)  # type: ignore[arg-type]  # validated
            except ValidationError as error:
                raise InputError(
                    f"--data.spacing_mm takes [slices, rows, columns] in mm, {MEDIAN} or null, got {spacing_mm}."
                ) from error
        stacked = len(self.card.seen) * (2 * context + 1)
        if augment != "none" and stacked > MOST_CHANNELS:
            raise InputError(
                f"--data.augment {augment} moves at most {MOST_CHANNELS} channels, got {stacked}: say none."
            )
        self.root = Path(root)
        self.fold = fold
        self.folds = folds
        self.batch_size = batch_size
        self.resize = resize
        self.crop = crop
        self.context = context
        self.augment = augment
        self.intensity = intensity
        self.mirror = mirror or []
        self.elastic = elastic
        self.balance = balance
        self.full_labels = full_labels
        self.num_workers = num_workers
        self.prepared = False
        self.seed = seed
        what = [str(self.root.absolute()), *(self.card.use or ())]
        place = hashlib.sha256("|".join(what).encode()).hexdigest()[:8]
        self.store = Path(cache_dir) / f"{self.card.name}-{place}"

    @cached_property
    def spec(self) -> DataSpec:
        """What the network must remember of its data."""
        normalisation = self.card.normalisation.given()
        spacing: Any = self.card.spacing_mm
        if self.card.normalisation.is_measured:
            build_store(self.card, self.splits.train, self.root, self.store)
            training = open_store(self.card, self.splits.train, self.store)
            normalisation = Normalisation.from_dict(measured_normalisation(self.card, training))
        if MEDIAN in (spacing or ()):
            used = self._used()
            build_store(self.card, used, self.root, self.store)
            spacing = measured_spacing(self.card, open_store(self.card, used, self.store))
        return DataSpec(
            name=self.card.name,
            modality=self.card.modality,
            channels=self.card.seen,
            bands=self.card.bands,
            classes=self.card.class_infos,
            background=self.card.background_index,
            normalisation=normalisation,
            plane=self.card.plane,
            array_units=self.card.array_units,
            spacing_mm=tuple(spacing) if spacing and any(spacing) else None,
            resize=(self.resize[0], self.resize[1]) if isinstance(self.resize, list) else self.resize,
            patch_size=(self.crop[0], self.crop[1]) if self.crop else None,
            context=self.context,
            mirrored=AUGMENTATIONS[self.augment].mirrored or set(self.mirror) == set(MIRRORS),
        )

    @cached_property
    def splits(self) -> Splits:
        """The cases found below the root, by split."""
        cases = find_cases(self.card, self.root)
        if self.full_labels:
            cases = [replace(case, test_masks=()) for case in cases]
        if self.fold is None:
            return split_cases(self.card, cases)
        return fold_cases(self.card, cases, self.root, self.fold, self.folds)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint remembers of its data: whom it learned from, so that it is never scored on them."""
        learned = sorted({case.patient for case in self.splits.train})
        return {"fold": self.fold, "folds": self.folds, "patients": learned}

    def _used(self) -> list[Case]:
        """The cases of all splits."""
        return [case for name in SPLITS for case in getattr(self.splits, name)]

    def prepare_data(self) -> None:
        """Checks every file and builds the memory-mapped arrays; runs in one process per machine."""
        if self.prepared:  # before the trainer, which asks again
            return
        self.prepared = True
        splits, used = {name: getattr(self.splits, name) for name in SPLITS}, self._used()
        build_store(self.card, used, self.root, self.store)
        stored = open_store(self.card, used, self.store)
        check_class_sizes(self.card, stored)
        note_absent_classes(self.card, stored[: len(self.splits.train)])
        note_warped(stored)
        if self.card.normalisation.per_case and (single := [c.name for c in stored if c.shape[0] == 1]):
            raise InputError(
                f"{self.card.name}: per_case is for volumes; {len(single)} cases are a single image, such as "
                f"{single[0]}. Say per_image: true or measured: true in the card's normalisation."
            )
        note_planes(self.card, stored)
        note_resampled(self.card, stored, self.spec.spacing_mm)
        note_headers({case.name: case.notes for case in stored})
        note_overlaps({name: open_store(self.card, cases, self.store) for name, cases in splits.items()})

    def setup(self, stage: str) -> None:
        opened = {name: open_store(self.card, getattr(self.splits, name), self.store) for name in SPLITS}
        augment = Augment(
            self.augment, self.crop, self.intensity, self.spec.normalisation, self.context, self.mirror, self.elastic
        )
        self.train_set = SliceDataset(opened["train"], augment, self.spec.view, float(self.balance), self.seed)
        self.val_set = CaseDataset(opened["val"])
        self.test_set = CaseDataset(opened["test"])
        for needed, split in (("validate", "val"), ("test", "test")):
            if stage == needed and not opened[split]:
                raise InputError(
                    f"{self.card.name} has no case of split {split} in {self.root}, so there is nothing to {needed}."
                )

    def train_dataloader(self) -> DataLoader[Any]:
        world, rank = self._processes()
        if self.batch_size % world:
            raise InputError(f"--data.batch_size {self.batch_size} cannot be divided among {world} devices.")
        if len(self.train_set) < self.batch_size:
            raise InputError(
                f"The training split has {len(self.train_set)} slices, fewer than one batch: "
                f"set --data.batch_size to {max(1, len(self.train_set) // world * world)} or less."
            )
        sampler = EpochSampler(self.train_set, world, rank, shuffle=True, seed=self.seed, drop_last=True)
        return DataLoader(
            self.train_set,
            batch_size=self.batch_size // world,
            sampler=sampler,
            drop_last=True,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=True,
        )

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        return self._case_loader(self.val_set) if len(self.val_set) else []

    def test_dataloader(self) -> DataLoader[Any]:
        return self._case_loader(self.test_set)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leaves whole cases where they are: only the slices that are being predicted go to the device."""
        return batch if "index" in batch else super().transfer_batch_to_device(batch, device, dataloader_idx)

    def _case_loader(self, cases: CaseDataset) -> DataLoader[Any]:
        world, rank = self._processes()
        # Ranks may see a case twice to come out even; metrics count it once (see metrics.CaseTable).
        sampler: DistributedSampler[Any] = DistributedSampler(cases, world, rank, shuffle=False)
        return DataLoader(cases, batch_size=None, sampler=sampler)

    def _processes(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
