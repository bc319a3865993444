"""Sliding-window inference compared with MONAI: python benchmarks/sliding.py [SIDE] [--fix_malloc false].

Both use windows of 512 pixels with 50 % overlap, batches of four and Gaussian blending, and return labels. Measures the
same network as trained, and ours as optimised by predict; then the blending alone, with a trivial network, and the peak
memory of that for an image of four times the side.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from mlla_seg import create_model
from mlla_seg.benchmark.command import describe, keep_freed_memory
from mlla_seg.benchmark.measures import interleaved
from mlla_seg.evaluation.tables import format_table
from mlla_seg.inference.cases import TorchEngine, labels_of
from mlla_seg.inference.optimize import for_inference
from mlla_seg.inference.steps import window_logits

WINDOW, CLASSES = (512, 512), 6


def ours(network: nn.Module, image: Tensor) -> Tensor:
    """Return labels ``(H, W)``, computed strip by strip."""
    shape = (image.shape[-2], image.shape[-1])

    def read(top: int, left: int, rows: int, columns: int) -> Tensor:
        return image[0, :, top : top + rows, left : left + columns]

    bands = window_logits(TorchEngine(network), read, shape, WINDOW, overlap=0.5, batch_size=4)
    return torch.cat([labels_of(logits, dim=0) for _, logits in bands])


@torch.inference_mode()
def monai(network: nn.Module, image: Tensor) -> Tensor:
    """Return labels ``(H, W)``."""
    logits = sliding_window_inference(image, WINDOW, 4, network, overlap=0.5, mode="gaussian")
    return labels_of(logits[0], dim=0)


WAYS = {"MONAI": monai, "ours": ours}


def cheap() -> nn.Module:
    """Return a single 1 x 1 convolution."""
    torch.manual_seed(0)
    return nn.Conv2d(3, CLASSES, 1).eval()


def remember(way: str, side: int) -> None:
    """Print the peak resident memory of this process after segmenting an image of ``side``."""
    WAYS[way](cheap(), torch.zeros(1, 3, side, side))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{way:>6}: {side} x {side}, {peak:.2f} GiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("side", type=int, nargs="?", default=2048)
    parser.add_argument("--fix_malloc", choices=("true", "false"), default="true", help="glibc keeps freed memory")
    options = parser.parse_args()
    side = options.side
    if options.fix_malloc == "true":
        keep_freed_memory()
    torch.manual_seed(0)
    image = torch.randn(1, 3, side, side)
    network = create_model("mlla_nano", num_classes=CLASSES).eval()
    fast, half, nothing = for_inference(network), for_inference(network, precision="bf16"), cheap()
    code, half_code = for_inference(network, compile=True), for_inference(network, precision="bf16", compile=True)
    runs = {
        "MONAI, network as trained": (monai, network),
        "ours, network as trained": (ours, network),
        "ours, as predict runs it": (ours, fast),
        "ours, predict --compile true": (ours, code),
        "ours, predict --precision bf16": (ours, half),
        "ours, predict with both": (ours, half_code),
        "MONAI, blending alone": (monai, nothing),
        "ours, blending alone": (ours, nothing),
    }
    seconds = interleaved([lambda way=way, net=net: way(net, image) for way, net in runs.values()], 3)
    expected = monai(network, image)
    rows = []
    for (name, (way, net)), time in zip(runs.items(), seconds, strict=True):
        base = seconds[-2] if "alone" in name else seconds[0]
        agree = f"{(way(net, image) == expected).float().mean():.4%}" if net is not nothing else "-"
        rows.append([name, time, f"{base / time:.2f}", f"{side**2 / time / 1e6:.2f}", agree])
    print(f"{side} x {side}, {describe('cpu')}")
    print(format_table(["", "seconds", "times", "Mpixel/s", "labels as MONAI's"], rows))
    for way in WAYS:
        process = multiprocessing.get_context("spawn").Process(target=remember, args=(way, 4 * side))
        process.start()
        process.join()


if __name__ == "__main__":
    main()
