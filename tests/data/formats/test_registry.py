"""Readers and writers: all volume orientations, all array keys, and damaged files refused by name."""

from __future__ import annotations

import gc
from itertools import permutations, product

import h5py
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from mlla_seg.data.formats import registry
from mlla_seg.data.formats.registry import (
    mask_path,
    read_channels,
    read_image,
    read_mask,
    require_same_grid,
    write_mask,
)
from mlla_seg.errors import InputError
from samples import classes_of, write_array, write_nifti

AXIS_CODES = ["".join(code) for order in permutations(("LR", "PA", "SI")) for code in product(*order)]
PATIENT = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)  # along L, P, S; every place has its own number
SPACING_MM = {"L": 0.7, "P": 0.8, "S": 5.0}
# What each plane shows, and its spacing, by hand: slices, rows and columns run S P L, P I L and L I P.
SEEN = {
    "axial": (PATIENT.transpose(2, 1, 0), (5.0, 0.8, 0.7)),
    "coronal": (PATIENT[:, :, ::-1].transpose(1, 2, 0), (0.8, 5.0, 0.7)),
    "sagittal": (PATIENT[:, :, ::-1].transpose(0, 2, 1), (0.7, 5.0, 0.8)),
}
CLASSES = classes_of(range(60), [(k, 2 * k, 255 - k) for k in range(60)])
ARRAY_SUFFIXES = (".npz", ".h5", ".npy.h5")


def tilt():
    """Rotation by 20 and 15 degrees, as in an oblique scan."""
    (a, b), (c, d) = ((np.cos(t), np.sin(t)) for t in np.radians((20, 15)))
    return np.array([[a, -b, 0], [b, a, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -d], [0, d, c]])


def scan(code, rotation):
    """The patient stored with axes in the directions of ``code``, and the affine."""
    towards = {"L": (-1, 0, 0), "P": (0, -1, 0), "S": (0, 0, 1)}  # in NIfTI's R, A, S millimetres
    axes = [dict(zip("LRPASI", "LLPPSS", strict=True))[letter] for letter in code]
    array = PATIENT.transpose(["LPS".index(axis) for axis in axes])
    columns, origin = [], np.array([10.0, -20.0, 30.0])
    for position, axis in enumerate(axes):
        column = np.array(towards[axis]) * SPACING_MM[axis]
        if code[position] != axis:
            array = np.flip(array, position)
            origin = origin + column * (array.shape[position] - 1)
            column = -column
        columns.append(column)
    affine = np.eye(4)
    affine[:3] = rotation @ np.column_stack([*columns, origin])
    return array, affine


def read_label(path):
    with np.load(path) if path.suffix == ".npz" else h5py.File(path) as file:
        return np.array(file["label"])


def refused(path):
    with pytest.raises(InputError) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("code", AXIS_CODES)
@pytest.mark.parametrize("rotation", [np.eye(3), tilt()], ids=["straight", "oblique"])
def test_volume_of_any_orientation_is_read_and_its_mask_lies_where_it_was(tmp_path, code, rotation):
    stored, affine = scan(code, rotation)
    assert "".join(nib.aff2axcodes(affine)) == code
    source = write_nifti(tmp_path / "ct.nii", stored, affine)
    for plane, (seen, spacing) in SEEN.items():
        picture = read_image(source, plane)
        np.testing.assert_array_equal(picture.array, seen[:, None])
        assert picture.spacing_mm == pytest.approx(spacing, rel=1e-5)
        write_mask(tmp_path / "mask.nii", picture.array[:, 0], CLASSES, source, plane)
        mask = nib.load(tmp_path / "mask.nii")
        np.testing.assert_array_equal(np.asarray(mask.dataobj), stored)
        np.testing.assert_array_equal(mask.affine, nib.load(source).affine)


@pytest.mark.parametrize(("qform", "sform"), [(0, 0), (1, 0), (0, 2), (1, 4), (3, 3)])
def test_mask_keeps_the_geometry_of_the_header_and_nothing_of_its_scaling(tmp_path, qform, sform):
    array, affine = scan("RAS", tilt())
    image = nib.Nifti1Image(array * np.float32(50.5) - 1000, affine)
    image.set_data_dtype(np.int16)  # nibabel then stores a slope and an intercept
    image.set_sform(affine, sform)
    image.set_qform(affine, qform)
    image.header["cal_max"] = 2000
    image.to_filename(tmp_path / "ct.nii.gz")
    source = nib.load(tmp_path / "ct.nii.gz")
    positive = read_image(tmp_path / "ct.nii.gz").array[:, 0] > 0
    write_mask(tmp_path / "mask.nii.gz", positive, CLASSES, tmp_path / "ct.nii.gz")
    mask = nib.load(tmp_path / "mask.nii.gz")
    assert mask.get_data_dtype() == np.uint8
    assert mask.header["cal_max"] == 0
    assert (int(mask.header["qform_code"]), int(mask.header["sform_code"])) == (qform, sform)
    np.testing.assert_array_equal(mask.affine, source.affine)
    np.testing.assert_array_equal(mask.header.get_qform(), source.header.get_qform())
    np.testing.assert_array_equal(mask.get_fdata(), source.get_fdata() > 0)


def test_fourth_axis_of_a_volume_holds_channels(tmp_path):
    stored, affine = scan("LPS", np.eye(3))
    source = write_nifti(tmp_path / "mr.nii.gz", np.stack([stored, stored + 100], axis=3), affine)
    seen = SEEN["axial"][0]
    np.testing.assert_array_equal(read_image(source).array, np.stack([seen, seen + 100], axis=1))
    write_mask(tmp_path / "mask.nii.gz", seen, CLASSES, source)
    np.testing.assert_array_equal(nib.load(tmp_path / "mask.nii.gz").get_fdata(), stored)


def test_single_slice_of_two_axes_comes_back_as_such(tmp_path):
    stored, affine = scan("RAS", np.eye(3))
    source = write_nifti(tmp_path / "slice.nii.gz", stored[:, :, 0], affine)
    picture = read_image(source)
    assert picture.array.shape == (1, 1, 4, 3)
    write_mask(tmp_path / "mask.nii.gz", picture.array[:, 0], CLASSES, source)
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "mask.nii.gz").dataobj), stored[:, :, 0])


@pytest.mark.parametrize("suffix", ARRAY_SUFFIXES)
@pytest.mark.parametrize(
    ("read", "key"),
    [
        *((read_image, key) for key in ("image", "img", "data")),
        *((read_mask, k) for k in ("label", "mask", "gt", "seg")),
    ],
)
def test_arrays_are_found_under_the_usual_keys(tmp_path, suffix, read, key):
    array = PATIENT.astype(np.int16)
    path = write_array(tmp_path / f"case{suffix}", other=array + 1, **{key: array})
    np.testing.assert_array_equal(read(path).array, array[:, None])
    assert read(path).spacing_mm is None


@pytest.mark.parametrize("suffix", ARRAY_SUFFIXES)
@pytest.mark.parametrize("array", [PATIENT, PATIENT[0]], ids=["volume", "slice"])
def test_mask_of_an_array_has_its_axes(tmp_path, suffix, array):
    source = write_array(tmp_path / f"case{suffix}", img=array)
    picture = read_image(source)
    assert picture.array.shape == (*(array.shape[:-2] or (1,)), 1, 4, 5)
    target = mask_path(source, tmp_path / "masks")
    write_mask(target, picture.array[:, 0], CLASSES, source)
    np.testing.assert_array_equal(read_label(target), array)
    assert read_label(target).dtype == np.uint8


@pytest.mark.parametrize(
    ("stored", "kept"),
    [("uint8", "uint8"), ("int16", "int16"), ("uint16", "uint16"), ("int64", "float32"), ("float64", "float32")],
)
def test_small_integers_stay_and_all_else_becomes_float32(tmp_path, stored, kept):
    path = write_array(tmp_path / "a.npz", image=PATIENT.astype(stored))
    assert read_image(path).array.dtype == kept


def test_units_of_arrays_are_not_applied_to_other_files(tmp_path):
    units = {"scale": 4, "offset": -125}
    for suffix in ARRAY_SUFFIXES:
        picture = read_image(write_array(tmp_path / f"case{suffix}", image=PATIENT), array_units=units)
        np.testing.assert_array_equal(picture.array, PATIENT[:, None] * np.float32(4) - 125)
        assert picture.array.dtype == np.float32
    path = write_nifti(tmp_path / "a.nii", PATIENT)
    np.testing.assert_array_equal(read_image(path, array_units=units).array, read_image(path).array)
    Image.fromarray(PATIENT[0]).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", array_units=units).array[0, 0], PATIENT[0])


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_grey_png_has_one_channel(tmp_path, dtype):
    Image.fromarray(PATIENT[0].astype(dtype) * 4).save(tmp_path / "a.png")
    array = read_image(tmp_path / "a.png").array
    np.testing.assert_array_equal(array, PATIENT[0][None, None] * 4)
    assert array.dtype == dtype


def test_colour_png_has_three_channels(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").array, colours.transpose(2, 0, 1)[None])


def test_indexed_png_is_written_with_the_colours_and_read_by_index(tmp_path):
    path = tmp_path / "mask.png"
    write_mask(path, PATIENT[:1], CLASSES, tmp_path / "photo.jpg")
    with Image.open(path) as image:
        assert image.mode == "P"
        assert image.getpalette()[: 3 * len(CLASSES)] == [value for entry in CLASSES for value in entry.colour]
        np.testing.assert_array_equal(np.array(image), PATIENT[0])
    np.testing.assert_array_equal(read_mask(path).array, PATIENT[None, :1])
    colours = np.array([entry.colour for entry in CLASSES])[PATIENT[0]]
    np.testing.assert_array_equal(read_image(path).array[0], colours.transpose(2, 0, 1))


def write_any(path):
    """Write a readable file in the format of the suffix."""
    rng = np.random.default_rng(0)
    array = rng.integers(0, 255, (32, 32, 32), dtype=np.uint8)  # noise, so that compression leaves enough to cut off
    if path.name.endswith((".nii", ".nii.gz")):
        nib.Nifti1Image(array, np.eye(4)).to_filename(path)
    elif path.suffix in (".npz", ".h5"):
        write_array(path, image=array)
    else:
        Image.fromarray(array[0]).save(path)
    return path


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_damaged_file_is_named_and_closed(tmp_path, damage):
    for suffix in (".nii", ".nii.gz", ".npz", ".h5", ".npy.h5", ".png", ".jpg", ".tif"):
        path = write_any(tmp_path / f"case{suffix}")
        assert read_image(path).array.size
        content = path.read_bytes()
        path.write_bytes({"truncated": content[: len(content) // 2], "text": b"not an image", "empty": b""}[damage])
        assert f"cannot be read as {suffix} (" in (said := refused(path)) or "of file cannot hold" in said
    gc.collect()  # a file that was left open warns now, and not in some later test


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        ({"volume": PATIENT}, "no array named image or img or data, found volume."),
        ({}, ", found nothing"),
        ({"image": np.zeros((2, 1, 4, 4))}, "expected an array with 2 or 3 axes (slices, height, width), found shape"),
        ({"image": np.zeros((0, 4, 4))}, "is empty, with shape (0, 1, 4, 4)"),
    ],
)
@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_array_that_cannot_be_used_is_named(tmp_path, suffix, array, problem):
    assert problem in refused(write_array(tmp_path / f"case{suffix}", **array))


@pytest.mark.parametrize(
    ("name", "problem"), [("a.dcm", "unknown format .dcm"), ("a", "(no suffix)"), ("a.nii.gz", "no such file")]
)
def test_file_that_is_no_image_is_named(tmp_path, name, problem):
    if problem != "no such file":
        (tmp_path / name).touch()
    assert problem in refused(tmp_path / name)


def test_volume_of_five_axes_is_refused(tmp_path):
    assert "found shape (2, 2, 2, 2, 2)" in refused(write_nifti(tmp_path / "a.nii", np.zeros((2, 2, 2, 2, 2))))


@pytest.mark.parametrize("name", ["ct.nii.gz", "ct.npz", "ct.h5", "photo.png"])
def test_writer_that_fails_leaves_what_was_there(tmp_path, monkeypatch, name):
    def fail(path, *arguments):
        path.write_bytes(b"half of it")
        raise OSError("the cable is out")

    source = write_any(tmp_path / name)
    target = tmp_path / "masks" / name
    monkeypatch.setitem(registry.WRITERS, registry.suffix_of(target), fail)
    for before in ([], [target]):
        for path in before:
            path.write_bytes(b"an older mask")
        with pytest.raises(OSError, match="the cable is out"):
            write_mask(target, PATIENT, CLASSES, source)
        assert list(target.parent.iterdir()) == before
    assert target.read_bytes() == b"an older mask"


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("ct.nii.gz", "ct.nii.gz"),
        ("CT.NII.GZ", "CT.nii.gz"),
        ("case_0000.nii.gz", "case.nii.gz"),
        ("case0001.npy.h5", "case0001.npy.h5"),
        ("photo.v2.jpeg", "photo.v2.png"),
        ("tile.tif", "tile.tif"),
    ],
)
def test_mask_has_the_name_of_its_image(tmp_path, source, target):
    assert mask_path(tmp_path / source, tmp_path / "masks") == tmp_path / "masks" / target


@pytest.mark.parametrize(("name", "readable"), [("a.nii.gz", True), ("._a.nii.gz", False), ("a.txt", False)])
def test_hidden_files_and_folders_are_no_images(tmp_path, name, readable):
    (tmp_path / name).touch()
    (tmp_path / "folder.npz").mkdir()
    assert registry.is_readable(tmp_path / name) is readable
    assert not registry.is_readable(tmp_path / "folder.npz")


def test_channels_in_several_files_are_put_together(tmp_path):
    paths = [write_array(tmp_path / f"{k}.npz", image=PATIENT + k) for k in range(3)]
    np.testing.assert_array_equal(read_channels(paths).array, np.stack([PATIENT, PATIENT + 1, PATIENT + 2], axis=1))


def test_channels_that_differ_in_shape_are_refused(tmp_path):
    a = write_array(tmp_path / "a.npz", image=PATIENT)
    b = write_array(tmp_path / "b.npz", image=PATIENT[:, 1:])
    with pytest.raises(InputError, match=r"b\.npz: shape \(3, 3, 5\) differs from a\.npz with \(3, 4, 5\)"):
        read_channels([a, b])


def test_affines_may_differ_by_rounding_only(tmp_path):
    _, affine = scan("RAS", tilt())
    shifts = {"same": 0, "rounded": 1e-8, "near": 1e-4, "moved": 0.5}
    pictures = {}
    for name, shift in shifts.items():
        shifted = affine.copy()
        shifted[0, 3] += shift
        path = write_nifti(tmp_path / f"{name}.nii", PATIENT, shifted)
        pictures[path] = read_image(path)
    (first, picture), *others, (last, moved) = pictures.items()
    for path, other in others:
        require_same_grid(first, picture, path, other)
    with pytest.raises(InputError, match=r"moved\.nii: its affine differs from same\.nii by up to 0\.5 mm\."):
        require_same_grid(first, picture, last, moved)


@pytest.mark.parametrize("sign", [1, -1])
def test_another_scale_is_found_at_the_far_corner(tmp_path, sign):
    volume = np.zeros((200, 4, 4), np.int16)
    paths = [write_nifti(tmp_path / f"{k}.nii", volume, np.diag([sign * (1 + k * 1e-3), 1, 1, 1])) for k in range(2)]
    with pytest.raises(InputError, match=r"by up to 0\.199 mm\."):
        require_same_grid(paths[0], read_image(paths[0]), paths[1], read_image(paths[1]))


def test_same_voxels_along_other_axes_are_the_same_grid(tmp_path):
    pictures = []
    for k, code in enumerate(("RAS", "LPS", "AIL")):
        stored, affine = scan(code, np.eye(3))
        path = write_nifti(tmp_path / f"{k}.nii", stored, affine)
        pictures.append((path, read_image(path)))
    for path, picture in pictures[1:]:
        require_same_grid(*pictures[0], path, picture)
