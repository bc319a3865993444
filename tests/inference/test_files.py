"""A volume given as path, nibabel or SimpleITK image, or array with affine gets the labels of ``predict_file``."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image
from torch import nn

from jobs import spec_of
from layouts import write_scene
from mlla_seg import Predictor
from mlla_seg.errors import InputError
from mlla_seg.export.exportable import Job
from mlla_seg.export.onnx import write_onnx
from mlla_seg.runtime import Segmenter

IDS = np.array([0, 1, 4], np.uint8)  # of the classes of jobs.py
C, S = np.cos(0.3), np.sin(0.3)
TILTED = np.array([[C, -S, 0, 7], [S, C, 0, 8], [0, 0, 1, 9], [0, 0, 0, 1]]) * [0.8, 0.9, 5, 1]  # nearly R, A, S


class Around(nn.Module):
    """A network sensitive to orientation: it sees 3 x 5 pixels and any neighbouring slices."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(channels, 3, (3, 5), padding=(1, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv((x - 40) / 20)


def segmenters(tmp_path, channels=1, **more):
    """One network, run from its checkpoint and from its export."""
    spec = spec_of(channels, **{"context": 1, **more})
    network = Around(channels * 3).eval()
    write_onnx(Job(network, spec, "logits"), tmp_path / "m.onnx")
    return Predictor(network, spec), Segmenter(tmp_path / "m.onnx")


def volume(channels=1, seed=0):
    shape = (9, 14, 11) if channels == 1 else (9, 14, 11, channels)
    return np.random.default_rng(seed).normal(40, 20, shape).astype(np.float32)


def as_itk(image):
    """Independent conversion of a nibabel image to SimpleITK: two axes change sign, the order is reversed."""
    affine = np.diag([-1, -1, 1, 1]) @ image.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    array = np.asarray(image.dataobj)
    other = sitk.GetImageFromArray(np.ascontiguousarray(np.moveaxis(array, (0, 1, 2), (2, 1, 0))), array.ndim == 4)
    other.SetOrigin(affine[:3, 3])
    other.SetSpacing(spacing)
    other.SetDirection((affine[:3, :3] / spacing).ravel())
    return other


@pytest.mark.parametrize(
    ("how", "channels"),
    [({}, 1), ({"plane": "sagittal"}, 2), ({"plane": "acquired"}, 1), ({"spacing_mm": [3.0, 1.0, None]}, 2)],
)
def test_labels_are_those_of_the_file_however_the_volume_is_given(tmp_path, how, channels):
    original = nib.Nifti1Image(volume(channels), TILTED)
    both = segmenters(tmp_path, channels, **how)
    seen = set()
    for code in ("RAS", "LPS", "SAL", "PIR"):
        target = nib.orientations.axcodes2ornt(code)
        image = original.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(TILTED), target))
        image = nib.Nifti1Image(np.asarray(image.dataobj), image.affine)
        image.to_filename(tmp_path / "ct.nii")
        sitk.WriteImage(as_itk(image), str(tmp_path / "ct.nrrd"))
        for one in both:
            one.predict_file((tmp_path / "ct.nii",), tmp_path / "mask.nii")
            expected = np.asarray(nib.load(tmp_path / "mask.nii").dataobj)
            assert expected.shape == image.shape[:3]
            assert set(np.unique(expected)) == {0, 1, 4}
            for given in (tmp_path / "ct.nii", str(tmp_path / "ct.nrrd"), image, nib.load(tmp_path / "ct.nii")):
                labels = one(given)
                assert labels.dtype == np.uint8
                np.testing.assert_array_equal(IDS[labels], expected)
            array = np.asarray(image.dataobj)
            np.testing.assert_array_equal(IDS[one(array, affine=image.affine)], expected)
            np.testing.assert_array_equal(IDS[one(as_itk(image), batch_size=2)], expected.transpose(2, 1, 0))
        seen.add((expected.shape, expected.tobytes()))
    assert len(seen) == 4


def test_bare_arrays_lie_as_the_orientation_says(tmp_path):
    array = volume()
    for one in segmenters(tmp_path):
        assert one.orientation == "slices to superior, rows to posterior, columns to left"
        turned = array.transpose(2, 1, 0)[:, ::-1, ::-1]  # from right, anterior, superior
        expected = one(array, affine=np.diag([0.8, 0.9, 5, 1])).transpose(2, 1, 0)[:, ::-1, ::-1]
        np.testing.assert_array_equal(one(np.ascontiguousarray(turned[:, None])), expected)


def test_spacing_is_that_of_the_image(tmp_path):
    image = nib.Nifti1Image(volume(), np.diag([-0.8, -0.9, 5, 1]))  # runs as axial networks see it
    bare = np.ascontiguousarray(image.get_fdata(dtype=np.float32).transpose(2, 1, 0)[:, None])
    for one in segmenters(tmp_path, spacing_mm=[3.0, 1.0, 0.5]):
        expected = one(bare, spacing_mm=(5, 0.9, 0.8))
        assert (expected != one(bare)).mean() > 0.1
        for given in (image, as_itk(image)):
            labels = one(given)
            np.testing.assert_array_equal(labels if given is not image else labels.transpose(2, 1, 0), expected)


@pytest.mark.parametrize("plane", ["axial", "acquired"])
def test_a_volume_as_a_bare_array_is_told_how_it_must_lie(tmp_path, plane):
    words = "slices along each volume's coarsest axis" if plane == "acquired" else "slices to superior, rows to post"
    for one in segmenters(tmp_path, plane=plane):
        with pytest.raises(InputError, match=rf"has 9 channels; .*on 1 .*volumes must have {words}.*affine="):
            one(volume())


def test_channels_in_files_of_their_own_and_flat_images(tmp_path):
    both = volume(2)
    paths = [tmp_path / f"ct_000{k}.nii" for k in range(2)]
    for k, path in enumerate(paths):
        nib.Nifti1Image(both[..., k], TILTED).to_filename(path)
    for one in segmenters(tmp_path, 2):
        np.testing.assert_array_equal(one(paths), one(both, affine=TILTED))
    flat = nib.Nifti1Image(both[:, :, 0, 0], np.eye(4))
    thin = sitk.GetImageFromArray(both[:, :, 0, 0].T)
    Image.fromarray(np.zeros((12, 10), np.uint8)).save(tmp_path / "photo.png")
    np.savez(tmp_path / "ct.npz", image=both[..., 0] / 64)
    for one in segmenters(tmp_path, array_units={"scale": 64, "offset": 0}):
        assert one(flat).shape == (9, 14)
        assert one(thin).shape == (14, 9)
        assert one(tmp_path / "photo.png").shape == (12, 10)
        np.testing.assert_array_equal(one(tmp_path / "ct.npz"), one(both[:, None, ..., 0]))


def test_what_contradicts_itself_in_a_header_is_said(tmp_path, capsys):
    image = nib.Nifti1Image(volume(), np.eye(4))
    image.header.set_xyzt_units("micron")
    one, _ = segmenters(tmp_path)
    one(image)
    image.to_filename(tmp_path / "ct.nii")
    one.predict_file((tmp_path / "ct.nii",), tmp_path / "mask.nii")
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note")]
    assert said == [
        f"note: {name}: lengths are in microns and are converted to millimetres."
        for name in ("the image", tmp_path / "ct.nii")
    ]


def test_bare_array_without_spacing_is_said_where_it_matters(tmp_path, capsys):
    array = np.zeros((3, 1, 8, 8), np.float32)
    for one in segmenters(tmp_path, spacing_mm=[None, 1.0, 1.0]):
        one(array)
        assert "note: this network was trained at [None, 1.0, 1.0] mm; a bare array has no" in capsys.readouterr().err
        one(array, spacing_mm=(5, 1, 1))
        assert capsys.readouterr().err == ""


def test_what_cannot_be_taken_is_answered(tmp_path):
    one, _ = segmenters(tmp_path)
    image = nib.Nifti1Image(volume(), np.eye(4))
    scene = write_scene(tmp_path / "scene.tif", np.zeros((1, 20, 20), np.int16))
    broken = volume()
    broken[0, 0, 0] = np.nan
    for given, how, problem in (
        (image, {"affine": np.eye(4)}, "affine is only for arrays; a Nifti1Image has its own"),
        (image, {"spacing_mm": (1, 1, 1)}, "spacing_mm is only for bare arrays; other images carry their own spacing"),
        (volume(), {"affine": np.zeros((4, 4))}, "the array: its affine is singular"),
        (volume(), {"affine": np.eye(3)}, r"the array: its affine has the shape \(3, 3\), not \(4, 4\)"),
        (volume()[0], {"affine": np.eye(4)}, r"must be \(I, J, K\) or \(I, J, K, C\), found shape \(14, 11\)"),
        (broken, {"affine": np.eye(4)}, "the array: 1 of 1386 values are NaN"),
        (volume(2), {"affine": np.eye(4)}, "the array: has 2 channels; this network was trained on 1"),
        (scene, {}, "scene.tif: a raster is segmented block by block"),
        (tmp_path / "absent.nii", {}, "absent.nii: no such file"),
        (5, {}, "Cannot segment a int. Give a path, a nibabel or SimpleITK image, or an array"),
        ([], {}, "Cannot segment a list"),
    ):
        with pytest.raises(InputError, match=problem):
            one(given, **how)
