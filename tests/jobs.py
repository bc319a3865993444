"""Small segmenters to export: networks with non-trivial batch norms, and their ``DataSpec``."""

from __future__ import annotations

import torch
from torch import nn

from mlla_seg.data.dataspec import DataSpec
from mlla_seg.export.exportable import Job
from mlla_seg.models import create_model
from mlla_seg.models.blocks import Block
from mlla_seg.models.decoders import OF_BLOCKS
from mlla_seg.models.mixers import rope_for

CLASSES = [
    {"name": "background", "colour": [0, 0, 0], "id": 0},
    {"name": "liver", "colour": [150, 80, 60], "id": 1},
    {"name": "spleen", "colour": [130, 90, 200], "id": 4},
]


REGIONS = {
    "classes": ["background", "oedema", "core", {"name": "enhancing", "id": 4}],
    "regions": [
        {"name": "whole", "ids": [1, 2, 4], "writes": 1},
        {"name": "tumour core", "ids": [2, 4], "writes": 2},
        {"name": "enhancing", "ids": [4], "writes": 4},
    ],
}
"""Entries of a spec of three regions."""


def spec_of(channels: int = 1, **more: object) -> DataSpec:
    """A ``DataSpec``; ``more`` overrides entries of its dict form."""
    content = {
        "name": "small",
        "modality": "CT",
        "channels": [f"channel {k}" for k in range(channels)],
        "classes": CLASSES,
        "normalisation": {"mean": [40.0 + k for k in range(channels)], "std": 20.0},
        **more,
    }
    return DataSpec.from_dict(content)


def segmenter(decoder: str = "mlla_unet", channels: int = 1) -> nn.Module:
    """A minimal network with non-trivial batch norms."""
    torch.manual_seed(0)
    depths = {"decoder_depths": (1, 1, 1)} if decoder in OF_BLOCKS else {}
    normalisation = {"mean": [40.0 + k for k in range(channels)], "std": 20.0}
    network = create_model("mlla_test", decoder, 3, channels, normalisation, **depths).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    return network


class Pixelwise(nn.Module):
    """A network that exports quickly: a normalised 3 x 3 convolution."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv((x - 40) / 20)


class OneBlock(nn.Module):
    """A network with one MLLA block, which compiles in a fraction of the time of a complete one."""

    def __init__(self, mixer: str = "linear_attention") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down = nn.Conv2d(1, 8, 4, stride=4)
        self.block = Block(8, num_heads=2, mixer=mixer)
        self.head = nn.ConvTranspose2d(8, 3, 4, stride=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.down((x - 40) / 20).movedim(1, -1)
        return self.head(self.block(tokens, rope_for(tokens)).movedim(-1, 1))


def small_job(channels: int = 1, outputs: str = "logits", precision: str = "float32", **options: object) -> Job:
    """An export job with :class:`Pixelwise`; options that are not the job's go to its spec."""
    own = {key: options.pop(key) for key in ("opset", "calibration", "tile", "pixel_size_m") if key in options}
    return Job(Pixelwise(channels).eval(), spec_of(channels, **options), outputs, precision, **own)


def images(channels: int = 1, sizes: tuple[tuple[int, int], ...] = ((64, 64), (225, 257)), batch: int = 1):
    """Images in the units of :func:`spec_of`."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, channels, *size, generator=generator) * 20 + 40 for size in sizes]
