"""Values of DICOM series: every tag that changes them, and compressed files, compared with what was written."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.encaps import encapsulate
from pydicom.uid import HTJ2KLossless, JPEGLosslessSV1

from dicom_samples import DICOM_SHAPE, dicom_series
from mlla_seg.data.formats.registry import read_image
from mlla_seg.errors import InputError

STORED = np.random.default_rng(0).integers(-1000, 1000, DICOM_SHAPE)


def write(folder, stored=STORED, remove=(), **tags):
    """A series with these stored values; a list of tags has one for each slice."""
    paths = sorted(dicom_series(folder).iterdir(), key=lambda path: pydicom.dcmread(path).InstanceNumber)
    for k, path in enumerate(paths):
        data = pydicom.dcmread(path)
        for keyword, value in tags.items():
            setattr(data, keyword, value[k] if isinstance(value, list) else value)
            data[keyword].VR = "SS" if "Padding" in keyword else data[keyword].VR
        for keyword in remove:
            delattr(data, keyword)
        data.PixelData = (
            stored[k].astype(f"<{'i' if data.PixelRepresentation else 'u'}{data.BitsAllocated // 8}").tobytes()
        )
        data.save_as(path)
    return folder


def test_slopes_of_their_own_keep_their_fractions(tmp_path):
    slopes, intercepts = [0.1 + 0.01 * k for k in range(6)], [0.5 * k for k in range(6)]
    picture = read_image(write(tmp_path / "pet", RescaleSlope=slopes, RescaleIntercept=intercepts))
    wanted = STORED * np.reshape(slopes, (6, 1, 1)) + np.reshape(intercepts, (6, 1, 1))
    assert picture.array.dtype == np.float32
    np.testing.assert_allclose(picture.array[:, 0], wanted, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("tags", "dtype"),
    [
        ({"BitsStored": 12, "HighBit": 11}, np.int16),
        ({"BitsStored": 16, "HighBit": 15}, np.float32),  # 16 bits, less 1024
        ({"BitsStored": 16, "HighBit": 15, "RescaleIntercept": 0}, np.int16),
    ],
)
def test_whole_values_stay_exact(tmp_path, tags, dtype):
    picture = read_image(write(tmp_path / "ct", **{"RescaleSlope": 1, "RescaleIntercept": -1024, **tags}))
    assert picture.array.dtype == dtype
    np.testing.assert_array_equal(picture.array[:, 0], STORED + tags.get("RescaleIntercept", -1024))


@pytest.mark.parametrize("signed", [0, 1])
def test_unused_bits_are_cleared(tmp_path, signed):
    values = STORED if signed else STORED + 1000
    stored = (values & 0xFFF) | 0x5000  # an overlay above 12 bits
    tags = dict(BitsStored=12, HighBit=11, PixelRepresentation=0, RescaleSlope=1, RescaleIntercept=0)
    folder = write(tmp_path / "mr", stored, **tags)
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        data.PixelRepresentation = signed
        data.save_as(path)
    np.testing.assert_array_equal(read_image(folder).array[:, 0], values)


def test_monochrome1_is_not_inverted(tmp_path):
    picture = read_image(write(tmp_path / "ct", PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(picture.array[:, 0], STORED * 2 - 1024)
    assert picture.notes == ("is MONOCHROME1, which shows low values bright; its values are not inverted",)


@pytest.mark.parametrize("limit", [None, -995])
def test_padding_gets_the_lowest_value_of_the_image(tmp_path, limit):
    stored = STORED.copy()
    stored[:, :2] = -2000
    stored[:, 2, 0] = -1998
    stored[:, 2, 1:] = 5
    folder = write(
        tmp_path / "ct", stored, PixelPaddingValue=-2000, **({} if limit is None else {"PixelPaddingRangeLimit": -1996})
    )
    picture = read_image(folder)
    padded = stored == -2000 if limit is None else stored < -1990
    wanted = np.where(padded, stored[~padded].min(), stored) * 2 - 1024
    np.testing.assert_array_equal(picture.array[:, 0], wanted)
    assert [note for note in picture.notes if "PixelPaddingValue" in note]


def test_ct_without_rescaling_and_a_slope_of_zero(tmp_path):
    picture = read_image(write(tmp_path / "ct", remove=("RescaleSlope", "RescaleIntercept")))
    np.testing.assert_array_equal(picture.array[:, 0], STORED)
    assert picture.notes == ("has no RescaleSlope and RescaleIntercept; its stored values are taken for HU",)
    with pytest.raises(InputError, match="its RescaleSlope is 0"):
        read_image(write(tmp_path / "zero", RescaleSlope=[2, 2, 2, 0, 2, 2]))


@pytest.mark.parametrize("method", ["RLE", "JPEG", "JPEG2000", "deflated"])
@pytest.mark.parametrize("inverted", [False, True])
def test_compressed_files_have_the_same_values(tmp_path, method, inverted):
    """JPEG is the lossless one, which pydicom alone cannot read."""
    kind = {"PhotometricInterpretation": "MONOCHROME1"} if inverted else {}
    folder = write(tmp_path / "ct", RescaleSlope=1.5, RescaleIntercept=-3, **kind)
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        if method == "RLE":
            data.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
        elif method == "deflated":
            data.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
        else:
            compress(data, method, tmp_path)
        data.save_as(path, enforce_file_format=True)
    picture = read_image(folder)
    np.testing.assert_allclose(picture.array[:, 0], STORED * 1.5 - 3)


def compress(data, method, tmp_path):
    """Compress by GDCM, keeping all other tags."""
    image = sitk.GetImageFromArray(data.pixel_array)
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(tmp_path / "compressed.dcm"))
    writer.UseCompressionOn()
    writer.SetCompressor(method)
    writer.Execute(image)
    written = pydicom.dcmread(tmp_path / "compressed.dcm")
    assert written.file_meta.TransferSyntaxUID == (
        JPEGLosslessSV1 if method == "JPEG" else pydicom.uid.JPEG2000Lossless
    )
    data.file_meta.TransferSyntaxUID = written.file_meta.TransferSyntaxUID
    data.PixelData = written.PixelData
    data["PixelData"].is_undefined_length = True


def test_compression_without_a_decoder_is_one_line(tmp_path):
    folder = write(tmp_path / "ct")
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = HTJ2KLossless
        data.PixelData = encapsulate([b"\0" * 64])
        data["PixelData"].is_undefined_length = True
        data.save_as(path)
    with pytest.raises(InputError, match=r"is compressed by High-Throughput JPEG 2000 .*no decoder") as caught:
        read_image(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0.3, 0.7, 0.98])
@pytest.mark.parametrize("method", ["JPEG", "JPEG2000"])
def test_compressed_files_cut_short_are_named(tmp_path, method, kept):
    folder = write(tmp_path / "ct")
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        compress(data, method, tmp_path)
        data.save_as(path, enforce_file_format=True)
    content, start = path.read_bytes(), len(path.read_bytes()) - len(data.PixelData)
    path.write_bytes(content[: start + int(kept * len(data.PixelData))])
    with pytest.raises(InputError, match=rf"{path.name}: is cut short, it has no complete PixelData"):
        read_image(folder)
