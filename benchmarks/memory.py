"""Peak memory of predicting a large CT: python benchmarks/memory.py [SLICES] [--size N] [--patch D,H,W] [OPTIONS ...].

Writes a volume of N x N x SLICES (default 512 x 512 x 1000) int16 voxels and a small network with 14 classes to a
temporary folder, runs ``predict`` with the further options in a subprocess, and prints its maximum resident set size.
With ``--patch`` the network sees volumes as volumes, in patches of this size, and the volume is resampled, to 1.2 mm
between slices of 1 mm.
"""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from mlla_seg import create_model
from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.halving import strides_for

SPACING = [1.2, 0.8, 0.8]
"""Spacing of slices, rows and columns at which a network of volumes sees them."""
CLASSES = 14


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("slices", nargs="?", type=int, default=1000)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--patch", type=lambda text: [int(side) for side in text.split(",")])
    known, options = parser.parse_known_args()
    slices, size, patch = known.slices, known.size, known.patch
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _write_volume(folder / "ct.nii.gz", size, slices)
        shape: dict[str, Any] = {"dims": 3, "frame": patch, "strides": strides_for(SPACING, patch)} if patch else {}
        decoder = "mlla_unet_fine" if patch else "unet"
        network = create_model("mlla_test", decoder, CLASSES, in_channels=1, normalisation={"std": 100.0}, **shape)
        network.spec = DataSpec.from_dict(
            {
                "channels": ["CT in HU"],
                "classes": [f"class {k}" for k in range(CLASSES)],
                "background": 0,
                "normalisation": {"std": 100.0},
                **({"patch_size": patch, "spacing_mm": SPACING} if patch else {}),
            }
        )
        network.save_pretrained(folder / "network")
        root = Path(__file__).parents[1]
        command = [sys.executable, root / "cli.py", "predict", "--ckpt_path", folder / "network", *options]
        command += ["--input", folder / "ct.nii.gz", "--output", folder / "masks", "--batch_size", "4"]
        started = time.perf_counter()
        subprocess.run(list(map(str, command)), check=True)
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    seen = f"patches of {patch}" if patch else "slices"
    print(f"{size} x {size} x {slices}, {CLASSES} classes, {seen}, {platform.processor() or platform.machine()}:")
    print(f"peak resident memory {peak:.2f} GiB, {seconds:.0f} s")


def _write_volume(path: Path, size: int, slices: int) -> None:
    rng = np.random.default_rng(0)
    piece = rng.integers(-1000, 1000, (size, size, 8), dtype=np.int16)
    volume = np.empty((size, size, slices), np.int16)
    for k in range(slices):
        volume[:, :, k] = piece[:, :, k % 8]
    nib.Nifti1Image(volume, np.diag([0.8, 0.8, 1.0, 1.0])).to_filename(path)


if __name__ == "__main__":
    main()
