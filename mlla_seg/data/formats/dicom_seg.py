"""DICOM segmentations: masks of a DICOM series that refer to its images and name what they show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlla_seg._version import __version__
from mlla_seg.data.formats.classes import ClassInfo
from mlla_seg.data.formats.dicom import read_stack
from mlla_seg.data.formats.dicom_files import read_header
from mlla_seg.data.formats.dicom_stack import Stack
from mlla_seg.data.formats.picture import Array
from mlla_seg.data.formats.volumes import steps_of, turn_back
from mlla_seg.errors import InputError
from mlla_seg.progress import quiet
from mlla_seg.visible import visible

MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber"),
    *("StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
"""Attributes of patient and study that every DICOM file must have, if only empty; anonymisers remove them."""


def write_dicom_seg(path: Path, mask: Array, classes: Sequence[ClassInfo], source: Path, plane: str) -> None:
    """Write a DICOM segmentation with one segment per class except the first, which references its source series."""
    if not source.is_dir():
        raise InputError(f"{source}: a DICOM segmentation must reference a DICOM series, which this is not.")
    try:
        import highdicom
    except ImportError as error:
        raise InputError(f"{path}: a DICOM segmentation needs highdicom: pip install 'mlla_seg[dicom]'") from error

    stack = read_stack(source)
    images = _source_images(source, stack)
    frames = turn_back(mask, stack.grid, plane).transpose(2, 1, 0).astype(np.uint8)
    order = list(range(len(frames)))
    if stack.frames[0].number is not None:  # the frames of a multi-frame object keep its order
        order.sort(key=lambda k: stack.frames[k].number or 0)
    with quiet():  # highdicom warns of names and codes that it takes nevertheless
        highdicom.seg.Segmentation(
            source_images=images,
            pixel_array=frames[order],
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[
                _segment(highdicom, value, entry) for value, entry in enumerate(classes) if value > 0
            ],
            series_instance_uid=highdicom.UID(),
            series_number=1000,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="mlla_seg",
            manufacturer_model_name="mlla_seg",
            software_versions=__version__,
            device_serial_number="0",
            series_description="mlla_seg",
            omit_empty_frames=bool(frames.any()),
        ).save_as(path)


def _segment(highdicom: Any, value: int, entry: ClassInfo) -> Any:
    """Return the description of a segment, with the code of its class or else a private one."""
    from pydicom.sr.codedict import codes

    label, own = _label(entry.name), entry.code
    code = (own.value, own.scheme, own.meaning) if own else (f"class{value}", "99MLLA_SEG", label)
    return highdicom.seg.SegmentDescription(
        segment_number=value,
        segment_label=label,
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=highdicom.sr.CodedConcept(
            *(code or (f"class{value}", "99MLLA_SEG", _label(entry.name)))
        ),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="mlla_seg", version=__version__, family=codes.cid7162.ArtificialIntelligence
        ),
        display_color=highdicom.color.CIELabColor.from_rgb(*entry.colour),
    )


def _label(name: str) -> str:
    """Return a name as DICOM takes it (value representation LO): at most 64 characters, without backslashes."""
    return visible(name).replace("\\", "/")[:64]


def _source_images(source: Path, stack: Stack) -> list[Any]:
    """Return the headers of the series, with what highdicom needs of them where they lack it.

    Raises:
        InputError: There is no frame of reference, or there are several multi-frame files.
    """
    first = stack.frames[0]
    images = [read_header(path) for path in dict.fromkeys(frame.path for frame in stack.frames)]
    if len(images) > 1 and first.number is not None:
        raise InputError(
            f"{source}: a DICOM segmentation can refer to one multi-frame file, found {len(images)}. "
            "Write --format nii.gz."
        )
    for image in images:
        for name in MAY_BE_EMPTY:
            if name not in image:
                setattr(image, name, "")
        if not image.get("FrameOfReferenceUID"):
            raise InputError(
                f"{source}: its images have no FrameOfReferenceUID, by which a DICOM segmentation refers to their "
                "positions. Write --format nii.gz."
            )
        _complete_geometry(image, stack)
    return images


def _complete_geometry(image: Any, stack: Stack) -> None:
    """Give a header the orientation of the whole stack, to the last digit, and a slice thickness."""
    from highdicom import PixelMeasuresSequence, PlaneOrientationSequence
    from pydicom.dataset import Dataset

    first = stack.frames[0]
    orientation = first.numbers("ImageOrientationPatient").tolist()
    step = float(steps_of(stack.grid.affine)[2])
    thickness = float(first.tags.get("SliceThickness") or step)
    if first.number is None:
        image.ImageOrientationPatient = orientation
        image.SliceThickness = f"{thickness:.6g}"
        return
    if not image.get("SharedFunctionalGroupsSequence"):
        image.SharedFunctionalGroupsSequence = [Dataset()]
    (shared,) = image.SharedFunctionalGroupsSequence
    shared.PlaneOrientationSequence = PlaneOrientationSequence("PATIENT", orientation)
    shared.PixelMeasuresSequence = PixelMeasuresSequence(first.numbers("PixelSpacing").tolist(), thickness, step)
