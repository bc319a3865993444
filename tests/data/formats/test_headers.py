"""Contradictory NIfTI headers: which part is used, the note about it, and masks that keep the header unchanged."""

from __future__ import annotations

import json
import re

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from mlla_seg.data.datamodule import SegmentationDataModule
from mlla_seg.data.formats.headers import note_headers, odd_size
from mlla_seg.data.formats.registry import read_image, read_mask, write_mask
from mlla_seg.data.formats.voxel_grids import require_same_grid
from mlla_seg.errors import InputError
from samples import classes_of

SHAPE = (6, 5, 4)
SCAN = np.array([[-1.5, 0, 0, 7], [0, -1.5, 0, 8], [0, 0, 10, 9], [0, 0, 0, 1.0]])  # runs L, P, S
UNSCALED = np.diag([-1.0, -1.0, 1.0, 1.0])
SHEARED = np.array([[1.5, 0, 0.3, 0], [0, 1.5, 0, 0], [0, 0, 10, 0], [0, 0, 0, 1.0]])
CLASSES = classes_of(range(120))


def write(path, sform=None, qform=None, pixdim=None, unit="mm", **fields):
    """A volume whose values count its voxels, with exactly these header fields; further fields are set as bytes."""
    array = np.arange(np.prod(SHAPE), dtype=np.uint8).reshape(SHAPE)
    header = nib.Nifti1Header()
    header.set_data_shape(SHAPE)
    header.set_data_dtype(np.uint8)
    header.set_xyzt_units(unit)
    header.set_qform(np.eye(4) if qform is None else qform, 0 if qform is None else 1)
    header.set_sform(np.eye(4) if sform is None else sform, 0 if sform is None else 2)
    if pixdim is not None:
        header["pixdim"][1:4] = pixdim
    for key, value in fields.items():
        header[key] = value
    header["magic"], header["vox_offset"] = b"n+1", 352
    path.write_bytes(header.binaryblock + bytes(4) + array.tobytes(order="F"))
    return path


def parts(path):
    header = nib.load(path).header
    keys = ("pixdim", "qform_code", "sform_code", "quatern_b", "qoffset_x", "srow_x", "srow_y", "srow_z", "xyzt_units")
    return {key: header[key].tolist() for key in keys}


NAN = np.full(4, np.nan)
HEADERS = {
    "agree": ({"sform": SCAN, "qform": SCAN}, ""),
    "sform alone": ({"sform": SCAN, "pixdim": (1.5, 1.5, 10)}, ""),
    "sform alone, rounded": ({"sform": SCAN, "pixdim": (1.5004, 1.4996, 10)}, ""),
    "qform alone": ({"qform": SCAN}, ""),
    "as in ACDC": (
        {"sform": UNSCALED, "qform": SCAN},
        "differs from pixdim and the qform; the qform is used",
    ),
    "unscaled": (
        {"sform": UNSCALED, "pixdim": (1.5, 1.5, 10)},
        "the sform has no scale; its spacing is",
    ),
    "registered": ({"sform": 1.1 * SCAN, "qform": SCAN}, "the qform is used"),
    "nobody set pixdim": ({"sform": SCAN, "pixdim": (1, 1, 1)}, "which is 1 throughout; the sform is used"),
    "no qform": ({"sform": SCAN, "pixdim": (2, 2, 10)}, "differs from pixdim; the sform is used"),
    "mirrored": (
        {"sform": SCAN, "qform": SCAN @ np.diag([-1, 1, -1, 1])},
        "axes run to LPS by the sform and to RPI by the qform; the sform is used",
    ),
    "nothing set": ({"pixdim": (1.5, 1.5, 10)}, "neither sform nor qform is set; axes are assumed to"),
    "metres": (
        {"sform": SCAN / 1e3, "pixdim": (0.0015, 0.0015, 0.01), "unit": "meter"},
        "are in meters",
    ),
    "microns": ({"sform": SCAN * 1e3, "qform": SCAN * 1e3, "unit": "micron"}, "lengths are in microns"),
    "unknown unit": ({"sform": SCAN, "qform": SCAN, "unit": "unknown"}, ""),
    "singular sform": (
        {"sform": np.diag([1, 1, 0, 1]), "qform": SCAN},
        "the sform is singular; the qf",
    ),
    "NaN in the sform": ({"sform": SCAN, "qform": SCAN, "srow_y": NAN}, "the sform contains NaN; the qf"),
    "no rotation": (
        {"sform": SCAN, "qform": SCAN, "quatern_b": 3},
        "the qform contains NaN; the sform is",
    ),
    "sheared": ({"sform": SHEARED, "pixdim": (1.5, 1.5, 10)}, "axes are not orthogonal"),
}


@pytest.mark.parametrize("header", HEADERS)
def test_spacing_is_found_and_what_is_odd_is_said(tmp_path, header):
    content, note = HEADERS[header]
    path = write(tmp_path / "ct.nii", **content)
    picture = read_image(path)
    assert picture.spacing_mm == pytest.approx((10, 1.5, 1.5), rel=1e-3)
    assert len(picture.notes) == bool(note)
    assert note in "".join(picture.notes)


@pytest.mark.parametrize(
    ("factor", "said"), [(1e-3, "smaller .* in metres"), (1e3, "larger .* in micrometres"), (1, "")]
)
@pytest.mark.parametrize("unit", ["unknown", "mm"])
def test_lengths_that_can_hardly_be_millimetres_are_noted(tmp_path, factor, said, unit):
    affine = SCAN * [[factor], [factor], [factor], [1]]
    nii = write(tmp_path / "ct.nii", affine, affine, unit=unit)
    sitk.WriteImage(sitk.ReadImage(nii), tmp_path / "ct.nrrd")
    sitk.WriteImage(sitk.ReadImage(nii), tmp_path / "ct.mha")
    for path in (nii, tmp_path / "ct.nrrd", tmp_path / "ct.mha"):
        picture = read_image(path)
        assert picture.spacing_mm == pytest.approx((10 * factor, 1.5 * factor, 1.5 * factor), rel=1e-3)
        assert len(picture.notes) == bool(said)
        assert re.search(said, "".join(picture.notes))


def test_a_single_slice_may_be_of_any_thickness():
    assert not odd_size(np.diag([1.0, 1, 0.001, 1]), (4, 4, 1))
    assert odd_size(np.diag([0.001, 0.001, 1.0, 1]), (4, 4, 1))
    assert not odd_size(np.eye(4) / 1000, (1, 1, 1))


@pytest.mark.parametrize("header", HEADERS)
def test_masks_keep_the_header_as_it_is_and_lie_on_its_grid(tmp_path, header):
    path = write(tmp_path / "ct.nii", **HEADERS[header][0])
    for plane in ("axial", "sagittal"):
        picture = read_image(path, plane)
        write_mask(tmp_path / "mask.nii", picture.array[:, 0], CLASSES, path, plane)
        np.testing.assert_array_equal(nib.load(tmp_path / "mask.nii").dataobj, nib.load(path).dataobj)
        np.testing.assert_equal(parts(tmp_path / "mask.nii"), parts(path))  # NaN equals NaN
        require_same_grid(path, picture, tmp_path / "mask.nii", read_mask(tmp_path / "mask.nii", plane))


def test_slices_run_as_the_qform_says_where_it_is_believed(tmp_path):
    picture = read_image(write(tmp_path / "ct.nii", np.eye(4), SCAN))  # runs R, A, S and L, P, S
    np.testing.assert_array_equal(picture.affine @ (1, 2, 3, 1), [7 - 4.5, 8 - 3, 19, 1])
    assert picture.array[0, 0, 0, :2].tolist() == [0, 20]


def test_mask_of_another_format_has_the_spacing_that_is_meant(tmp_path):
    path = write(tmp_path / "ct.nii", UNSCALED, SCAN)
    write_mask(tmp_path / "mask.nrrd", read_image(path).array[:, 0], CLASSES, path)
    assert sitk.ReadImage(str(tmp_path / "mask.nrrd")).GetSpacing() == pytest.approx((1.5, 1.5, 10))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (
            {"sform": np.diag([1, 1, 0, 1])},
            r"its sform is singular \(srow_x .* srow_z .*\), so its geometry is unknown",
        ),
        ({"sform": SCAN, "srow_x": NAN}, r"its sform contains NaN \(srow_x \[nan.*\), so its geometry"),
        (
            {"sform": SCAN, "srow_x": NAN, "qform": SCAN, "quatern_b": np.nan},
            r"its sform contains NaN \(.*\) and its qform contains NaN \(quatern_b nan",
        ),
        (
            {"pixdim": (1, np.nan, 1)},
            r"neither sform nor qform is set and pixdim is \[ 1\. nan  1\.\], so its geometry",
        ),
    ],
)
def test_header_of_no_use_is_refused(tmp_path, content, problem):
    path = write(tmp_path / "ct.nii", **content)
    with pytest.raises(InputError, match=rf"ct\.nii: {problem}.* [Rr]epair its header"):
        read_image(path)


def test_axes_of_itk_that_are_not_at_right_angles_are_said(tmp_path):
    image = sitk.GetImageFromArray(np.zeros((3, 4, 5), np.uint8))
    image.SetDirection((1, 0, 0.2, 0, 1, 0, 0, 0, 1))
    sitk.WriteImage(image, str(tmp_path / "ct.mha"))
    assert "not orthogonal" in read_image(tmp_path / "ct.mha").notes[0]
    image.SetDirection(np.eye(3).ravel())
    sitk.WriteImage(image, str(tmp_path / "ct.mha"))
    assert read_image(tmp_path / "ct.mha").notes == ()


def test_mask_with_the_affine_that_other_programs_read_fits_the_image(tmp_path):
    path = write(tmp_path / "ct.nii", UNSCALED, SCAN)
    image = nib.load(path)
    nib.Nifti1Image(np.asarray(image.dataobj), image.affine).to_filename(tmp_path / "drawn.nii")  # steps of 1 mm
    moved = image.affine.copy()
    moved[0, 3] += 1
    nib.Nifti1Image(np.asarray(image.dataobj), moved).to_filename(tmp_path / "moved.nii")
    picture = read_image(path)
    require_same_grid(path, picture, tmp_path / "drawn.nii", read_mask(tmp_path / "drawn.nii"))
    with pytest.raises(InputError, match=r"moved\.nii: its affine differs"):
        require_same_grid(path, picture, tmp_path / "moved.nii", read_mask(tmp_path / "moved.nii"))


def test_each_note_is_said_once_with_a_count_and_a_name(capsys):
    note_headers({"a.nii": ("odd",), "b.nii": ("odd", "strange"), "c.nii": ()})
    said = capsys.readouterr().err.splitlines()
    assert said == ["note: 2 headers, such as that of a.nii: odd.", "note: b.nii: strange."]


def test_training_says_it_again_when_nothing_is_read_anew(tmp_path, capsys):
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    for k in range(4):
        write(tmp_path / f"imagesTr/c{k}_0000.nii", UNSCALED, SCAN)
        write(tmp_path / f"labelsTr/c{k}.nii", UNSCALED, SCAN)
    labels = {f"class {k}": k for k in range(120)}
    content = {"channel_names": {"0": "MR"}, "labels": labels, "file_ending": ".nii"}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    for _ in range(2):
        data = SegmentationDataModule(root=str(tmp_path), crop=[4, 4], cache_dir=str(tmp_path / "cache"))
        data.prepare_data()
        data.setup("fit")
        assert data.train_set.cases[0].spacing_mm == pytest.approx((10, 1.5, 1.5))
        assert "note: 4 headers, such as that of c" in capsys.readouterr().err
