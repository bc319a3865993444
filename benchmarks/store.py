"""Time to open a prepared store: python benchmarks/store.py 2000 10000.

Makes data sets of small images and masks, and measures how long the data module takes to prepare them, and then to set
itself up again: to find the files, compare them with the store and open it. Then measures how long a check of all
contents takes (``--data.verify true``), and the speed of its checksums.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from mlla_seg.data.datamodule import SegmentationDataModule

BLOCK = bytes(2**28)
"""What the speed of checksums is measured on."""


def seconds(job: Callable[[], object]) -> float:
    """Return how long a function takes, without what it says."""
    started = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()):
        job()
    return time.perf_counter() - started


def write_tiles(root: Path, count: int, size: int = 64) -> None:
    """Write images of noise in the layout of the card ``image_folder``, with two classes."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (root / kind).mkdir()
    for k in range(count):
        image = rng.integers(0, 255, (size, size, 3), np.uint8)
        Image.fromarray(image).save(root / f"images/tile_{k:06d}.png")
        Image.fromarray((image[..., 0] > 128) * np.uint8(255)).save(root / f"masks/tile_{k:06d}.png")


def main() -> None:
    print("cases  prepare  start again  verify   (seconds)  checksums, GB/s")
    for count in map(int, sys.argv[1:]):
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cache:
            root = Path(folder)
            write_tiles(root, count)

            def set_up(verify: bool = False, root: Path = root) -> None:
                data = SegmentationDataModule("image_folder", str(root), crop=[64, 64], cache_dir=cache, verify=verify)
                data.prepare_data()
                data.setup("fit")

            built, again, verified = seconds(set_up), seconds(set_up), seconds(lambda: set_up(True))
            speed = len(BLOCK) / 1e9 / seconds(lambda: zlib.crc32(BLOCK))
            print(f"{count:5d}  {built:7.1f}  {again:11.2f}  {verified:6.1f}  {'':10}{speed:15.1f}")


if __name__ == "__main__":
    main()
