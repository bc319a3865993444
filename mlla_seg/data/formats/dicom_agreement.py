"""What the slices of a DICOM series must have in common beside their geometry, and whether some are missing.

Values of slices that are stored in different ways look alike as numbers, so a slice that differs is never stacked in
silence. A gap in the middle shows in the positions (``dicom_stack.py``); one at an end only in what headers count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from mlla_seg.data.formats.dicom_frames import SCALE, Frame
from mlla_seg.errors import InputError

KIND = ("SamplesPerPixel", "PhotometricInterpretation", "Modality")
"""Tags that say what the values of an image are."""
PATIENT = "PatientID"
SPACE = "FrameOfReferenceUID"
NUMBER = "InstanceNumber"
COUNT = "ImagesInAcquisition"


def require_one_image(frames: Sequence[Frame]) -> None:
    """Check that slices show one patient, and that their values have one kind and one unit.

    Raises:
        InputError: Names a slice that differs from most.
    """
    for keyword in (*KIND, PATIENT):
        usual, odd = _usual([str(frame.tags.get(keyword, "")) for frame in frames])
        if not odd:
            continue
        name = f"{frames[odd[0]].path.parent / frames[odd[0]].name}"
        if keyword == PATIENT:
            raise InputError(
                f"{name}: is of another patient than {len(frames) - len(odd)} of the {len(frames)} slices of its "
                f"series, by {PATIENT}. Put the images of each patient in their own folder."
            )
        found = frames[odd[0]].tags.get(keyword, "missing")
        raise InputError(
            f"{name}: its {keyword} is {found}, but {usual or 'missing'} in most slices of its series. The slices of "
            "a series must match; remove screenshots and other images, or correct its header."
        )
    for keyword in SCALE:
        without = [frame for frame in frames if frame.tags.get(keyword) in (None, "")]
        if 0 < len(without) < len(frames):
            raise InputError(
                f"{without[0].path.parent / without[0].name}: has no {keyword}, which {len(frames) - len(without)} of "
                f"the {len(frames)} slices of its series have, so its values are in another unit. Copy it again, or "
                "correct its header."
            )


def doubts_of(frames: Sequence[Frame]) -> tuple[str, ...]:
    """Return notes for the user on slices that may be missing or may lie elsewhere."""
    notes = []
    if len({frame.tags.get(SPACE) for frame in frames}) > 1:
        notes.append(f"its slices name several frames of reference ({SPACE}); their positions are taken for one")
    if any(frame.number is not None for frame in frames):
        return tuple(notes)  # frames are numbered by their file
    numbers = {number for frame in frames if (number := _whole(frame.tags.get(NUMBER))) is not None}
    if len(numbers) == len(frames):
        first, last = min(*numbers, 1), max(numbers)
        absent = last - first + 1 - len(numbers)
        if 0 < absent < len(frames):  # with more, the numbers count other images too
            one = next(number for number in range(first, last) if number not in numbers)
            notes.append(
                f"{absent} of the numbers {first} to {last} ({NUMBER}) have no slice, such as {one}; the series may "
                "be incomplete"
            )
            return tuple(notes)
    counts = {_whole(frame.tags.get(COUNT)) for frame in frames}
    if len(counts) == 1 and (count := counts.pop()) is not None and count > len(frames):
        notes.append(f"{len(frames)} of {count} images ({COUNT}) are there; the series may be incomplete")
    return tuple(notes)


def _usual(values: Sequence[str]) -> tuple[str, list[int]]:
    """Return the most frequent value, and the places of all others."""
    usual = Counter(values).most_common(1)[0][0]
    return usual, [k for k, value in enumerate(values) if value != usual]


def _whole(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None
