"""Pictures of a masked pretraining: images, what the encoder sees of them, and what is drawn."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import default_collate

from mlla_seg.data.formats.bands import shown_channels
from mlla_seg.data.formats.picture import Array
from mlla_seg.evaluation.plots import new_figure, plain, save_figure
from mlla_seg.models.masking import visible_at
from mlla_seg.pretraining.autoencoder import padded_size

SAMPLES = 4
"""Rows of a picture."""
SHARE = 0.05
"""Largest fraction of the time that is spent on pictures; the first and the last are drawn anyway."""
FOLDER = "reconstructions"


class ReconstructionPictures(Callback):
    """Draws the same samples with the same masks after each epoch, as ``reconstructions/epoch_0001.png``, ..."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.ready = -math.inf  # time of the next picture
        self.epoch = self.drawn = 0
        self.shown: dict[str, Any] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = trainer.log_dir  # a collective call: every process must make it
        self.folder = Path(folder) / FOLDER if folder and trainer.loggers and trainer.is_global_zero else None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epoch = trainer.current_epoch + 1
        if time.monotonic() >= self.ready:
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.drawn < self.epoch:
            self._draw(trainer, pl_module)

    def _draw(self, trainer: Trainer, pl_module: Any) -> None:
        if self.folder is None:
            return
        began, self.drawn = time.monotonic(), self.epoch
        if not self.shown:
            samples: Any = trainer.datamodule.train_set  # type: ignore[attr-defined]
            count = min(SAMPLES, len(samples))
            self.shown = default_collate([samples[0, k * len(samples) // count] for k in range(count)])
        drawn = pl_module.reconstruct(self.shown).cpu()
        colours = shown_channels(pl_module.spec.channels, pl_module.spec.context)
        self.folder.mkdir(parents=True, exist_ok=True)
        output = self.folder / f"epoch_{self.epoch:04d}.png"
        plot_reconstructions(self.shown, drawn, colours, output, f"epoch {self.epoch}, step {trainer.global_step}")
        now = time.monotonic()
        self.ready = now + (now - began) / SHARE


def plot_reconstructions(
    samples: Mapping[str, Any], drawn: Tensor, colours: Sequence[int], output: Path, title: str
) -> None:
    """Draw a row for each sample: the image, what is seen of it, and the image with drawings at masked patches.

    Args:
        samples: ``{"image": (B, C, H, W), "visible": (B, h, w), "valid": (B, H, W), "name": [str, ...]}``.
        drawn: Images with drawings at masked patches, ``(B, C, H, W)``.
        colours: Channels drawn as red, green and blue.
        output: PNG file to write.
        title: Title of the figure.
    """
    images, count = samples["image"], len(samples["image"])
    height, width = images.shape[2:]
    figure, axes = new_figure(count, 3, (3 * 2.4, count * 2.4 * height / width + 0.8))
    places = visible_at(samples["visible"], *padded_size((height, width)))[:, :height, :width]
    for k, row in enumerate(axes):
        original, result = as_picture(images[k], images[k], colours), as_picture(drawn[k], images[k], colours)
        hidden = np.asarray(~places[k])[..., None]
        seen = np.where(hidden, np.array((0.35, 0.35, 0.45), np.float32), original)
        panels = [(samples["name"][k], original), ("seen", seen), ("drawn", result)]
        for axis, (name, picture) in zip(row, panels, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_title(plain(name), fontsize=8)
            axis.axis("off")
    figure.suptitle(plain(title), fontsize=10)
    save_figure(figure, output)


def as_picture(image: Tensor, scale: Tensor, colours: Sequence[int]) -> Array:
    """Return an image ``(C, H, W)`` as ``(H, W, 3)`` in 0..1, black and white at percentiles of ``scale``."""
    low, high = np.percentile(scale[[*colours]].float().numpy(), (1, 99))
    return np.moveaxis(np.clip((image[[*colours]].float().numpy() - low) / max(high - low, 1e-6), 0, 1), 0, 2)
