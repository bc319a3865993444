"""Headers of NRRD and MetaImage name files beside them alone."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from mlla_seg.data.formats.registry import read_image
from mlla_seg.errors import InputError

CUBE = np.arange(64, dtype=np.uint8).reshape(4, 4, 4)


def write(path, place):
    """Write a header that names ``place``, and values in ``values.raw``, ``slice0.raw`` ... beside it."""
    (path.parent / "values.raw").write_bytes(CUBE.tobytes())
    for k in range(4):
        (path.parent / f"slice{k}.raw").write_bytes(CUBE[k].tobytes())
    if path.suffix in (".mhd", ".mha"):
        path.write_text(
            "ObjectType = Image\nNDims = 3\nBinaryData = True\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\n"
            f"ElementSpacing = 1 1 1\nDimSize = 4 4 4\nElementType = MET_UCHAR\nElementDataFile = {place}\n"
        )
    else:
        path.write_text(
            "NRRD0004\ntype: unsigned char\ndimension: 3\nspace: left-posterior-superior\nsizes: 4 4 4\n"
            "space directions: (1,0,0) (0,1,0) (0,0,1)\nencoding: raw\nspace origin: (0,0,0)\n"
            f"data file: {place}\n"
        )
    return path


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr", ".mha", ".nrrd"])
@pytest.mark.parametrize(
    "place", ["values.raw", "slice%d.raw 0 3 1", "LIST\nslice0.raw\nslice1.raw\nslice2.raw\nslice3.raw"]
)
def test_files_beside_the_header_are_read(tmp_path, suffix, place):
    if suffix == ".nrrd" and "LIST" not in place:
        place += "\n"
    path = write(tmp_path / f"a{suffix}", place)
    assert sorted(read_image(path).array.ravel()) == list(range(64))


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr", ".mha"])
@pytest.mark.parametrize("place", ["../values.raw", "/etc/passwd", "LIST\n../a\n../b\n../c\n../d", "../s%d.raw 0 3 1"])
def test_files_elsewhere_are_refused(tmp_path, suffix, place):
    (tmp_path / "data").mkdir()
    (tmp_path / "values.raw").write_bytes(CUBE.tobytes())
    with pytest.raises(InputError, match=r"its voxels lie in .*, outside of the folder of this header"):
        read_image(write(tmp_path / f"data/a{suffix}", place))


@pytest.mark.parametrize("place", ["%n%n%n%s.raw 0 3 1", "slice%d.raw", "slice%d.raw 0 3 0"])
def test_patterns_that_would_be_run_by_the_library_are_refused(tmp_path, place):
    with pytest.raises(InputError, match=r"expected such as slice%03d\.raw 1 20 1"):
        read_image(write(tmp_path / "a.mhd", place))


def test_missing_and_short_values_are_named(tmp_path):
    with pytest.raises(InputError, match=r"its voxels lie in other\.raw, which is no file"):
        read_image(write(tmp_path / "a.mhd", "other.raw"))
    path = write(tmp_path / "a.mhd", "values.raw")
    (tmp_path / "values.raw").write_bytes(b"x")
    path.write_text(path.read_text().replace("DimSize = 4 4 4", "DimSize = 400 400 400"))
    with pytest.raises(InputError, match=r"claims 400 x 400 x 400 x 1 values of 1 byte \(64\.0 MB\), which \d+ bytes"):
        read_image(path)


def test_only_its_own_format_is_tried(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(CUBE), str(tmp_path / "a.nii"))
    (tmp_path / "a.nii").rename(tmp_path / "a.mha")
    with pytest.raises(InputError, match=r"a\.mha: cannot be read as \.mha"):
        read_image(tmp_path / "a.mha")
