"""Volumes in all formats: consistent geometry when read, written back, and converted."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from test_registry import AXIS_CODES, CLASSES, PATIENT, SEEN, scan, tilt

from mlla_seg.data.card import load_card
from mlla_seg.data.cases import Case
from mlla_seg.data.formats.planes import ACQUIRED_PLANES
from mlla_seg.data.formats.registry import FORMATS, mask_path, read_channels, read_image, read_mask, write_mask
from mlla_seg.data.formats.volumes import LPS, coarsest_axis
from mlla_seg.data.formats.voxel_grids import require_same_grid
from mlla_seg.data.reading import open_case
from mlla_seg.errors import InputError
from samples import classes_of, write_nifti

ITK_FORMATS = (".nrrd", ".mha", ".mhd", ".nhdr")
VOLUME_FORMATS = [name for name in FORMATS if name != "dicom-seg"]


def write_itk(path, array, affine):
    """Write ``array`` through SimpleITK as a volume whose affine counts to the right and anterior."""
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(np.moveaxis(array, (0, 1, 2), (2, 1, 0))), array.ndim == 4)
    image.SetSpacing(spacing)
    image.SetDirection((lps[:3, :3] / spacing).ravel())
    image.SetOrigin(lps[:3, 3])
    sitk.WriteImage(image, str(path))
    return path


def points_of(path, value):
    """Positions of the voxels with a value, in ITK's millimetres, read independently with SimpleITK."""
    image = sitk.ReadImage(str(path))
    found = np.argwhere(sitk.GetArrayFromImage(image) == value)
    return np.array([image.TransformIndexToPhysicalPoint([int(n) for n in place[::-1]]) for place in found])


@pytest.mark.parametrize("code", AXIS_CODES[::5])
@pytest.mark.parametrize("rotation", [np.eye(3), tilt()], ids=["straight", "oblique"])
@pytest.mark.parametrize("suffix", ITK_FORMATS)
def test_formats_of_itk_show_the_same_slices_as_nifti(tmp_path, code, rotation, suffix):
    stored, affine = scan(code, rotation)
    source = write_itk(tmp_path / f"ct{suffix}", stored, affine)
    nifti = write_nifti(tmp_path / "ct.nii", stored, affine)
    for plane, (seen, spacing) in SEEN.items():
        picture = read_image(source, plane)
        np.testing.assert_array_equal(picture.array, seen[:, None])
        assert picture.spacing_mm == pytest.approx(spacing, rel=1e-5)
        require_same_grid(nifti, read_image(nifti, plane), source, picture)
        output = mask_path(source, tmp_path / "masks")
        assert output.suffix in (".nrrd", ".mha")
        write_mask(output, picture.array[:, 0], CLASSES, source, plane)
        mask, image = sitk.ReadImage(str(output)), sitk.ReadImage(str(source))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), sitk.GetArrayFromImage(image))
        np.testing.assert_allclose(mask.GetOrigin(), image.GetOrigin(), atol=1e-9)
        np.testing.assert_allclose(mask.GetSpacing(), image.GetSpacing(), rtol=1e-12)
        np.testing.assert_allclose(mask.GetDirection(), image.GetDirection(), atol=1e-12)


@pytest.mark.parametrize("format", VOLUME_FORMATS)
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("code", ["RAS", "LPS", "IRP"])
def test_a_mask_marks_the_same_place_in_every_format(tmp_path, suffix, format, code):
    stored, affine = scan(code, tilt())
    write = write_nifti if suffix == ".nii.gz" else write_itk
    source = write(tmp_path / f"ct{suffix}", stored, affine)
    picture = read_image(source, "coronal")
    output = mask_path(source, tmp_path / "masks", format)
    assert output.name == f"ct{FORMATS[format]}"
    write_mask(output, np.where(picture.array[:, 0] == 37, 2, 0), CLASSES[:3], source, "coronal")
    np.testing.assert_allclose(points_of(output, 2), points_of(source, 37), atol=1e-4)
    assert points_of(output, 2).shape == (1, 3)
    assert sitk.ReadImage(str(output)).GetPixelID() == sitk.sitkUInt8
    if format.startswith("nii") and suffix != ".nii.gz":
        header = nib.load(output).header
        assert (int(header["qform_code"]), int(header["sform_code"])) == (1, 1)
        np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-5)


def test_slicer_finds_names_and_colours(tmp_path):
    stored, affine = scan("RAS", np.eye(3))
    source = write_nifti(tmp_path / "ct.nii.gz", stored, affine)
    classes = classes_of(["background", "left kidney", "liver"], [(0, 0, 0), (255, 51, 0), (0, 102, 255)])
    path = tmp_path / "ct.seg.nrrd"
    labels = read_image(source).array[:, 0] % 3
    write_mask(path, labels, classes, source)
    image = sitk.ReadImage(str(path))
    facts = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    assert (facts["Segment0_Name"], facts["Segment0_LabelValue"]) == ("left kidney", "1")
    assert [float(level) for level in facts["Segment1_Color"].split()] == pytest.approx([0, 0.4, 1])
    assert (facts["Segment1_ID"], facts["Segment1_LabelValue"], facts["Segment1_Layer"]) == ("Segment_2", "2", "0")
    assert facts["Segment0_Extent"] == "0 2 0 3 0 4"
    assert facts["Segmentation_MasterRepresentation"] == "Binary labelmap"
    assert "Segment2_Name" not in facts
    np.testing.assert_array_equal(read_mask(path).array[:, 0], labels)


@pytest.mark.parametrize("channels", [2, 3])
def test_several_numbers_per_voxel_are_channels(tmp_path, channels):
    stored, affine = scan("LPS", np.eye(3))
    stack = np.stack([stored + k for k in range(channels)], axis=-1)
    picture = read_image(write_itk(tmp_path / "mr.nrrd", stack, affine))
    seen, _ = SEEN["axial"]
    np.testing.assert_array_equal(picture.array, np.stack([seen + k for k in range(channels)], axis=1))


@pytest.mark.parametrize("channels", [1, 2])
def test_several_numbers_per_voxel_of_a_nifti_are_channels_of_which_its_mask_knows_nothing(tmp_path, channels):
    stored = np.arange(60 * channels, dtype=np.int16).reshape(5, 4, 3, 1, channels)
    image = nib.Nifti1Image(stored, np.eye(4))
    image.header.set_intent("vector")
    image.to_filename(tmp_path / "mr.nii")
    picture = read_image(tmp_path / "mr.nii")
    assert picture.array.shape == (3, channels, 4, 5)
    write_mask(tmp_path / "mask.nii", np.zeros((3, 4, 5), np.uint8), CLASSES, tmp_path / "mr.nii")
    mask = nib.load(tmp_path / "mask.nii")
    assert mask.shape == (5, 4, 3) and mask.header.get_intent()[0] == "none"


def test_fourth_axis_is_channels_and_two_axes_are_one_slice(tmp_path):
    image = sitk.GetImageFromArray(np.arange(120, dtype=np.int16).reshape(2, 3, 4, 5), isVector=False)
    sitk.WriteImage(image, str(tmp_path / "four.nrrd"))
    assert read_image(tmp_path / "four.nrrd").array.shape == (3, 2, 4, 5)
    flat = sitk.GetImageFromArray(np.arange(20, dtype=np.int16).reshape(4, 5))
    flat.SetSpacing((0.5, 2.0))
    sitk.WriteImage(flat, str(tmp_path / "flat.mha"))
    picture = read_image(tmp_path / "flat.mha")
    assert picture.array[0, 0].tolist() == np.arange(20).reshape(4, 5).tolist()
    assert picture.spacing_mm == (1.0, 2.0, 0.5)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_truncated_volume_is_named(tmp_path, suffix):
    _, affine = scan("RAS", np.eye(3))
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 40)).astype(np.uint8)
    path = (write_nifti if suffix == ".nii.gz" else write_itk)(tmp_path / f"ct{suffix}", noise, affine)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=rf"ct{suffix}: .*(cannot be read|cannot hold).*Is it complete\? Copy or"):
        read_image(path)


def test_mask_and_image_of_different_formats_are_compared(tmp_path):
    stored, affine = scan("RAS", np.eye(3))
    image = write_nifti(tmp_path / "ct.nii.gz", stored, affine)
    affine = affine.copy()
    affine[2, 3] += 5
    mask = write_itk(tmp_path / "mask.nrrd", stored, affine)
    with pytest.raises(InputError, match=r"mask\.nrrd: its affine differs from ct\.nii\.gz by up to 5 mm\."):
        require_same_grid(image, read_image(image), mask, read_mask(mask))
    with pytest.raises(InputError, match=r"by up to 5 mm\."):
        read_channels([image, mask])


def test_masks_of_arrays_are_no_volumes(tmp_path):
    np.savez(tmp_path / "ct.npz", image=PATIENT)
    for name in VOLUME_FORMATS:
        with pytest.raises(InputError, match=r"ct\.npz: has no voxel geometry.*Omit --format"):
            write_mask(tmp_path / f"mask{FORMATS[name]}", PATIENT, CLASSES, tmp_path / "ct.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["ct.npz"]


def test_large_integers_are_not_copied_to_wider_types(tmp_path):
    stored, affine = scan("RAS", np.eye(3))
    for dtype, expected in (
        (np.int16, np.int16),
        (np.uint8, np.uint8),
        (np.float64, np.float32),
        (np.int32, np.float32),
    ):
        path = write_nifti(tmp_path / "ct.nii", stored.astype(dtype), affine)
        assert read_image(path).array.dtype == expected
    scaled = nib.Nifti1Image(stored.astype(np.int16), affine)
    scaled.header.set_slope_inter(0.5, -100)
    scaled.to_filename(tmp_path / "scaled.nii.gz")
    array = read_image(tmp_path / "scaled.nii.gz").array
    assert array.dtype == np.float32
    assert array.max() == 59 * 0.5 - 100


def stack(slices, rows, columns, angle=0.0):
    """A stack of 4 slices of 5 x 6 pixels in these directions, rotated about the body's axis, and its content."""
    towards = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
    turn = np.eye(3)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.column_stack([towards[axis] for axis in (slices, rows, columns)]) * (8.0, 0.7, 0.7)
    affine[:3, 3] = (5, -9, 3)
    return np.arange(120, dtype=np.uint8).reshape(4, 5, 6), affine


@pytest.mark.parametrize("axes", ACQUIRED_PLANES)
@pytest.mark.parametrize("angle", [0, 0.4, -0.6])
@pytest.mark.parametrize("suffix", [".nii", ".nrrd"])
def test_acquired_slices_are_the_same_in_every_storage_and_turn_back(tmp_path, axes, angle, suffix):
    shown, affine = stack(*axes, angle)
    classes = classes_of(range(120))
    image = nib.Nifti1Image(shown, affine)
    found = {}
    for code in AXIS_CODES:
        orientation = nib.orientations.axcodes2ornt(code)
        turned = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(affine), orientation))
        write = write_nifti if suffix == ".nii" else write_itk
        path = write(tmp_path / f"ct{suffix}", np.asarray(turned.dataobj), turned.affine)
        picture = read_image(path, "acquired")
        np.testing.assert_array_equal(picture.array[:, 0], shown)
        assert picture.spacing_mm == pytest.approx((8, 0.7, 0.7), rel=1e-6)
        assert picture.axes == axes
        np.testing.assert_allclose(picture.affine, affine, atol=1e-5)
        for plane in ("acquired", picture.axes):
            output = tmp_path / f"mask{suffix}"
            write_mask(output, picture.array[:, 0], classes, path, plane)
            np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(output))), stored_of(path))
        found[code] = np.asarray(turned.dataobj)
    assert len({(array.shape, array.tobytes()) for array in found.values()}) == 48


def stored_of(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_acquired_slices_of_a_stack_that_turns_are_never_mirrored():
    for axes in ACQUIRED_PLANES:
        _, affine = stack(*axes)
        assert np.linalg.det((LPS @ affine)[:3, :3]) < 0  # as of axial slices, seen as radiologists do
    # A stack that turns about the body's axis from right to posterior shows the same rows and nearly the same columns.
    (_, before), (_, after) = stack(*ACQUIRED_PLANES[0], -0.78), stack(*ACQUIRED_PLANES[1], 0.78)
    cosine = (before[:3, :3] * after[:3, :3]).sum(axis=0) / np.square([8, 0.7, 0.7])
    assert (cosine > 0.99).all()


@pytest.mark.parametrize(
    ("steps", "shape", "axis"),
    [
        ((1, 1, 1), (9, 9, 9), None),
        ((1.04, 1, 1), (9, 9, 9), None),
        ((1.06, 1, 1), (9, 9, 9), 0),
        ((0.7, 3, 0.7), (9, 9, 9), 1),
        ((0.97, 0.97, 0.6), (9, 9, 9), None),  # fine slices of CT: neither of the two others is theirs
        ((0.7, 0.7, 5), (9, 1, 9), 1),
        ((0.7, 0.7, 5), (1, 1, 9), 2),
    ],
)
def test_the_coarsest_axis(steps, shape, axis):
    assert coarsest_axis(steps, shape) == axis


def test_volumes_without_a_coarsest_axis_are_cut_axially(tmp_path):
    stored, affine = scan("IRP", np.eye(3))
    path = write_nifti(tmp_path / "ct.nii", stored, affine / np.array([1, 1, 1, 1]) * [1 / 5, 1 / 0.7, 1 / 0.8, 1])
    picture = read_image(path, "acquired")
    assert picture.axes == "SPL"
    np.testing.assert_array_equal(picture.array, SEEN["axial"][0][:, None])


def test_channels_and_masks_are_cut_like_their_image(tmp_path):
    _, affine = stack("R", "I", "P")
    volume = np.random.default_rng(0).integers(0, 2, (4, 5, 6)).astype(np.uint8)
    near = affine * [1.0599 / 8 * 0.7, 1, 1, 1], affine * [1.0599 / 8 * 0.7 / 1.01, 1, 1, 1]  # 6 and 4.9 % coarser
    paths = [write_nifti(tmp_path / f"{k}.nii", volume, a) for k, a in enumerate(near)]
    assert [read_image(path, "acquired").axes for path in paths] == ["RIP", "SPL"]
    together = read_channels(paths, "acquired")
    np.testing.assert_array_equal(together.array[:, 0], together.array[:, 1])
    card = replace(load_card("hippocampus"), plane="acquired")
    with open_case(card, Case("one", "one", ((paths[0],),), (paths[1],))) as source:
        (piece,) = source.pieces
    np.testing.assert_array_equal(piece.image[:, 0], volume)
    np.testing.assert_array_equal(piece.labels, volume)
