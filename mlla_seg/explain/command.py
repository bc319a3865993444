"""The command explain: pictures of what a trained network looks at for one pixel of an image."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mlla_seg.data.formats.bands import shown_channels
from mlla_seg.data.formats.headers import note_headers
from mlla_seg.data.formats.picture import Array, require_finite
from mlla_seg.data.formats.registry import read_channels
from mlla_seg.data.framing import margin
from mlla_seg.data.image_files import find_images
from mlla_seg.errors import InputError, about
from mlla_seg.evaluation import html
from mlla_seg.evaluation.tables import format_table
from mlla_seg.explain.attention import attention_of
from mlla_seg.explain.blocks import Seen, by_stage, observe
from mlla_seg.explain.figures import Panel, draw_panels
from mlla_seg.explain.part import ImagePart, chosen_pixel, normalised, on_map, part_around
from mlla_seg.explain.receptive_field import reach, receptive_field
from mlla_seg.inference.cases import TorchEngine, predict_case
from mlla_seg.inference.optimize import device_named
from mlla_seg.models.checkpoint import load_segmenter
from mlla_seg.models.segmenter import Segmenter
from mlla_seg.progress import say

LARGEST = 4096
"""Largest side of an image to explain; of larger scenes, a part must be cut out first."""
ATTENTION = (
    "Weights with which the token mixer sums the values of all pixels for the marked pixel, averaged over heads, in "
    "the last block of each stage. Red is positive, blue negative (RoPE can make weights negative)."
)
FIELD = (
    "Absolute gradient of the marked pixel's largest logit with respect to the normalised image, summed over channels "
    "(effective receptive field, arXiv 1701.04128); logarithmic in the second map."
)

BLOCKS = (
    "Norm spread: standard deviation over pixels of the L2 norm of the mixer's output, relative to its mean. Forget "
    "gate: mean over pixels and states, 1 forgets nothing. Distances are in pixels of the image that the network sees."
)


def explain(
    ckpt_path: str,
    input: str,
    output: str = "explained",
    pixel: list[int] | None = None,
    device: str = "auto",
) -> None:
    """Draw what a trained network looks at for one pixel: attention weights and effective receptive field.

    Writes attention.png, receptive_field.png and explain.html to the output folder.

    Args:
        ckpt_path: Checkpoint written by fit, or a folder written by save_pretrained.
        input: Image file, or folder of a DICOM series.
        output: Folder for the pictures.
        pixel: Slice, row and column of the pixel, or row and column for a single image, counted from 0 in slices as the
            network sees them; by default amid the predicted foreground.
        device: cpu, cuda, ... or auto.
    """
    network = load_segmenter(ckpt_path)
    if network.spec is None:
        raise InputError(f"{ckpt_path}: has no spec of its classes and channels. Train it with mlla_seg first.")
    if network.spec.axes == 3:
        raise InputError(f"{ckpt_path}: sees volumes as volumes; explain draws what networks of images see.")
    images = find_images(Path(input), len(network.spec.channels))
    if len(images) != 1:
        raise InputError(f"{input}: holds {len(images)} images; give one of them.")
    spec, files = network.spec, images[0]
    engine = TorchEngine(network.to(device_named(device)), device_named(device))
    picture = read_channels(files, spec.plane, spec.array_units, spec.wanted)
    if not picture.gaps:  # where NaN means no data, it is filled as in prediction
        require_finite(files[0], picture)
    if max(picture.array.shape[-2:]) > LARGEST:
        height, width = picture.array.shape[-2:]
        raise InputError(
            f"{files[0]}: has {height} x {width} pixels, more than {LARGEST} a side. Cut out the part to explain, such "
            "as with gdal_translate -srcwin."
        )
    with about(files[0]):
        volume, spacing = engine.volume(picture.array), picture.spacing_mm
        mask = predict_case(network, volume, spec.view, spacing, engine.device, writes=spec.writes)
        place = _place(pixel, mask.numpy(), spec.background)
        part = part_around(engine, picture.array, spec.view, picture.spacing_mm, *place)
    note_headers({str(files[0]): picture.notes})
    name = spec.class_names[int(mask[place])]
    title = f"{files[0].name}, slice {place[0]}, row {place[1]}, column {place[2]}, segmented as {name}"
    _write(network, part, title, Path(output))


def _place(pixel: list[int] | None, labels: Array, background: int | None) -> tuple[int, int, int]:
    if pixel is None:
        return chosen_pixel(labels, background)
    place = [0, *pixel] if len(pixel) == 2 and len(labels) == 1 else pixel
    if len(place) != 3 or not all(0 <= at < size for at, size in zip(place, labels.shape, strict=True)):
        wanted = "row and column" if len(labels) == 1 else "slice, row and column"
        raise InputError(f"--pixel takes {wanted} within {labels.shape}, counted from 0, got {pixel}.")
    return place[0], place[1], place[2]


def _write(network: Segmenter, part: ImagePart, title: str, folder: Path) -> None:
    """Draw all pictures of a part of an image and print the table."""
    image = normalised(network, part)
    seen = observe(network, image)
    channels = len(network.spec.channels) if network.spec else len(part.image[0])
    middle = (part.image.shape[1] // channels) // 2 * channels  # past the channels of neighbouring slices
    shown = part.image[0, middle : middle + channels].cpu().numpy()
    if network.spec:
        shown = shown[shown_channels(network.spec.channels)]
    maps = {entry.name: on_image(network, entry, image, part) for entry in by_stage(seen)}
    attention = {name: values for name, values in maps.items() if values is not None}
    field = receptive_field(network, image, part.row, part.column)
    folder.mkdir(parents=True, exist_ok=True)
    parts, rows = [], [table_row(network, entry, image, part) for entry in seen]
    if attention:
        panels = [Panel(f"{name.split(',')[0]}: {within(values, part)}", values) for name, values in attention.items()]
        draw_panels(shown, part.row, part.column, panels, title, folder / "attention.png")
        parts += [html.heading("Attention"), _embedded(folder / "attention.png", ATTENTION)]
    else:
        reason = "its mixers have no attention weights" if seen else "it has no MLLA blocks"
        parts.append(html.note(f"No attention is drawn for this network: {reason}."))
        say(f"note: no attention is drawn for this network: {reason}.")
    relative = field / max(field.max(), 1e-30)
    panels = [Panel(within(field, part), relative), Panel("logarithm", np.log10(relative + 1e-4) + 4)]
    draw_panels(shown, part.row, part.column, panels, title, folder / "receptive_field.png")
    parts += [html.heading("Effective receptive field"), _embedded(folder / "receptive_field.png", FIELD)]
    header = ["block", "mixer", "tokens", "norm spread", "forget gate", "half of weights within (pixels)"]
    if rows:
        parts += [html.heading("Blocks"), html.table(header, rows), html.note(BLOCKS)]
        say(format_table(header, rows))
    html.write_page(folder / "explain.html", title, parts)
    say(f"{title}. Effective receptive field: {within(field, part)}.")
    say(f"Written: {', '.join(str(folder / name) for name in _names(bool(attention)))}")


def _names(attention: bool) -> list[str]:
    return ["attention.png", "receptive_field.png", "explain.html"][0 if attention else 1 :]


def within(values: Array, part: ImagePart) -> str:
    """Say how far from the chosen pixel half and 95 % of a map lie."""
    half, most = (reach(np.abs(values), part.row, part.column, share) for share in (0.5, 0.95))
    return f"half within {half:.0f}, 95 % within {most:.0f} pixels"


def table_row(network: Segmenter, entry: Seen, image: Tensor, part: ImagePart) -> list[object]:
    """Return the row of a block in the table."""
    values = on_image(network, entry, image, part)
    _, height, width, _ = entry.inputs.shape
    half = "-" if values is None else f"{reach(np.abs(values), part.row, part.column, 0.5):.0f}"
    gate = "-" if entry.forget_gate is None else f"{entry.forget_gate:.3f}"
    return [entry.name, type(entry.mixer).__name__, f"{height} x {width}", f"{entry.norm_spread:.3f}", gate, half]


def on_image(network: Segmenter, entry: Seen, image: Tensor, part: ImagePart) -> Array | None:
    """Return a block's attention weights for the chosen pixel, averaged over heads, at the size of the image."""
    height, width = image.shape[-2:]
    above, left = margin(height, network.frame[0]), margin(width, network.frame[1])
    row, column, stride = on_map(network, part, entry.inputs.shape[1])
    weights = attention_of(entry.mixer, entry.inputs, entry.rope, row, column)
    if weights is None:
        return None
    large = F.interpolate(weights.mean(dim=0)[None, None], scale_factor=stride, mode="nearest")[0, 0]
    return torch.as_tensor(large[above : above + height, left : left + width]).double().cpu().numpy()


def _embedded(path: Path, caption: str) -> str:
    def copy(file: BytesIO) -> None:
        file.write(path.read_bytes())

    return html.picture(copy, caption)
