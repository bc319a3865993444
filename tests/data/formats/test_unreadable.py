"""Advice for files that cannot be read: only damaged ones are to be copied again."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from mlla_seg.data.formats.registry import read_image
from mlla_seg.data.formats.unreadable import unreadable
from mlla_seg.errors import InputError
from samples import write_array

NOISE = np.random.default_rng(0).integers(0, 255, (20, 20, 20), dtype=np.uint8)
SUFFIXES = (".nii", ".nii.gz", ".npz", ".h5", ".png", ".jpg", ".bmp", ".tif", ".nrrd", ".mha")


def write(path):
    if path.name.endswith((".nii", ".nii.gz")):
        nib.Nifti1Image(NOISE, np.eye(4)).to_filename(path)
    elif path.suffix in (".npz", ".h5"):
        write_array(path, image=NOISE)
    elif path.suffix in (".nrrd", ".mha"):
        sitk.WriteImage(sitk.GetImageFromArray(NOISE), str(path), True)
    else:
        Image.fromarray(NOISE.reshape(100, 80)).save(path)
    return path


def refused(path):
    with pytest.raises(InputError) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_was_cut_off_is_to_be_copied_again(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}")
    assert read_image(path).array.size
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "Is it complete? Copy or download it again." in refused(path)
    path.write_bytes(content[:210])
    assert "Copy or download it again." in refused(path) or suffix == ".nii"  # whose header has 348 bytes
    path.write_bytes(content[:90])
    assert "It has only 90 bytes. Copy or download it again." in refused(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_another_kind_of_file_is_not_to_be_copied_again(tmp_path, suffix):
    path = tmp_path / f"crc{suffix}"
    path.write_bytes(b"Some text that is no image. " * 50)
    message = refused(path)
    assert message.endswith(f"Is it really {suffix}? Convert it with the program that wrote it.")
    assert "Exception thrown" not in message


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a pointer of Git LFS"),
        (b"\n<!DOCTYPE html><html>" + b" " * 900, "is a web page"),
    ],
)
def test_what_lies_in_place_of_an_image_is_named(tmp_path, content, advice):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(content)
    assert advice in refused(path)


def test_a_lack_of_memory_or_rights_is_no_damage(tmp_path):
    path = write(tmp_path / "a.png")
    assert "does not fit into memory" in str(unreadable(path, ".png", MemoryError()))
    assert "Allow this user to read it" in str(unreadable(path, ".png", PermissionError(13, "Permission denied")))


def test_axes_that_make_no_volume_are_named_by_their_field(tmp_path):
    path = tmp_path / "a.mha"
    sitk.WriteImage(sitk.GetImageFromArray(NOISE), str(path))
    content = path.read_bytes().replace(b"TransformMatrix = 1 0 0 0 1 0 0 0 1", b"TransformMatrix = 1 0 0 1 0 0 0 0 1")
    path.write_bytes(content)
    assert "Repair its header: the space directions of an NRRD, the TransformMatrix of a MetaImage" in refused(path)


def test_colours_of_a_nifti_are_channels_and_complex_numbers_are_refused(tmp_path):
    colours = np.zeros((4, 3, 2), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    colours["G"] = 7
    nib.Nifti1Image(colours, np.eye(4)).to_filename(tmp_path / "rgb.nii.gz")
    picture = read_image(tmp_path / "rgb.nii.gz")
    assert picture.array.shape == (2, 3, 3, 4)
    assert picture.array.max(axis=(0, 2, 3)).tolist() == [0, 7, 0]
    nib.Nifti1Image(np.ones((4, 3, 2), np.complex64), np.eye(4)).to_filename(tmp_path / "k.nii")
    assert "its values are of type complex64, expected real numbers" in refused(tmp_path / "k.nii")
