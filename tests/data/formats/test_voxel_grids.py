"""Images and masks on different grids: what the difference looks like."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from mlla_seg.data.formats.registry import read_image, read_mask
from mlla_seg.data.formats.voxel_grids import require_same_grid
from mlla_seg.errors import InputError
from samples import write_array

SCAN = np.array([[-1.5, 0, 0, 7], [0, -1.5, 0, 8], [0, 0, 10, 9], [0, 0, 0, 1.0]])
SHAPE = (6, 5, 4)


def difference(tmp_path, array, affine):
    image, mask = tmp_path / "ct.nii", tmp_path / "mask.nii"
    nib.Nifti1Image(np.zeros(SHAPE, np.uint8), SCAN).to_filename(image)
    nib.Nifti1Image(array, affine).to_filename(mask)
    picture = read_image(image)
    with pytest.raises(InputError, match=r"mask\.nii: ") as caught:
        require_same_grid(image, picture, mask, read_mask(mask, picture.axes))
    return str(caught.value)


@pytest.mark.parametrize(
    ("array", "affine", "problem"),
    [
        (np.zeros((5, 6, 4), np.uint8), SCAN, "the same: its rows and columns are exchanged. Its header gives other"),
        (np.zeros((4, 5, 6), np.uint8), SCAN, "the same: its axes are in another order. Its header gives other"),
        (np.zeros((6, 5, 3), np.uint8), SCAN, "with (4, 5, 6) (slices, height, width)."),
        (np.zeros(SHAPE, np.uint8), np.diag([-1, -1, 1, 1]) @ SCAN, "opposite sign of left-right and front-back"),
        (np.zeros(SHAPE, np.uint8), np.eye(4), "its spacing is 1 x 1 x 1 mm, expected 10 x 1.5 x 1.5 (slices, rows,"),
        (np.zeros(SHAPE, np.uint8), SCAN + 4 * np.eye(4, k=3), "by up to 4 mm. Resample one to the other's grid"),
    ],
    ids=["transposed", "turned", "another shape", "ITK's signs", "no header", "moved"],
)
def test_a_difference_is_named_with_its_likely_cause(tmp_path, array, affine, problem):
    message = difference(tmp_path, array, affine)
    assert problem in message
    assert "\n" not in message


def test_arrays_without_a_header_are_to_be_transposed(tmp_path):
    image = write_array(tmp_path / "a.npz", image=np.zeros((3, 8, 9), np.uint8))
    mask = write_array(tmp_path / "b.npz", mask=np.zeros((8, 9, 3), np.uint8))
    with pytest.raises(InputError, match=r"its axes are in another order\. Transpose its array\."):
        require_same_grid(image, read_image(image), mask, read_mask(mask))
