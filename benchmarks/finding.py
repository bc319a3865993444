"""Time to find many images: python benchmarks/finding.py 1000 10000.

Makes folders of empty images and masks, and measures how long their cases take to be found for training, how long the
same folder takes where no image has a mask, and how long the images take to be found for prediction. The times should
grow in proportion to the number of images.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mlla_seg.data.card import load_card
from mlla_seg.data.layouts import find_cases
from mlla_seg.errors import InputError
from mlla_seg.inference.files import find_images


def seconds(job: Callable[..., object], *given: object) -> float:
    """Return how long a function takes, without what it says."""
    started = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(InputError):
        job(*given)
    return time.perf_counter() - started


def main() -> None:
    card = load_card("image_folder")
    print("images  with masks  without masks  for prediction   (seconds)")
    for count in map(int, sys.argv[1:]):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            for kind in ("images", "masks"):
                (root / kind).mkdir()
                for k in range(count):
                    (root / kind / f"tile_{k:06d}.png").touch()
            paired = seconds(find_cases, card, root)
            predicted = seconds(find_images, root / "images", 3)
            (root / "masks").rename(root / "labels")
            unpaired = seconds(find_cases, card, root)
            print(f"{count:6d}  {paired:10.2f}  {unpaired:13.2f}  {predicted:14.2f}")


if __name__ == "__main__":
    main()
