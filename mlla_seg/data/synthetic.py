"""Multi-organ phantom: CT-like volumes in the original Synapse (TransUNet) layout, generated in seconds from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mlla_seg.atomic import renamed_when_done
from mlla_seg.data.formats.h5_files import new_h5
from mlla_seg.data.formats.picture import Array
from mlla_seg.errors import InputError
from mlla_seg.progress import say

WINDOW_HU = (-125.0, 275.0)
"""TransUNet's intensity window; stored values are scaled from it to 0..1."""

# HU, centre and semi-axes as fractions of slices (up), rows (to posterior) and columns (to the patient's left).
# Ids are those of the Synapse files, 1 to 8 in this order; organs later in DRAWING_ORDER cover earlier ones.
ORGANS: dict[str, tuple[float, tuple[float, float, float], tuple[float, float, float]]] = {
    "aorta": (160, (0.50, 0.60, 0.52), (0.60, 0.035, 0.035)),
    "gallbladder": (15, (0.45, 0.40, 0.37), (0.18, 0.05, 0.05)),
    "left kidney": (135, (0.35, 0.63, 0.70), (0.35, 0.085, 0.06)),
    "right kidney": (130, (0.32, 0.63, 0.32), (0.35, 0.085, 0.06)),
    "liver": (105, (0.65, 0.43, 0.30), (0.50, 0.20, 0.17)),
    "pancreas": (80, (0.50, 0.48, 0.55), (0.14, 0.04, 0.12)),
    "spleen": (120, (0.70, 0.55, 0.77), (0.30, 0.11, 0.06)),
    "stomach": (40, (0.72, 0.37, 0.64), (0.30, 0.11, 0.11)),
}
DRAWING_ORDER = ("liver", "stomach", "spleen", "pancreas", "left kidney", "right kidney", "gallbladder", "aorta")


def phantom_volume(slices: int, size: int, seed: int) -> tuple[Array, Array]:
    """Generate one phantom.

    Returns:
        Image ``(S, H, W)`` float32 in HU, and labels ``(S, H, W)`` uint8 with 0 for background and 1 to 8 for organs.
    """
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*((np.arange(n) + 0.5) / n for n in (slices, size, size)), indexing="ij")
    bend = 0.02 * np.sin(6 * x + rng.uniform(0, 6)) + 0.02 * np.sin(5 * y + rng.uniform(0, 6))

    def ellipsoid(centre: Array | Sequence[float], axes: Array | Sequence[float]) -> Array:
        angle = rng.normal(0, 0.15)
        dy, dx = y + bend - centre[1], x + bend - centre[2]
        turned = (np.cos(angle) * dy - np.sin(angle) * dx, np.sin(angle) * dy + np.cos(angle) * dx)
        return ((z - centre[0]) / axes[0]) ** 2 + (turned[0] / axes[1]) ** 2 + (turned[1] / axes[2]) ** 2 < 1

    image = np.full((slices, size, size), -1000.0)
    label = np.zeros((slices, size, size), dtype=np.uint8)
    image[ellipsoid((0.5, 0.5, 0.5), (9, 0.36, 0.44))] = -90  # fat
    image[ellipsoid((0.5, 0.5, 0.5), (9, 0.32, 0.40))] = 45  # muscle
    image[ellipsoid((0.5, 0.76, 0.5), (9, 0.06, 0.06))] = 400  # spine
    ids = {name: k for k, name in enumerate(ORGANS, start=1)}
    for name in DRAWING_ORDER:
        hu, centre, axes = ORGANS[name]
        moved = np.asarray(centre) + rng.normal(0, (0.04, 0.015, 0.015))
        inside = ellipsoid(moved, np.asarray(axes) * rng.normal(1, 0.1, 3).clip(0.75, 1.25))
        image[inside] = hu + rng.normal(0, 8)
        label[inside] = ids[name]
    image += rng.normal(0, 18, image.shape)
    image[1:] = 0.5 * (image[1:] + image[:-1])  # neighbouring slices share their noise, as with thick slices
    return image.astype(np.float32), label


def write_synapse_layout(
    folder: Path, train: Sequence[int], test: Sequence[int], slices: int = 16, size: int = 96, seed: int = 0
) -> None:
    """Write phantoms as TransUNet distributes Synapse: slices in ``train_npz``, volumes in ``test_vol_h5``.

    Args:
        folder: Output folder, created if missing.
        train: Case numbers to write as slices.
        test: Case numbers to write as volumes.
        slices: Slices per volume.
        size: Height and width.
        seed: Random seed, combined with the case number.
    """
    low, high = WINDOW_HU
    (folder / "train_npz").mkdir(parents=True, exist_ok=True)
    (folder / "test_vol_h5").mkdir(exist_ok=True)
    for case in (*train, *test):
        image, label = phantom_volume(slices, size, seed * 10_000 + case)
        image = (np.clip(image, low, high) - low) / (high - low)
        if case in test:
            path = folder / "test_vol_h5" / f"case{case:04d}.npy.h5"
            with renamed_when_done(path) as temporary, new_h5(temporary) as (file, _):
                file["image"], file["label"] = image, label
        else:
            for i in range(slices):
                path = folder / "train_npz" / f"case{case:04d}_slice{i:03d}.npz"
                with renamed_when_done(path) as temporary:
                    np.savez_compressed(temporary, image=image[i], label=label[i].astype(np.float32))


def phantom(output: str, train: int = 12, test: int = 4, slices: int = 16, size: int = 96, seed: int = 0) -> None:
    """Generate a small CT-like multi-organ data set in the Synapse layout, for the card `phantom`.

    Args:
        output: Output folder.
        train: Number of training volumes, written as slices; the last two are the card's validation split.
        test: Number of test volumes.
        slices: Slices per volume.
        size: Height and width in pixels.
        seed: Random seed; another seed gives other patients.
    """
    if not (3 <= train <= 12 and 1 <= test <= 4):
        raise InputError(
            f"The card `phantom` supports 3 to 12 training and 1 to 4 test volumes, got {train} and {test}."
        )
    folder = Path(output)
    write_synapse_layout(folder, range(13 - train, 13), range(13, 13 + test), slices, size, seed)
    say(f"{train} training and {test} test volumes of {slices} x {size} x {size} voxels in {folder}")
