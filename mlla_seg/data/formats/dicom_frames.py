"""Frames of a DICOM series with the tags that place and scale them.

An ordinary slice is a file with one frame. An enhanced multi-frame object holds the tags of its frames in functional
groups: one for each frame, and one that all frames share. Either way a frame is here a flat mapping from keywords to
values, so that no other code needs to know the difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlla_seg.data.formats.picture import Array
from mlla_seg.errors import InputError

PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
SCALE = ("RescaleSlope", "RescaleIntercept")
THICKNESS = ("SpacingBetweenSlices", "SliceThickness")
DISTINGUISHING = (
    *("EchoTime", "EffectiveEchoTime", "EchoNumbers", "DiffusionBValue", "DiffusionGradientOrientation"),
    *("TriggerTime", "NominalCardiacTriggerDelayTime", "NominalPercentageOfCardiacPhase"),
    *("TemporalPositionIdentifier", "TemporalPositionIndex", "InversionTime", "InversionTimes", "FlipAngle"),
    *("RepetitionTime", "ImageType", "FrameType", "ComplexImageComponent", "ConvolutionKernel", "KVP"),
    *("ContrastBolusAgent", "StackID", "AcquisitionNumber", "AcquisitionDateTime", "FrameAcquisitionDateTime"),
    *("AcquisitionTime", "FrameReferenceDateTime", "FrameReferenceTime", "ContentTime", "InstanceNumber"),
)
"""Tags that tell images at the same position apart, the most telling first."""
PIXELS = (
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "ModalityLUTSequence", "Modality"),
)
SERIES = ("PatientID", "FrameOfReferenceUID", "ImagesInAcquisition")
"""Tags in which the slices of a series agree."""
KEYWORDS = frozenset((*SERIES, *PLACE, *SCALE, *THICKNESS, *PIXELS, *DISTINGUISHING))
SIEMENS_B_VALUE = (0x0019, 0x100C)
"""Private tag of the b-value, from before the standard had one."""
COUNTS = {
    **{"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2},
    **dict.fromkeys((*SCALE, *THICKNESS), 1),
}
"""Number of values of a tag."""
NEEDED = {
    **dict.fromkeys(PLACE[:2], "so it cannot be placed in the volume. Remove screenshots and reports."),
    "PixelSpacing": "so its size in millimetres is unknown. Correct its header.",
}
"""What it means if a tag is missing, and what to do."""
ROUNDING = 1e-3
"""Largest error of a direction cosine."""


@dataclass(frozen=True)
class Frame:
    """One slice: a file, or a frame of one."""

    path: Path
    number: int | None
    """Its number in a multi-frame file, from 0; None for a file with one frame."""
    tags: Mapping[str, Any]
    """Values by keyword, among ``KEYWORDS``."""

    @property
    def name(self) -> str:
        return self.path.name if self.number is None else f"frame {self.number + 1} of {self.path.name}"

    def numbers(self, keyword: str) -> Array:
        """Return the values of a tag.

        Raises:
            InputError: The tag is missing, or its values are no finite numbers.
        """
        value = self.tags.get(keyword)
        if value is None or value == "":
            raise InputError(f"{self.path}: has no {keyword}{self._which()}, {NEEDED[keyword]}")
        try:
            found = np.atleast_1d(np.array(value, np.float64))
        except (TypeError, ValueError):
            found = np.array([np.nan])
        if found.shape != (COUNTS[keyword],) or not np.isfinite(found).all():
            raise InputError(f"{self.path}: its {keyword}{self._which()} is {value}. Correct its header.")
        return found

    def _which(self) -> str:
        return "" if self.number is None else f" in frame {self.number + 1}"

    def require_place(self) -> None:
        """Check that the frame has a position, an orientation with orthogonal axes and a pixel spacing.

        Raises:
            InputError: Names the tag.
        """
        self.numbers("ImagePositionPatient")
        axes = self.numbers("ImageOrientationPatient").reshape(2, 3)
        if np.abs(axes @ axes.T - np.eye(2)).max() > ROUNDING:
            raise InputError(
                f"{self.path}: its ImageOrientationPatient{self._which()} is {axes.ravel().tolist()}, expected two "
                "orthogonal unit vectors. Correct its header."
            )
        if (self.numbers("PixelSpacing") <= 0).any():
            raise InputError(f"{self.path}: its PixelSpacing is {self.tags['PixelSpacing']}. Correct its header.")


def frames_of(path: Path, header: Any) -> list[Frame]:
    """Return the frames of a file.

    Raises:
        InputError: The file has several frames without functional groups, or not as many groups as frames.
    """
    common = _tags_of(header)
    if SIEMENS_B_VALUE in header:
        common.setdefault("DiffusionBValue", header[SIEMENS_B_VALUE].value)
    groups = header.get("PerFrameFunctionalGroupsSequence")
    count = int(header.get("NumberOfFrames") or 1)
    if not groups:
        if count > 1:
            raise InputError(
                f"{path}: holds {count} frames without positions of their own (PerFrameFunctionalGroupsSequence). "
                "Convert it, for instance with dcm2niix."
            )
        return [Frame(path, None, common)]
    if len(groups) != count:
        raise InputError(f"{path}: holds {count} frames, but its header describes {len(groups)}. Correct its header.")
    for group in header.get("SharedFunctionalGroupsSequence") or ():
        common |= _tags_in(group)
    return [Frame(path, number, {**common, **_tags_in(group)}) for number, group in enumerate(groups)]


def _tags_in(group: Any) -> dict[str, Any]:
    """Return the known tags in a functional group, which is a data set of sequences with one item each."""
    found: dict[str, Any] = {}
    for element in group:
        if element.VR == "SQ" and element.value and not element.tag.is_private:
            found |= _tags_of(element.value[0])
    return found


def _tags_of(item: Any) -> dict[str, Any]:
    found = {}
    for keyword in KEYWORDS & set(item.dir()):
        try:
            found[keyword] = item.get(keyword)
        except (ValueError, TypeError, OverflowError):  # no number; named where it is needed
            found[keyword] = item.get_item(keyword).value
    return {keyword: value for keyword, value in found.items() if value is not None}
