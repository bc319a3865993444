"""LightningDataModule of a card and a data folder, with the same global batches on any number of devices."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from mlla_seg.data.batches import cases_in_turn, training_batches
from mlla_seg.data.block_splits import traces
from mlla_seg.data.card import Card
from mlla_seg.data.card_data import CardData
from mlla_seg.data.dataset import CaseDataset
from mlla_seg.data.formats.planes import ACQUIRED, PLANES
from mlla_seg.data.overrides import card_of, for_volumes, with_options
from mlla_seg.data.pairs import require_two_views
from mlla_seg.data.patch_choice import require_spacing
from mlla_seg.data.pseudonyms import pseudonyms
from mlla_seg.data.sample_options import SampleOptions, require_counts, require_few_channels, require_possible
from mlla_seg.data.slice_augment import AUGMENTATIONS
from mlla_seg.data.training_set import paired, training_set
from mlla_seg.data.volume_augment import AXES
from mlla_seg.errors import InputError

# Literal types, so that --help lists the choices.
PlaneName: TypeAlias = Literal[(*PLANES, ACQUIRED)]  # type: ignore[valid-type]
AugmentName: TypeAlias = Literal[tuple(AUGMENTATIONS)]  # type: ignore[valid-type]
MirrorName: TypeAlias = Literal[AXES]  # type: ignore[valid-type]


class SegmentationDataModule(CardData, LightningDataModule):
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
        mirror: Axes, ``rows`` and ``columns``, and ``slices`` for patches of volumes, along which half of the samples
            are mirrored in addition; ``--tta`` then averages over these flips.
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
        require_counts({"batch_size": batch_size}, {"num_workers": num_workers, "seed": seed})
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

    def state_dict(self) -> dict[str, Any]:
        """Return the fold and pseudonyms of the training patients, so that a checkpoint is never scored on them."""
        return {"fold": self.fold, "folds": self.folds, **self._learned}

    @cached_property
    def _learned(self) -> dict[str, Any]:
        return pseudonyms([*traces(self.splits.train), *(case.patient for case in self.further)])

    def prepare_data(self) -> None:
        """Check every file and build the memory-mapped arrays; runs in one process per machine."""
        if self.prepared:  # called before the trainer, which calls it again
            return
        self.prepared = True
        for check in self.checks().values():
            check()

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
        world, rank = self._processes()
        epoch, done = self.start
        return training_batches(
            self.train_set if self.unlabelled is None else self.pairs,
            self.batch_size,
            world,
            rank,
            self.seed,
            self.num_workers,
            epoch,
            done,
            what="patches" if self.sample.axes == 3 else "slices",
        )

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        return cases_in_turn(self.val_set, *self._processes()) if len(self.val_set) else []

    def test_dataloader(self) -> DataLoader[Any]:
        return cases_in_turn(self.test_set, *self._processes())

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Keep whole cases on the CPU; only the slices being predicted go to the device."""
        return batch if "index" in batch else super().transfer_batch_to_device(batch, device, dataloader_idx)

    def _processes(self) -> tuple[int, int]:
        """Return the number of processes and the rank of this one; a single one without a trainer."""
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
