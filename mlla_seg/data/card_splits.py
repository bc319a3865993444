"""The section ``splits`` of a data set card: how cases are divided, and what a table says about them."""

from __future__ import annotations

import os
import re
from dataclasses import fields
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, MinLen
from pydantic import Strict, model_validator
from pydantic.dataclasses import dataclass

from mlla_seg.data.card_sections import CONFIG, SPLITS, Fraction, Name, Whole
from mlla_seg.errors import InputError

COLUMNS = ("patient", "case", "image", "mask", "split", "fold", "columns")
"""Keys that name columns of the table."""
MEANS = ("split", "fold", "seed", "train", "blocks")
"""Keys that say how cases are divided; at least one is needed."""


@dataclass(frozen=True, config=CONFIG)
class CardSplits:
    """Splits by patient: a table, lists in files, or fractions drawn once from a seed; or blocks of each scene."""

    seed: Whole | None = None
    """a whole number; with a seed, val and test are fractions of the patients"""
    train: Name | None = None
    """a file beside the card with one patient per line"""
    val: Name | Fraction | None = None
    """a file beside the card with one patient per line; with a seed or blocks, a fraction from 0 to 1"""
    test: Name | Fraction | None = None
    """a file beside the card with one patient per line; with a seed or blocks, a fraction from 0 to 1"""
    csv: Name | None = None
    """a table with a header, beside the card or in the root, of patients, cases, or image and mask files"""
    patient: Name | None = None
    """the column of the table that names the patient"""
    case: Name | None = None
    """the column of the table that names the case, or its image file"""
    image: Name | Annotated[tuple[Name, ...], MinLen(1)] | None = None
    """the column of the table with the image file, relative to the root; with mask, a list of columns if channels are
    in files of their own"""
    mask: Name | None = None
    """the column of the table with the mask file, relative to the root; the data are then the files of the table"""
    split: Name | None = None
    """the column of the table with the words train, val or test"""
    fold: Name | None = None
    """the column of the table with the number of the fold, from 0 or from 1, of which --data.fold takes one"""
    columns: tuple[Name, ...] | None = None
    """a list of columns to write with the scores and to form subgroups by; all others by default"""
    blocks: Name | None = None
    """rows x columns of blocks, such as 4x4, into which each scene is divided"""
    gap_px: Annotated[int, Strict(), Ge(0)] | None = None
    """a number of pixels that blocks of different splits are apart"""
    gap_m: Annotated[float, Strict(), Ge(0)] | None = None
    """the distance in metres that blocks of different splits are apart"""

    @model_validator(mode="after")
    def _check(self) -> CardSplits:
        given = [entry.name for entry in fields(self) if getattr(self, entry.name) is not None]
        if not set(MEANS) & set(given):
            raise InputError(
                "splits needs train: a file, or a seed with val and test fractions, a table (csv) with a column split "
                "or fold, or blocks."
            )
        drawn = self.seed is not None or self.blocks is not None
        for name in SPLITS:
            value = getattr(self, name)
            if not drawn and not isinstance(value, str | None):
                raise InputError(f"without a seed, the split {name} must be a file, found {value}.")
            if drawn and isinstance(value, str):
                raise InputError(
                    f"with {'blocks' if self.blocks else 'a seed'}, the split {name} must be a fraction from 0 to 1, "
                    f"found {value!r}."
                )
        for file in self.files.values():
            if Path(file).is_absolute() or Path(os.path.normpath(file)).parts[:2] == ("..", ".."):
                raise InputError(f"the split list {file} must lie beside the card, or in the folder of another one.")
        fractions = [value for value in (self.val, self.test) if isinstance(value, int | float)]
        if sum(fractions) >= 1:
            raise InputError(f"val: {self.val} and test: {self.test} of splits leave nothing to train on.")
        self._check_table(given)
        self._check_blocks(given)
        return self

    def _check_table(self, given: list[str]) -> None:
        columns = [name for name in given if name in COLUMNS]
        if self.csv is None:
            if columns:
                raise InputError(f"{columns[0]} of splits names a column, but splits has no csv: the table's file.")
            return
        if self.patient is None and self.case is None and self.image is None:
            raise InputError(
                f"splits needs to know whom the rows of {self.csv} are about: patient, case or image with the name of "
                "the column, or image and mask."
            )
        if self.mask is not None and self.image is None:
            raise InputError("mask of splits needs image: the column with the image file.")
        if self.mask is None and isinstance(self.image, tuple):
            raise InputError("image of splits is a list of columns, which needs mask: the column with the mask file.")
        if self.mask is None and self.case is not None and self.image is not None:
            raise InputError("splits takes case or image; both only with mask.")
        if self.split is not None and (others := [key for key in (*SPLITS, "seed") if key in given]):
            raise InputError(f"split of splits is a column with the splits, which excludes {' and '.join(others)}.")

    def _check_blocks(self, given: list[str]) -> None:
        gaps = [name for name in ("gap_px", "gap_m") if name in given]
        if self.blocks is None:
            if gaps:
                raise InputError(f"{gaps[0]} of splits needs blocks, such as blocks: 4x4.")
            return
        if not re.fullmatch(r"[1-9]\d{0,2}x[1-9]\d{0,2}", self.blocks) or self.blocks == "1x1":
            raise InputError(f"blocks of splits is {self.blocks!r}, expected rows x columns such as 4x4.")
        if len(gaps) != 1:
            raise InputError(
                "blocks of splits needs gap_px or gap_m: how far training, validation and test pixels are apart."
            )
        if not self.val and not self.test:
            raise InputError("blocks of splits needs val or test: the fraction of the blocks of each scene.")
        if "csv" in given:
            raise InputError("blocks of splits excludes csv.")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of blocks; requires ``blocks``."""
        rows, columns = (self.blocks or "").split("x")
        return int(rows), int(columns)

    @property
    def files(self) -> dict[str, str]:
        """Files with the patients of each split; empty with a seed or blocks."""
        named = {name: getattr(self, name) for name in SPLITS}
        return {name: value for name, value in named.items() if isinstance(value, str)}
