"""Memory and speed of segmenting a scene: python benchmarks/scene.py [SIDE ...] (default 4000 and 20000).

Writes scenes of SIDE x SIDE pixels with four uint8 bands and a small network with six classes to a temporary folder,
runs the command line in a subprocess for each, and prints its maximum resident set size and pixels per second. With
``--devices 1 2`` each scene is segmented by one process and by two, each process with one thread, and the two maps must
be the same bytes; the memory is then that of the largest process.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio

from mlla_seg import create_model
from mlla_seg.data.dataspec import DataSpec

BANDS, CLASSES = 4, 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sides", type=int, nargs="*", default=[4000, 20000], help="sides of the scenes in pixels")
    parser.add_argument("--devices", type=int, nargs="+", help="processes, each with one thread")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        network = create_model("mlla_test", "unet", num_classes=CLASSES, in_channels=BANDS)
        network.spec = DataSpec.from_dict(
            {
                "channels": [f"band {k}" for k in range(BANDS)],
                "classes": [f"class {k}" for k in range(CLASSES)],
                "normalisation": {"mean": 128.0, "std": 60.0},
                "patch_size": [512, 512],
            }
        )
        network.save_pretrained(folder / "network")
        print(f"{BANDS} bands uint8, windows of 512 overlapping by a quarter, {platform.processor()}")
        for side in given.sides:
            _write_scene(folder / "scene.tif", side)
            maps = set()
            for count in given.devices or [None]:
                output = folder / f"map_{count}.tif"
                seconds, gigabytes = _segment(folder, output, count)
                maps.add(output.read_bytes())
                processes = f"{count} processes, " if count else ""
                speed = side**2 / seconds / 1e6
                print(
                    f"{side:>6}: {processes}peak {gigabytes:.2f} GiB, {seconds:.0f} s, {speed:.3f} Mpixel/s", flush=True
                )
            assert len(maps) == 1, "the maps differ"


def _segment(folder: Path, output: Path, devices: int | None) -> tuple[float, float]:
    """Segment the scene in a folder, and return the seconds and the GiB that it took."""
    command = [sys.executable, Path(__file__).parents[1] / "cli.py", "predict", "--overlap=0.25"]
    command += ["--ckpt_path", folder / "network", "--input", folder / "scene.tif", "--output", output]
    command += ["--devices", devices] if devices else []
    threads = {"OMP_NUM_THREADS": "1"} if devices else {}
    started = time.perf_counter()
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, env={**os.environ, **threads})
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    return time.perf_counter() - started, usage.ru_maxrss / 2**20


def _write_scene(path: Path, side: int) -> None:
    profile = {"driver": "GTiff", "count": BANDS, "height": side, "width": side, "dtype": "uint8", "tiled": True}
    place = {"crs": "EPSG:32636", "transform": rasterio.transform.from_origin(0, 0, 0.5, 0.5)}
    rng = np.random.default_rng(0)
    with rasterio.open(path, "w", **profile, **place) as file:
        for _, part in file.block_windows(1):
            file.write(rng.integers(0, 255, (BANDS, part.height, part.width), dtype=np.uint8), window=part)


if __name__ == "__main__":
    main()
