"""Values of DICOM frames: stored integers, rescaled by the tags of each frame to units such as HU."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from mlla_seg.data.formats.claims import ANY, require_room
from mlla_seg.data.formats.dicom_files import import_pydicom, require_room_to_inflate
from mlla_seg.data.formats.dicom_frames import SCALE, Frame
from mlla_seg.data.formats.picture import Array
from mlla_seg.data.formats.volumes import simple_itk
from mlla_seg.errors import InputError
from mlla_seg.progress import quiet

DTYPES = (np.uint8, np.int16, np.uint16)
"""Types in which integers are kept; see ``picture.compact``."""
INVERTED = "is MONOCHROME1, which shows low values bright; its values are not inverted"
PADDED = "has pixels outside of the scanned field (PixelPaddingValue); they get the lowest value inside"
UNSCALED = "has no RescaleSlope and RescaleIntercept; its stored values are taken for HU"


def values_of(frames: Sequence[Frame]) -> tuple[Array, tuple[str, ...]]:
    """Read the pixels of frames.

    Args:
        frames: Frames from the first slice to the last, all of one size.

    Returns:
        ``(I, J, K)``, or ``(I, J, K, C)`` for colours, in rescaled units, and notes. Integers of at most 16 bits if all
        slopes and intercepts are whole, else float32.

    Raises:
        InputError: A file is cut short or compressed by an unknown method, or its values cannot be scaled.
    """
    first = frames[0].tags
    channels = () if first.get("SamplesPerPixel", 1) == 1 else (int(first["SamplesPerPixel"]),)
    shape, dtype = (len(frames), int(first["Rows"]), int(first["Columns"]), *channels), np.dtype(_dtype(frames))
    held = sum(path.stat().st_size for path in {frame.path for frame in frames})
    require_room(frames[0].path, shape, dtype.itemsize, held, ANY)
    array = np.empty(shape, dtype)
    outside: dict[int, Array] = {}
    places: dict[Path, list[int]] = defaultdict(list)
    for k, frame in enumerate(frames):
        places[frame.path].append(k)
    for path, own in places.items():
        stored = stored_pixels(path, frames[own[0]])
        for k in own:
            pixels = stored[frames[k].number or 0]
            slope, intercept = _scale(frames[k])
            array[k] = pixels * slope + intercept  # in float64, exact for integers
            if (padded := _padded(frames[k], pixels)) is not None:
                outside[k] = padded
    notes = [INVERTED] if first.get("PhotometricInterpretation") == "MONOCHROME1" else []
    if first.get("Modality") == "CT" and not any(keyword in first for keyword in SCALE):
        notes.append(UNSCALED)
    if _fill(array, outside):
        notes.append(PADDED)
    return array.transpose(2, 1, 0, *range(3, array.ndim)), tuple(notes)


def stored_pixels(path: Path, frame: Frame) -> Array:
    """Read the integers stored in a file, ``(frames, rows, columns)`` or with colours last.

    Args:
        path: DICOM file.
        frame: One of its frames, for its tags.

    Raises:
        InputError: The file is cut short, or compressed by an unknown method.
    """
    pydicom = import_pydicom(path)
    tags = frame.tags
    if tags.get("PhotometricInterpretation") == "PALETTE COLOR":
        raise InputError(f"{path}: its pixels are numbers of colours in a palette, not intensities. Remove it.")
    require_room_to_inflate(path)
    with quiet():
        data = pydicom.dcmread(path, force=True)
    if "PixelData" not in data:
        raise InputError(f"{path}: is cut short, it has no complete PixelData. Copy it again.")
    syntax = data.file_meta.get("TransferSyntaxUID")
    if syntax is None:  # a file without a preamble
        implicit, little = data.original_encoding
        uids = pydicom.uid
        plain = uids.ExplicitVRLittleEndian if little else uids.ExplicitVRBigEndian
        data.file_meta.TransferSyntaxUID = syntax = uids.ImplicitVRLittleEndian if implicit else plain
    count = int(data.get("NumberOfFrames") or 1)
    shape = (count, int(tags["Rows"]), int(tags["Columns"]), *(() if data.get("SamplesPerPixel", 1) == 1 else (-1,)))
    if syntax.is_compressed and syntax.is_encapsulated:
        require_room(path, shape[:3], data.BitsAllocated // 8, len(data.PixelData), ANY)
        return _decompressed(path, data).reshape(shape)
    size = count * int(tags["Rows"]) * int(tags["Columns"]) * data.get("SamplesPerPixel", 1) * data.BitsAllocated // 8
    if len(data.PixelData) < size:
        raise InputError(f"{path}: is cut short, {len(data.PixelData)} of {size} bytes of pixels. Copy it again.")
    with quiet():
        pixels = data.pixel_array.reshape(shape)
    # Unused bits may hold overlays. Shifting there and back clears them, and extends the sign.
    above = data.BitsAllocated - 1 - data.get("HighBit", data.BitsStored - 1)
    return np.asarray((pixels << above) >> (data.BitsAllocated - data.BitsStored))


def _decompressed(path: Path, data: Any) -> Array:
    """Decompress pixels with pydicom, or with GDCM what pydicom has no plug-in for.

    Raises:
        InputError: Neither can.
    """
    from pydicom.pixels import get_decoder
    from pydicom.uid import JPEGExtended12Bit

    syntax = data.file_meta.TransferSyntaxUID
    try:
        available = get_decoder(syntax).is_available and not (syntax == JPEGExtended12Bit and data.BitsStored > 8)
    except NotImplementedError:
        available = False
    try:
        with quiet():
            return np.asarray(data.pixel_array if available else _by_gdcm(path, data))
    except InputError:
        raise
    except Exception as error:  # each plug-in has its own
        if available:
            raise InputError(
                f"{path}: its compressed pixels are damaged ({' '.join(str(error).split())}). Copy it again."
            ) from error
        raise InputError(
            f"{path}: is compressed by {syntax.name}, for which no decoder is installed. Install a plug-in of pydicom "
            "such as pylibjpeg, or decompress it with dcmdjpeg or gdcmconv --raw."
        ) from error


def _by_gdcm(path: Path, data: Any) -> Array:
    """Decompress pixels with GDCM, which must not see the tags by which it would rescale or invert them."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import MultiFrameGrayscaleWordSecondaryCaptureImageStorage, SecondaryCaptureImageStorage

    sitk = simple_itk(path)
    plain = Dataset()
    for keyword in ("SamplesPerPixel", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "NumberOfFrames"):
        if keyword in data:
            setattr(plain, keyword, data[keyword].value)
    plain.PixelRepresentation = data.PixelRepresentation
    inverted = data.PhotometricInterpretation == "MONOCHROME1"
    plain.PhotometricInterpretation = "MONOCHROME2" if inverted else data.PhotometricInterpretation
    plain.PixelData = data.PixelData
    plain["PixelData"].is_undefined_length = True
    many = "NumberOfFrames" in data
    plain.SOPClassUID = MultiFrameGrayscaleWordSecondaryCaptureImageStorage if many else SecondaryCaptureImageStorage
    plain.SOPInstanceUID = data.SOPInstanceUID
    plain.file_meta = FileMetaDataset()
    plain.file_meta.TransferSyntaxUID = data.file_meta.TransferSyntaxUID
    with TemporaryDirectory() as folder:
        file = Path(folder) / "pixels.dcm"
        plain.save_as(file, enforce_file_format=True)
        return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(file))))


def _scale(frame: Frame) -> tuple[float, float]:
    """Return slope and intercept of a frame."""
    if "ModalityLUTSequence" in frame.tags:
        raise InputError(
            f"{frame.path}: its values follow a table (ModalityLUTSequence), which is not supported. "
            "Convert it to an image with RescaleSlope and RescaleIntercept."
        )
    slope, intercept = (
        float(frame.numbers(keyword)[0]) if frame.tags.get(keyword) not in (None, "") else usual
        for keyword, usual in zip(SCALE, (1.0, 0.0), strict=True)
    )
    if slope == 0:
        raise InputError(f"{frame.path}: its RescaleSlope is 0, which makes all values equal. Correct its header.")
    return slope, intercept


def _dtype(frames: Sequence[Frame]) -> Any:
    """Return the smallest type that holds all values the frames can have."""
    values = []
    for frame in frames:
        bits = int(frame.tags["BitsStored"])
        signed = bool(frame.tags.get("PixelRepresentation"))
        slope, intercept = _scale(frame)
        if not (slope.is_integer() and intercept.is_integer()):
            return np.float32
        lowest = -(2 ** (bits - 1)) if signed else 0
        values += [limit * slope + intercept for limit in (lowest, lowest + 2**bits - 1)]
    fitting = (dtype for dtype in DTYPES if np.iinfo(dtype).min <= min(values) and max(values) <= np.iinfo(dtype).max)
    return next(fitting, np.float32)


def _padded(frame: Frame, pixels: Array) -> Array | None:
    """Return where stored pixels lie outside of the scanned field; None if the header names no value for them."""
    if frame.tags.get("PixelPaddingValue") is None or pixels.ndim > 2:
        return None
    limits = [frame.tags["PixelPaddingValue"], frame.tags.get("PixelPaddingRangeLimit")]
    # Some writers store the limits with the wrong sign: what counts are their bits.
    bits, signed = int(frame.tags["BitsStored"]), bool(frame.tags.get("PixelRepresentation"))
    numbers = [int(limit) % 2**bits for limit in limits if limit is not None]
    numbers = [number - 2**bits if signed and number >= 2 ** (bits - 1) else number for number in numbers]
    found = (pixels >= min(numbers)) & (pixels <= max(numbers))
    return found if found.any() else None


def _fill(array: Array, outside: dict[int, Array]) -> bool:
    """Give pixels outside of the scanned field the lowest value inside; return whether this changed any."""
    inside = [array[k][~outside[k]] if k in outside else array[k] for k in range(len(array))] if outside else []
    lowest = min((values.min() for values in inside if values.size), default=None)
    if lowest is None:
        return False
    changed = False
    for k, padded in outside.items():
        changed |= bool((array[k][padded] != lowest).any())
        array[k][padded] = lowest
    return changed
