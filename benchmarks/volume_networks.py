"""Time per voxel of 3-D networks on CPUs, forward and backward: MLLA beside MONAI's DynUNet and SegResNet.

    python benchmarks/volume_networks.py --patch 64 --threads 2

MONAI's networks get the width with which they have about as many parameters. The networks take turns, so that the load
of the machine is the same for all; medians and the fastest round are printed. ``--profile`` says what MLLA's time goes
into.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from monai.networks.nets import DynUNet, SegResNet
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from mlla_seg import create_model
from mlla_seg.models.cost import macs
from mlla_seg.models.recompute import set_checkpointing

CLASSES = 3
HALVINGS = 3
"""Of all networks, as for a patch of hippocampus: 8 voxels of stride 8."""


def mlla(size: str, decoder: str = "mlla_unet_fine") -> nn.Module:
    """Return MLLA-UNet of a size, halved as often as the others."""
    strides = [[2] * 3 if step < HALVINGS else [1] * 3 for step in range(5)]
    return create_model(size, decoder, CLASSES, 1, dims=3, strides=strides)


def dynunet(width: int) -> nn.Module:
    """Return nnU-Net's plain U-Net."""
    filters = [min(10 * width, width * 2**level) for level in range(HALVINGS + 1)]
    strides = [1, *[2] * HALVINGS]
    return DynUNet(3, 1, CLASSES, [3] * (HALVINGS + 1), strides, strides[1:], filters=filters)


def segresnet(width: int) -> nn.Module:
    """Return SegResNet, which halves three times."""
    return SegResNet(3, width, 1, CLASSES)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in {id(p): p for p in network.parameters()}.values())


def of_size(build: Callable[[int], nn.Module], wanted: int) -> nn.Module:
    """Return the network whose width, a multiple of 8, gives the nearest number of parameters."""
    with torch.device("meta"):
        width = min(range(8, 129, 8), key=lambda width: abs(parameters(build(width)) - wanted))
    return build(width)


def step(network: nn.Module, volume: Tensor) -> tuple[float, float]:
    """Return the seconds of a forward and a backward pass."""
    start = time.perf_counter()
    loss = network(volume).square().mean()
    middle = time.perf_counter()
    loss.backward()
    end = time.perf_counter()
    network.zero_grad()
    return middle - start, end - middle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="mlla_nano")
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    ours = mlla(options.size)
    recomputed = mlla(options.size)
    set_checkpointing(recomputed, "all")
    networks = {
        f"{options.size} mlla_unet_fine": ours,
        "the same, recomputed": recomputed,
        f"{options.size} mlla_unet": mlla(options.size, "mlla_unet"),
        "DynUNet": of_size(dynunet, parameters(ours)),
        "SegResNet": of_size(segresnet, parameters(ours)),
    }
    volume = torch.randn(options.batch, 1, *[options.patch] * 3)
    if options.profile:
        step(ours, volume)
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
            step(ours, volume)
        averages = profiler.key_averages(group_by_input_shape=True)
        print(averages.table(sort_by="self_cpu_time_total", row_limit=20, max_name_column_width=40))
        return
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in networks}
    for turn in range(options.rounds + 1):
        for name, network in networks.items():
            taken = step(network, volume)
            if turn:
                times[name].append(taken)
    print("| network | M weights | GMAC | forward us/voxel | backward us/voxel | fastest step us/voxel | of MLLA's |")
    print("|---|---|---|---|---|---|---|")
    first = 0.0
    for name, network in networks.items():
        columns = zip(*times[name], strict=True)
        forward, backward = (statistics.median(column) * 1e6 / volume.numel() for column in columns)
        fastest = min(map(sum, times[name])) * 1e6 / volume.numel()
        first = first or forward + backward
        facts = f"{parameters(network) / 1e6:.2f} | {macs(network, volume) / 1e9:.1f} | {forward:.2f} | {backward:.2f}"
        print(f"| {name} | {facts} | {fastest:.2f} | {(forward + backward) / first:.2f} |", flush=True)


if __name__ == "__main__":
    main()
