"""Images for masked pretraining: of a card's training split, of a further folder, or of a folder without a card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlla_seg.data.card import Card
from mlla_seg.data.cases import Case
from mlla_seg.data.datamodule import SegmentationDataModule
from mlla_seg.data.dataset import SliceDataset
from mlla_seg.data.exclusion import with_exclusions
from mlla_seg.data.formats.classes import IGNORE_INDEX
from mlla_seg.data.formats.picture import Array
from mlla_seg.data.slice_augment import SliceAugment
from mlla_seg.data.slices import View
from mlla_seg.data.splits import Splits, kept
from mlla_seg.data.store.case import StoredCase
from mlla_seg.data.unlabelled import unlabelled_cases
from mlla_seg.errors import InputError
from mlla_seg.pretraining.autoencoder import PATCHES, padded_size
from mlla_seg.pretraining.parts import PretrainingData
from mlla_seg.pretraining.unlabelled import image_folder_card, is_image_folder

CHECKS = ("warped", "planes", "resampled", "headers")
"""Checks of the stored cases that are about images, not labels."""


class MaskedDataset(SliceDataset):
    """Samples of :class:`~mlla_seg.data.dataset.SliceDataset` with patches to mask in place of a mask of classes.

    Samples are ``{"image": (C, H, W), "visible": (h, w) bool, "valid": (H, W) bool, "name": str}``. Pixels are valid
    that have data, whatever their label. Of the patches with a valid pixel a fixed share is masked, the same number in
    each sample that is full of data; the others stay visible.

    Args:
        cases: Source of the slices.
        augment: Geometric augmentation; defines the crop size.
        view: How the network sees cases.
        ratio: Share of the patches that are masked.
        patch: Side of patches in pixels.
        seed: Random seed.
    """

    labelled = False

    def __init__(
        self, cases: Sequence[StoredCase], augment: SliceAugment, view: View, ratio: float, patch: int, seed: int = 0
    ) -> None:
        super().__init__(cases, augment, view, seed=seed)
        self.ratio = ratio
        self.patch = patch

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        sample = super().__getitem__(key)
        epoch, index = key if isinstance(key, tuple) else (0, key)
        valid = sample["mask"] != IGNORE_INDEX
        rng = np.random.default_rng((self.seed, epoch, index, 1))
        visible = draw_visible(valid.numpy(), self.patch, self.ratio, rng)
        shown = {"image": sample["image"], "visible": torch.from_numpy(visible), "valid": valid}
        return {**shown, "name": sample["name"]}


def draw_visible(valid: Array, patch: int, ratio: float, rng: np.random.Generator) -> Array:
    """Return which patches stay visible, ``(h, w)`` bool, of an image with data at ``valid``, ``(H, W)`` bool.

    A share ``ratio`` of the patches with data is masked: at least one, unless it is the only one.
    """
    height, width = padded_size(valid.shape)
    own = np.zeros((height, width), bool)
    own[: valid.shape[0], : valid.shape[1]] = valid
    held = own.reshape(height // patch, patch, width // patch, patch).any(axis=(1, 3))
    places = np.flatnonzero(held)
    count = min(max(1, round(ratio * len(places))), max(0, len(places) - 1))
    visible = np.ones(held.size, bool)
    visible[rng.permutation(places)[:count]] = False
    return visible.reshape(held.shape)


class ImagesDataModule(SegmentationDataModule, PretrainingData):  # type: ignore[misc]  # spec is a property
    """Images of the user's own kind, whose labels are not read.

    With a card, or a folder that describes itself (nnU-Net, polygons), only the training split is seen: no image of
    validation and test. Any other folder is searched for images as ``predict`` does, and all of them are seen.

    Args:
        card: Name of a card in ``datasets/``, or path of a ``dataset.yaml``; by default what the folder tells.
        root: Folder of the data as downloaded, or of images without labels.
        unlabelled: Folder of further images without labels, of the card's kind; those that are in the validation or
            test split of the card by their file or patient are left out.
        mask_ratio: Share of the patches that are masked.
        patch: Side of masked patches in pixels: 32, or 16 or 8 for small images.
        batch_size: Slices per optimiser step, over all devices together.
        resize: ``[height, width]``, or a factor, to which slices are resized for the network.
        crop: ``[height, width]`` of random crops, padded where slices are smaller.
        options: The other options of :class:`~mlla_seg.data.datamodule.SegmentationDataModule`, but those about
            labels and intensities.
    """

    def __init__(
        self,
        card: str | None = None,
        root: str = "",
        unlabelled: str | None = None,
        mask_ratio: float = 0.6,
        patch: int = 32,
        batch_size: int = 24,
        resize: list[int] | float | None = None,
        crop: list[int] | None = None,
        **options: Any,
    ) -> None:
        if not 0 < mask_ratio < 1:
            raise InputError(f"--data.mask_ratio must be between 0 and 1, got {mask_ratio}.")
        if patch not in PATCHES:
            raise InputError(f"--data.patch must be one of {', '.join(map(str, PATCHES))}, got {patch}.")
        if crop is not None and len(crop) != 2:
            raise InputError(f"--data.crop takes [height, width], as masked pretraining sees slices, got {crop}.")
        self.loose = not card and bool(root) and is_image_folder(Path(root))
        if self.loose and (options.get("splits") is not None or options.get("fold") is not None):
            raise InputError(f"--data.splits and --data.fold divide labelled cases, but {root} is read without a card.")
        # What is fixed here is no option of the command line.
        super().__init__(
            card=card,
            root=root,
            batch_size=batch_size,
            resize=resize,
            crop=crop,
            intensity=0.0,
            elastic=0.0,
            balance=0.0,
            full_labels=False,
            scribbles=False,
            dims=2,
            **options,
        )
        self.unlabelled = Path(unlabelled) if unlabelled else None
        self.mask_ratio = mask_ratio
        self.patch = patch
        self.held_out: list[Case] = []

    def describe(self, card: str | None, root: str, channels: Sequence[str] | None) -> Card:
        return image_folder_card(Path(root), channels) if self.loose else super().describe(card, root, channels)

    @cached_property
    def splits(self) -> Splits:
        """The training split alone; cases of the others are in ``held_out``."""
        if self.loose:
            cases = unlabelled_cases(self.root, self.card)
            return Splits(train=kept(with_exclusions(self.card, cases, [case.name for case in cases])))
        splits = super().splits
        self.held_out = [*splits.val, *splits.test]
        return Splits(train=splits.train, excluded=splits.excluded)

    @property
    def hidden(self) -> list[Case]:
        _ = self.splits  # sets the cases that are held out
        return [*self.held_out, *(case for case in self.found if case.excluded)] if not self.loose else []

    @property
    def by_split(self) -> dict[str, list[StoredCase]]:
        return {**super().by_split, "train": [*self._stored(["train"]), *self.stored_further]}

    def checks(self) -> dict[str, Callable[[], None]]:
        known = super().checks()
        return {name: known[name] for name in CHECKS}

    def setup(self, stage: str) -> None:
        sample, normalisation = self.sample, self.spec.normalisation
        augment = SliceAugment(
            sample.augment, sample.crop, sample.mirror, normalisation=normalisation, context=sample.context
        )
        cases = self.by_split["train"]
        self.train_set = MaskedDataset(cases, augment, self.spec.view, self.mask_ratio, self.patch, self.seed)

    def val_dataloader(self) -> list[Any]:
        return []

    @property
    def validates(self) -> bool:
        return False

    def in_words(self) -> str:
        count = len(self.splits.train) + len(self.further)
        if self.loose:
            card = self.card
            how = "one mean and standard deviation" if card.is_measured else "mean and standard deviation of each"
            return (
                f"{self.root}: {count} images without labels, such as {self.splits.train[0].name}; channels "
                f"{', '.join(card.seen)}, as in the first; standardised by {how}. All are seen: only a card tells "
                "which are for testing."
            )
        excluded = f" and {len(self.splits.excluded)} excluded ones" if self.splits.excluded else ""
        out = f"{len(self.held_out)} of validation and test{excluded}"
        more = f", {len(self.further)} of them without labels" if self.unlabelled else ""
        return f"{self.card.title}: images of {count} cases{more}; {out} are not seen"
