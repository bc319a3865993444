"""Small labelled images in class folders: stripes of three directions, with noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("across", "along", "slanting")


def write_class_folders(root: Path, train: int = 4, val: int = 2, size: int = 20) -> Path:
    """Write ``train`` and ``val`` images of each class below the root, and return it."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size]
    for split, count in (("train", train), ("val", val)):
        for name, phase in zip(CLASSES, (rows, columns, rows + columns), strict=True):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                image = 110 + 90 * np.sin(phase + i) + rng.normal(0, 20, (size, size))
                Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return root
