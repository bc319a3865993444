"""The trained network of each variant and what it does with the same few images: fields, blocks, costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean

import numpy as np
import torch

from mlla_seg.benchmark import measures
from mlla_seg.data.datamodule import SegmentationDataModule
from mlla_seg.data.formats.classes import IGNORE_INDEX
from mlla_seg.data.formats.picture import Array
from mlla_seg.data.shipped import read_config
from mlla_seg.explain.attention import attention_of
from mlla_seg.explain.blocks import Seen, observe
from mlla_seg.explain.part import ImagePart, chosen_pixel, normalised, on_map, part_around
from mlla_seg.explain.receptive_field import receptive_field
from mlla_seg.inference.cases import TorchEngine
from mlla_seg.models.checkpoint import load_segmenter
from mlla_seg.models.cost import macs
from mlla_seg.models.segmenter import Segmenter
from mlla_seg.study.plan import Plan, Run, Variant, flattened
from mlla_seg.training.config_sections import data_options

EXAMPLES = 8
"""Images over which receptive fields and norms are averaged."""
BATCH = 8
"""Patches at a time when speed is measured."""


@dataclass(frozen=True)
class Subject:
    """A trained network of a variant.

    Args:
        variant: The variant.
        network: Its network, of the first seed that is done.
        field: Effective receptive field ``(2 h - 1, 2 w - 1)`` around the chosen pixel, averaged over the examples;
            each is divided by its sum first.
        attention: Weights ``(h, w)`` of the first example's pixel on the encoder's feature map of stride 4, averaged
            over heads, with its row and column; None for mixers without weights.
        names: Places of the blocks.
        spread: For each block, the standard deviation over tokens of the norm of the mixer's output, relative to its
            mean; averaged over the examples.
        gates: For each block, the mean forget gate; empty for mixers without.
        costs: M parameters, and GMAC and MB of activations of inference on one training patch.
    """

    variant: Variant
    network: Segmenter
    field: Array
    attention: tuple[Array, int, int] | None
    names: tuple[str, ...]
    spread: tuple[float, ...]
    gates: tuple[float, ...]
    costs: dict[str, float]

    @property
    def of_blocks(self) -> bool:
        """Whether the encoder has blocks with a mixer, too."""
        return any(name.startswith("encoder") for name in self.names)

    @property
    def mixer(self) -> str:
        """Name of the token mixer, as the variant sets it."""
        return str(self.variant.options.get("model.mixer", "linear_attention"))


@dataclass(frozen=True)
class Example:
    """An image on which networks are compared.

    Args:
        image: ``(S, C, H, W)`` in raw units.
        spacing_mm: Spacing of slices, rows and columns, if known.
        pixel: Slice, row and column of a foreground pixel.
    """

    image: Array
    spacing_mm: Sequence[float] | None
    pixel: tuple[int, int, int]


def examples(plan: Plan) -> list[Example]:
    """Return a few cases of the scored split, evenly chosen."""
    settings = {**flattened(read_config(plan.base)), **plan.options}
    options = {key.removeprefix("data."): value for key, value in settings.items() if key.startswith("data.")}
    data = SegmentationDataModule(**data_options({"data": options, "model": {"dims": settings.get("model.dims")}}))
    data.prepare_data()
    data.setup("validate" if plan.split == "validate" else "test")
    cases = data.val_set if plan.split == "validate" else data.test_set
    chosen = np.unique(np.linspace(0, len(cases) - 1, EXAMPLES).round().astype(int))
    found = []
    for index in chosen:
        case = cases[int(index)]
        image, mask = case["image"].numpy(), case["mask"].numpy()
        labels = np.where(mask == IGNORE_INDEX, data.spec.background or 0, mask)
        found.append(Example(image, case["spacing_mm"], chosen_pixel(labels, data.spec.background)))
    return found


def subject(run: Run, images: Sequence[Example]) -> Subject:
    """Load the network of a run and look at it."""
    network = load_segmenter(run.folder / "trained" / "checkpoints" / "last.ckpt")
    assert network.spec is not None
    engine = TorchEngine(network)
    fields: list[Array] = []
    seen: list[list[Seen]] = []
    attention = None
    for example in images:
        part = part_around(engine, example.image, network.spec.view, example.spacing_mm, *example.pixel)
        pixels = normalised(network, part)
        fields.append(centred(receptive_field(network, pixels, part.row, part.column), part.row, part.column))
        seen.append(observe(network, pixels))
        if len(seen) == 1:
            attention = _attention(seen[0], network, part)
    height, width = (max(field.shape[axis] for field in fields) for axis in (0, 1))
    return Subject(
        run.variant,
        network,
        np.mean([padded(field / max(field.sum(), 1e-30), height, width) for field in fields], axis=0),
        attention,
        tuple(entry.name for entry in seen[0]),
        averages([[entry.norm_spread for entry in row] for row in seen]),
        averages([[gate for entry in row if (gate := entry.forget_gate) is not None] for row in seen]),
        costs(network),
    )


def averages(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Return the mean of each column."""
    return tuple(fmean(column) for column in zip(*rows, strict=True))


def _attention(seen: Sequence[Seen], network: Segmenter, part: ImagePart) -> tuple[Array, int, int] | None:
    at_stride_4 = [entry for entry in seen if entry.name.startswith("encoder 1/4")]
    if not at_stride_4:
        return None
    finest = at_stride_4[-1]
    row, column, _ = on_map(network, part, finest.inputs.shape[1])
    weights = attention_of(finest.mixer, finest.inputs, finest.rope, row, column)
    return None if weights is None else (weights.mean(dim=0).numpy(), row, column)


def centred(field: Array, row: int, column: int) -> Array:
    """Return a field ``(h, w)`` within zeros so that a pixel is in the middle of ``(2 h - 1, 2 w - 1)``."""
    height, width = field.shape
    result = np.zeros((2 * height - 1, 2 * width - 1))
    result[height - 1 - row : 2 * height - 1 - row, width - 1 - column : 2 * width - 1 - column] = field
    return result


def padded(field: Array, height: int, width: int) -> Array:
    """Return a field of odd size amid zeros of another, larger odd size."""
    above, left = (height - field.shape[0]) // 2, (width - field.shape[1]) // 2
    result = np.zeros((height, width))
    result[above : above + field.shape[0], left : left + field.shape[1]] = field
    return result


def costs(network: Segmenter) -> dict[str, float]:
    """Return what inference on one patch of the training costs: size, operations and peak of live tensors."""
    assert network.spec is not None
    height, width = network.spec.patch_size or (224, 224)
    image = torch.zeros(1, network.in_channels, height, width)
    return {
        "M parameters": sum(parameter.numel() for parameter in network.parameters()) / 1e6,
        "GMAC": macs(network, image) / 1e9,
        "MB of activations": measures.peak_bytes(network, image) / 2**20,
    }


def with_speed(subjects: Sequence[Subject]) -> list[Subject]:
    """Add the training patches per second of inference to the costs, measured in turn, as load affects all then."""
    runs = []
    for one in subjects:
        assert one.network.spec is not None
        size = one.network.spec.patch_size or (224, 224)
        runs.append(partial(one.network, torch.zeros(BATCH, one.network.in_channels, *size)))
    with torch.inference_mode():
        seconds = measures.interleaved(runs, repeats=5)
    return [
        replace(one, costs={**one.costs, "patches per second": BATCH / time})
        for one, time in zip(subjects, seconds, strict=True)
    ]
