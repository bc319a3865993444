"""Geometry of DICOM series, compared with GDCM, which computes it on its own."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import generate_uid

from dicom_samples import DICOM_SHAPE, DICOM_SPACING, dicom_series, enhanced_series
from mlla_seg.data.formats.dicom import read_stack
from mlla_seg.data.formats.registry import read_image
from mlla_seg.data.formats.volumes import LPS
from mlla_seg.errors import InputError


def in_order(folder):
    return sorted(folder.iterdir(), key=lambda path: pydicom.dcmread(path).InstanceNumber)


def rewrite(path, target=None, **tags):
    data = pydicom.dcmread(path)
    for keyword, value in tags.items():
        setattr(data, keyword, value)
    data.save_as(target or path)


def affine_of_gdcm(image):
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return LPS @ affine


ORIENTATIONS = {
    "axial": [1, 0, 0, 0, 1, 0],
    "sagittal": [0, 1, 0, 0, 0, -1],
    "coronal": [1, 0, 0, 0, 0, -1],
    "feet first": [-1, 0, 0, 0, 1, 0],
    "oblique": [0.96, 0.28, 0, -0.168, 0.576, 0.8],
}


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_affine_and_values_are_those_of_gdcm(tmp_path, name):
    series = dicom_series(tmp_path / "ct")
    orientation = np.array(ORIENTATIONS[name], float)
    normal = np.cross(orientation[:3], orientation[3:])
    for k, path in enumerate(in_order(series)):
        place = (np.array([-50, 20, 100]) + 2.5 * k * normal).round(6).tolist()
        rewrite(path, ImageOrientationPatient=orientation.tolist(), ImagePositionPatient=place)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(series)))
    image = reader.Execute()
    stack = read_stack(series)
    assert stack.grid.shape == image.GetSize()
    np.testing.assert_allclose(stack.grid.affine, affine_of_gdcm(image), atol=1e-4)
    picture = read_image(series)
    slices, rows, columns = np.indices(picture.array[:, 0].shape).reshape(3, -1)
    places = LPS @ picture.affine @ np.stack([slices, rows, columns, np.ones_like(rows)])
    wanted = [image[image.TransformPhysicalPointToIndex(place)] for place in places[:3].T]
    np.testing.assert_array_equal(picture.array.ravel(), wanted)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "per frame"])
@pytest.mark.parametrize("order", [None, [2, 0, 1, 5, 4, 3], [5, 4, 3, 2, 1, 0]], ids=["sorted", "mixed", "reversed"])
def test_enhanced_multi_frame_file_is_the_volume_of_its_slices(tmp_path, shared, order):
    series = enhanced_series(tmp_path / "ct", shared, order)
    stack = read_stack(series)
    plain = read_stack(dicom_series(tmp_path / "plain"))
    assert stack.grid.shape == plain.grid.shape
    np.testing.assert_allclose(stack.grid.affine, plain.grid.affine, atol=1e-9)
    frames = pydicom.dcmread(series / "enhanced.dcm")
    wanted = frames.pixel_array * 2 - 1024 + np.arange(6)[:, None, None]  # each frame has its own intercept
    wanted = wanted[np.argsort(order or range(6))]
    picture = read_image(series)
    np.testing.assert_array_equal(picture.array[:, 0], wanted)
    assert picture.spacing_mm == pytest.approx(DICOM_SPACING)
    if shared and order is None:
        image = sitk.ReadImage(str(series / "enhanced.dcm"))
        assert image.GetSize() == stack.grid.shape
        np.testing.assert_allclose(affine_of_gdcm(image), stack.grid.affine, atol=1e-6)


def test_frames_without_functional_groups_or_with_too_few_are_refused(tmp_path):
    path = enhanced_series(tmp_path / "ct") / "enhanced.dcm"
    rewrite(path, NumberOfFrames=5)
    with pytest.raises(InputError, match=r"enhanced\.dcm: holds 5 frames, but its header describes 6"):
        read_image(path.parent)
    data = pydicom.dcmread(path)
    del data.PerFrameFunctionalGroupsSequence, data.SharedFunctionalGroupsSequence
    data.ImagePositionPatient = [0, 0, 0]
    data.save_as(path)
    with pytest.raises(InputError, match=r"holds 5 frames without positions of their own .*dcm2niix"):
        read_image(path.parent)


@pytest.mark.parametrize(("step", "decimals"), [(1.25, 1), (0.625, 1), (3.3333333, 1), (0.7, 2)])
def test_rounded_positions_are_an_even_stack(tmp_path, step, decimals):
    series = dicom_series(tmp_path / "ct")
    for k, path in enumerate(in_order(series)):
        rewrite(path, ImagePositionPatient=[0, 0, round(-100 + step * k, decimals)])
    assert read_image(series).spacing_mm[0] == pytest.approx(step, rel=0.02)


@pytest.mark.parametrize("missing", [(1,), (2,), (4,), (2, 3), (1, 3)])
def test_missing_slices_are_told_with_their_place(tmp_path, missing):
    series = dicom_series(tmp_path / "ct")
    paths = in_order(series)
    for k in missing:
        paths[k].unlink()
    before = missing[0] - 1
    after = next(k for k in range(missing[0], 6) if k not in missing)
    count = after - before - 1
    plural = "s" if count > 1 else ""
    gaps = r" \(2 such gaps\)" if missing == (1, 3) else ""
    between = f"between {paths[before].name} and {paths[after].name}"
    said = f"{count} slice{plural} missing {between}, {2.5 * (count + 1):.3g} mm apart where others are 2.5 mm{gaps}"
    with pytest.raises(InputError, match=said):
        read_image(series)


@pytest.mark.parametrize(
    ("keyword", "values"),
    [
        ("EchoTime", (2.3, 4.6)),
        ("DiffusionBValue", (0.0, 800.0)),
        ("TriggerTime", (0.0, 40.0)),
        ("TemporalPositionIdentifier", (1, 2)),
        ("AcquisitionTime", ("120000", "120030")),
        ("ImageType", (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"])),
    ],
)
def test_positions_that_coincide_are_told_with_the_tag_that_differs(tmp_path, keyword, values):
    series = dicom_series(tmp_path / "ct")
    for k, path in enumerate(in_order(series)):
        second = {keyword: values[1], "InstanceNumber": 7 + k, "SOPInstanceUID": generate_uid()}
        rewrite(path, series / f"second{k}", **second)
        rewrite(path, **{keyword: values[0]})
    with pytest.raises(InputError, match=f"at 6 of 6 positions; they differ in {keyword} ") as caught:
        read_image(series)
    assert "Put each phase, echo or repetition of a scan in its own folder." in str(caught.value)


def test_frames_that_coincide_are_told_too(tmp_path):
    path = enhanced_series(tmp_path / "ct") / "enhanced.dcm"
    data = pydicom.dcmread(path)
    for k, group in enumerate(data.PerFrameFunctionalGroupsSequence):
        group.PlanePositionSequence[0].ImagePositionPatient = [0, 0, 2.5 * (k // 2)]
        group.FrameContentSequence[0].TemporalPositionIndex = k % 2 + 1
    data.save_as(path)
    with pytest.raises(
        InputError, match=r"frame 1 of enhanced\.dcm and frame 2.*differ in TemporalPositionIndex \(1, 2\)"
    ):
        read_image(path.parent)


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0.9, 0]}, "expected two orthogonal unit vectors"),
        (
            {"ImageOrientationPatient": [1, 0, 0]},
            r"its ImageOrientationPatient is \[1\.0, 0\.0, 0\.0\]\. Correct its header",
        ),
        ({"PixelSpacing": [0, 0.7]}, r"its PixelSpacing is \[0\.0, 0\.7\]"),
        ({"PixelSpacing": None}, "has no PixelSpacing, so its size in millimetres is unknown"),
        ({"PixelSpacing": [0.8, 0.8]}, "its PixelSpacing is .* The slices of a series must match"),
        ({"Rows": 5}, "its Rows is 5, but .* has 10"),
    ],
)
def test_tags_that_are_wrong_are_named(tmp_path, tags, said):
    series = dicom_series(tmp_path / "ct")
    rewrite(in_order(series)[3], **tags)
    with pytest.raises(InputError, match=said):
        read_image(series)


def test_axes_of_rows_and_columns_have_their_own_spacing(tmp_path):
    assert read_stack(dicom_series(tmp_path / "ct")).grid.shape == DICOM_SHAPE[::-1]
    steps = np.linalg.norm(read_stack(tmp_path / "ct").grid.affine[:3, :3], axis=0)
    np.testing.assert_allclose(steps, DICOM_SPACING[::-1])
