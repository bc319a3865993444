"""NRRD and MetaImage headers in other units, or without directions, spacing or a scale that is applied."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from mlla_seg.data.formats.registry import read_image, read_mask, write_mask
from mlla_seg.data.formats.voxel_grids import require_same_grid
from samples import classes_of

VALUES = np.arange(60, dtype=np.int16)  # 5 x 4 x 3 voxels
NRRD = ["type: short", "dimension: 3", "sizes: 5 4 3", "endian: little", "encoding: raw"]
PLACED = ["space: left-posterior-superior", "space directions: (1,0,0) (0,1,0) (0,0,3)", "space origin: (0,0,0)"]
META = ["ObjectType = Image", "NDims = 3", "DimSize = 5 4 3", "ElementType = MET_SHORT", "BinaryData = True"]
TURNED = ["ElementSpacing = 1 1 3", "TransformMatrix = 1 0 0 0 1 0 0 0 1"]


def written(path, lines):
    meta = path.suffix == ".mha"
    text = "\n".join([*([] if meta else ["NRRD0004"]), *lines, "ElementDataFile = LOCAL" if meta else "", ""])
    path.write_bytes(text.encode() + VALUES.tobytes())
    return path


@pytest.mark.parametrize(
    ("name", "lines", "spacing", "notes"),
    [
        ("a.nrrd", [*NRRD, *PLACED], (3, 1, 1), []),
        ("a.nrrd", [*NRRD, *PLACED, 'space units: "mm" "mm" "mm"'], (3, 1, 1), []),
        ("a.nrrd", [*NRRD, *PLACED, 'space units: "um" "um" "um"'], (0.003, 0.001, 0.001), ["lengths are in um"]),
        ("a.nrrd", [*NRRD, *PLACED, 'space units: "cm" "cm" "cm"'], (30, 10, 10), ["lengths are in cm"]),
        ("a.nrrd", [*NRRD, *PLACED, 'space units: "mm" "mm" "s"'], (3, 1, 1), ["lengths are in mm, mm, s by the"]),
        ("a.nrrd", [*NRRD, "space: 3D-right-handed", *PLACED[1:]], (3, 1, 1), ["3D-right-handed, names no directions"]),
        ("a.nrrd", [*NRRD, "spacings: 1 1 3"], (3, 1, 1), ["the header gives no directions"]),
        ("a.nrrd", NRRD, (1, 1, 1), ["no directions", "the header gives no spacing; 1 mm is assumed"]),
        ("a.mha", [*META, *TURNED], (3, 1, 1), []),
        ("a.mha", META, (1, 1, 1), ["no directions", "no spacing"]),
        (
            "a.mha",
            [*META, *TURNED, "ElementToIntensityFunctionSlope = 2"],
            (3, 1, 1),
            ["by 2 and adds 0, which is not"],
        ),
    ],
)
def test_what_a_header_leaves_out_is_said(tmp_path, name, lines, spacing, notes):
    picture = read_image(written(tmp_path / name, lines))
    assert picture.spacing_mm == pytest.approx(spacing)
    assert len(picture.notes) == len(notes)
    assert all(part in note for part, note in zip(notes, picture.notes, strict=True))


def test_masks_keep_the_unit_of_their_image_and_lie_on_it(tmp_path):
    source = written(tmp_path / "a.nrrd", [*NRRD, *PLACED, 'space units: "um" "um" "um"'])
    image = read_image(source)
    classes = classes_of(["background", "a"])
    for name in ("mask.nrrd", "mask.nii.gz"):
        write_mask(tmp_path / name, (image.array[:, 0] > 30).astype(np.uint8), classes, source)
        require_same_grid(source, image, tmp_path / name, read_mask(tmp_path / name))
    assert sitk.ReadImage(str(tmp_path / "mask.nrrd")).GetSpacing() == (1, 1, 3)
    assert sitk.ReadImage(str(tmp_path / "mask.nii.gz")).GetSpacing() == pytest.approx((0.001, 0.001, 0.003))
