"""Masks are counted as training reads them; what it would refuse is refused with the same words."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from mlla_seg.data.cases import Case
from mlla_seg.errors import InputError
from mlla_seg.planning.survey import survey
from samples import write_nifti

IDS = np.tile(np.array([[0, 1], [1, 3]], np.uint8), (8, 8))


def surveyed(folder, mask):
    image = folder / ("a.nii.gz" if mask.name.endswith(".nii.gz") else "a.png")
    if image.suffix == ".png":
        Image.fromarray(np.dstack([IDS * 9] * 3)).save(image)
    else:
        write_nifti(image, np.zeros((16, 16, 2), np.int16))
    return survey([Case("a", "a", ((image,),), (mask,))])


@pytest.mark.parametrize("channels", [3, 4])
def test_greys_saved_as_colours_are_values(tmp_path, channels):
    pixels = np.dstack([IDS] * 3 + [np.full_like(IDS, 255)] * (channels == 4))
    Image.fromarray(pixels).save(tmp_path / "b.png")
    found = surveyed(tmp_path, tmp_path / "b.png")
    assert found.values == Counter({1: 128, 0: 64, 3: 64}) and not found.colours


def test_values_are_rounded_as_in_training(tmp_path):
    ids = np.dstack([IDS, IDS]) / np.float32(255)
    found = surveyed(tmp_path, write_nifti(tmp_path / "b.nii.gz", ids * np.float32(255) + np.float32(1e-5)))
    assert found.values == Counter({1: 256, 0: 128, 3: 128})


def test_a_channel_for_each_class_is_refused_with_what_to_do(tmp_path):
    one_hot = np.stack([np.dstack([IDS, IDS]) == k for k in (0, 1)], axis=-1).astype(np.uint8)
    with pytest.raises(InputError, match=r"b\.nii\.gz: has 2 channels; .* store the number of the class instead"):
        surveyed(tmp_path, write_nifti(tmp_path / "b.nii.gz", one_hot))
