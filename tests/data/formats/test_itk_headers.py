"""Compressed volumes whose stream is damaged are refused, wherever a format stores a checksum."""

from __future__ import annotations

import re

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from mlla_seg.data.formats.itk_headers import voxels_of
from mlla_seg.data.formats.registry import read_image
from mlla_seg.errors import InputError

VOLUME = np.random.default_rng(0).integers(0, 40, (6, 20, 24)).astype(np.int16)


def write_itk(path, compress=True):
    sitk.WriteImage(sitk.GetImageFromArray(VOLUME), str(path), compress)


CHECKED = {
    "a.nii.gz": lambda path: nib.save(nib.Nifti1Image(VOLUME.T, np.eye(4)), path),
    "a.nrrd": write_itk,
    "a.nhdr": write_itk,
    "a.mha": write_itk,
    "a.mhd": write_itk,
    "a.npz": lambda path: np.savez_compressed(path, image=VOLUME),
    "a.png": lambda path: Image.fromarray(VOLUME[0].astype(np.uint8)).save(path),
}
DETACHED = {"a.nhdr": "a.raw.gz", "a.mhd": "a.zraw"}


@pytest.mark.parametrize("name", CHECKED)
def test_flipped_bits_are_refused_where_the_format_has_a_checksum(tmp_path, name):
    CHECKED[name](tmp_path / name)
    good = read_image(tmp_path / name).array
    stored = tmp_path / DETACHED.get(name, name)
    content, rng = stored.read_bytes(), np.random.default_rng(0)
    # Not in the headers in front, where a change may be another valid image, nor in the padding at the end.
    for place in rng.integers(len(content) // 3, int(len(content) * 0.9), 12):
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.integers(8)
        stored.write_bytes(damaged)
        with pytest.raises(InputError, match=f"^{re.escape(str(tmp_path / name))}: cannot be read") as caught:
            read_image(tmp_path / name)
        assert "\n" not in str(caught.value)
    stored.write_bytes(content)
    np.testing.assert_array_equal(read_image(tmp_path / name).array, good)


@pytest.mark.parametrize("name", CHECKED)
def test_stream_that_ends_early_is_refused(tmp_path, name):
    CHECKED[name](tmp_path / name)
    stored = tmp_path / DETACHED.get(name, name)
    content = stored.read_bytes()
    stored.write_bytes(content[: len(content) - 100])
    with pytest.raises(InputError, match="Copy or download it again"):
        read_image(tmp_path / name)


def test_where_voxels_are_stored(tmp_path):
    for name in ("a.nrrd", "a.mha"):
        write_itk(tmp_path / name)
        voxels = voxels_of(tmp_path / name)
        assert (voxels.files, voxels.compression) == ((tmp_path / name,), "gzip")
        assert (tmp_path / name).read_bytes()[voxels.start] in (0x1F, 0x78)  # the start of a gzip or zlib stream
        write_itk(tmp_path / name, compress=False)
        assert voxels_of(tmp_path / name).compression == ""
    for name, beside in DETACHED.items():
        write_itk(tmp_path / name)
        assert voxels_of(tmp_path / name).files == (tmp_path / beside,)


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a.mhd", "NDims = 3\nElementDataFile = s%02d.raw 1 3 1\n"),
        ("a.mhd", "NDims = 3\nElementDataFile = LIST\ns01.raw\ns02.raw\ns03.raw\n"),
        ("a.nhdr", "NRRD0004\n# made by hand\nencoding: raw\ndata file: s%02d.raw 1 3 1\n"),
        ("a.nhdr", "NRRD0004\nkey:=value\nencoding: raw\ndata file: LIST\ns01.raw\ns02.raw\ns03.raw\n"),
    ],
)
def test_voxels_in_several_files(tmp_path, name, header):
    (tmp_path / name).write_text(header)
    assert voxels_of(tmp_path / name).files == tuple(tmp_path / f"s0{k}.raw" for k in (1, 2, 3))
