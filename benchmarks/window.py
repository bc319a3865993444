"""Effect of the window size on scene segmentation: python benchmarks/window.py CKPT SCENE MASK [SIDE ...].

Attention is global within a window, so a larger window gives more context, but also a size not seen in training. Prints
for each side (default 128 to 1024), and for cosine blending at the training size, the mean IoU, the agreement with the
result at the training size, and the speed.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from mlla_seg import Predictor
from mlla_seg.data.formats.geotiff import open_rasters
from mlla_seg.evaluation.overlap import case_confusion
from mlla_seg.evaluation.scores import Evaluation
from mlla_seg.evaluation.tables import format_table
from mlla_seg.inference.scenes import MapOptions, predict_scene


def main() -> None:
    checkpoint, scene, mask_path, *rest = sys.argv[1:]
    predictor = Predictor.from_checkpoint(checkpoint, device="auto")
    spec = predictor.spec
    own = spec.patch_size[0]
    sides = sorted({own, *map(int, rest or (128, 256, 384, 512, 1024))})
    names = spec.class_names
    ids = {entry.id: k for k, entry in enumerate(spec.classes)}
    truth = np.vectorize(lambda value: ids.get(value, 255))(_read(Path(mask_path)))
    maps, rows = {}, []
    for blend, side in [("gaussian", own), *(("gaussian", side) for side in sides), ("cosine", own)]:
        if (blend, side) in maps:
            continue
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            options = MapOptions(window=side, blend=blend, batch_size=max(1, 512**2 * 4 // side**2))
            output = Path(folder) / "map.tif"
            predict_scene(predictor.engine, spec, [Path(scene)], output, options)
            seconds = time.perf_counter() - started
            maps[blend, side] = found = _read(output)
        labels = np.vectorize(lambda value: ids.get(value, 0))(found)
        confusion = case_confusion(torch.from_numpy(labels), torch.from_numpy(truth), len(names))
        iou = Evaluation(["scene"], names, spec.background, confusion[None]).pooled()["iou"]
        agree = float((found == maps["gaussian", own]).mean())
        rows.append([f"{side} {blend}", iou, f"{agree:.2%}", found.size / seconds / 1e6])
    print(format_table(["window", "mean IoU", f"as with {own}", "Mpixel/s"], rows))


def _read(path: Path) -> np.ndarray:
    with open_rasters([path]) as raster:
        return np.nan_to_num(raster.read(0, 0, *raster.shape)[0], nan=-1).astype(int)


if __name__ == "__main__":
    main()
