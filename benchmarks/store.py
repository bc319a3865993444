"""Time to open a prepared store: python benchmarks/store.py 2000 10000.

Makes data sets of small images and masks, and measures how long the data module takes to prepare them, and then to set
itself up again: to find the files, compare them with the store and open it; and how many images and masks it opens for
this, as it would to compute their checksums. Then measures how long a check of all contents takes
(``--data.verify true``), and the speed of its checksums. Processor time is that of this process, with its threads.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mlla_seg.data.datamodule import SegmentationDataModule

BLOCK = bytes(2**28)
"""What the speed of checksums is measured on."""


def seconds(job: Callable[[], object]) -> tuple[float, float]:
    """Return how long a function takes, without what it says, and how much of the processor it takes."""
    started, used = time.perf_counter(), time.process_time()
    with contextlib.redirect_stderr(io.StringIO()):
        job()
    return time.perf_counter() - started, time.process_time() - used


def count_opened(opened: Counter[str]) -> None:
    """Count from now on which files this process opens: images and masks as they are and in the store, and others."""

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], (str, os.PathLike)):
            name = os.fspath(arguments[0])
            opened["contents" if name.endswith((".png", ".image.npy", ".mask.npy")) else "others"] += 1

    sys.addaudithook(watch)


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
    print("cases         prepare     start again          verify   opened at start   opened by verify   CRC-32")
    opened: Counter[str] = Counter()
    count_opened(opened)
    for count in map(int, sys.argv[1:]):
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cache:
            root = Path(folder)
            write_tiles(root, count)

            def set_up(verify: bool = False, root: Path = root, cache: str = cache) -> None:
                data = SegmentationDataModule("image_folder", str(root), crop=[64, 64], cache_dir=cache, verify=verify)
                data.prepare_data()
                data.setup("fit")

            times, contents = [], []
            for verify in (False, False, True):
                opened.clear()
                times.append(seconds(partial(set_up, verify)))
                contents.append(opened["contents"])
            speed = len(BLOCK) / 1e9 / seconds(lambda: zlib.crc32(BLOCK))[1]
            shown = "".join(f"{wall:8.2f} {own:7.2f}" for wall, own in times)
            print(f"{count:5d}{shown}{contents[1]:18d}{contents[2]:19d}{speed:4.1f} GB/s", flush=True)
    print("(seconds, and those of the processor)")


if __name__ == "__main__":
    main()
