"""From a checkpoint and files to masks in the files' own format and geometry; needs neither config nor card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.formats import polygons as vectors
from mlla_seg.data.formats import registry
from mlla_seg.errors import InputError
from mlla_seg.inference.base import CaseSegmenter
from mlla_seg.inference.cases import TorchEngine
from mlla_seg.inference.files import segment_files
from mlla_seg.inference.optimize import PRECISIONS, device_named, for_inference
from mlla_seg.inference.scenes import MapOptions
from mlla_seg.inference.sliding_window import BLENDS
from mlla_seg.models.checkpoint import load_network


class Predictor(CaseSegmenter):
    """A trained segmenter for users: images, arrays or files in raw units in, class indices out; see ``__call__``.

    Args:
        network: A trained segmenter, as ``Segmenter.from_pretrained`` gives it, or anything that maps
            ``(B, C, H, W)`` in raw units to logits ``(B, K, H, W)``.
        spec: What it knows of its data: classes, colours, channels, plane, sizes; by default the segmenter's own.
        device: ``cpu``, ``cuda``, ... or ``auto`` for a GPU where there is one.
        precision: A name in :data:`mlla_seg.inference.optimize.PRECISIONS`.
        compile: Compile the network for images of the size of the first, see
            :mod:`mlla_seg.inference.optimize_compile`.

    Raises:
        InputError: Nothing says what the data were, an unknown device or precision, or no compiler.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        spec: DataSpec | Mapping[str, Any] | None = None,
        device: str = "cpu",
        precision: str = "fp32",
        compile: bool = False,
    ) -> None:
        spec = spec or getattr(network, "spec", None)
        if spec is None:
            raise InputError(
                "This network does not know its classes and channels. "
                'Give spec, such as SegmentationDataModule(...).spec or {"channels": ["CT"], "classes": ["background", '
                '"liver"]}.'
            )
        self.device = device_named(device)
        self.network = network.eval()
        self.fast = for_inference(network, self.device, precision, compile)  # what is run
        super().__init__(DataSpec.of(spec), TorchEngine(self.fast, self.device))

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *members: str | Path,
        device: str = "auto",
        tta: bool = False,
        precision: str = "fp32",
        compile: bool = False,
    ) -> Predictor:
        """Loads checkpoints written by training, or folders written by ``save_pretrained``.

        Args:
            path: The ``.ckpt`` file or the folder; no code stored in it is run.
            members: Further ones, for an ensemble: their probabilities are averaged.
            device: ``cpu``, ``cuda``, ... or ``auto`` for a GPU where there is one.
            tta: Mean over the four mirror images of each slice.
            precision: A name in :data:`mlla_seg.inference.optimize.PRECISIONS`.
            compile: Compile the network for images of the size of the first.

        Raises:
            InputError: No such file, unreadable, not a checkpoint of this program, or members of another task.
        """
        network, spec = load_network([path, *members], tta)
        return cls(network, spec, device, precision, compile)


# Of the tables, so that --help lists them.
MaskFormat: TypeAlias = Literal[tuple(registry.FORMATS)]  # type: ignore[valid-type]
PolygonFormat: TypeAlias = Literal[tuple(vectors.FORMATS)]  # type: ignore[valid-type]
BlendName: TypeAlias = Literal[tuple(BLENDS)]  # type: ignore[valid-type]
PrecisionName: TypeAlias = Literal[tuple(PRECISIONS)]  # type: ignore[valid-type]


def predict(
    ckpt_path: list[str] | str,
    input: str,
    output: str,
    format: MaskFormat | None = None,
    window: int | None = None,
    overlap: float = 0.5,
    blend: BlendName = "gaussian",
    cog: bool = False,
    polygons: PolygonFormat | None = None,
    device: str = "auto",
    precision: PrecisionName = "fp32",
    compile: bool = False,
    batch_size: int = 4,
    tta: bool = False,
    probabilities: bool = False,
    overwrite: bool = True,
) -> None:
    """Segment an image, a volume or a folder of them with a checkpoint.

    Masks get the source's name, format and geometry: NIfTI gives NIfTI, arrays give arrays, photos an indexed PNG, and
    a folder of DICOM files NIfTI. Rasters of any size (GeoTIFF, VRT) give a GeoTIFF in the same place, block by block.

    Args:
        ckpt_path: Checkpoint written by fit, or a folder written by save_pretrained; several are an ensemble, whose
            probabilities are averaged: `--ckpt_path a.ckpt b.ckpt`.
        input: An image file, a folder of them, or a list of them (.txt with a path a line).
        output: Folder for the masks; for a single image also the name of its mask, such as liver.nii.gz.
        format: Write the masks of volumes as nii.gz, nii, nrrd, mha, seg.nrrd (3D Slicer, with names and colours) or
            dicom-seg.
        window: Side of the windows in which rasters are seen, by default that of the training crops, or larger.
        overlap: Of these windows, as a fraction.
        blend: Weights of overlapping windows of rasters: gaussian or cosine.
        cog: Write maps of rasters as Cloud Optimized GeoTIFF.
        polygons: Also write the regions of maps as polygons, as gpkg or geojson, beside the map.
        device: cpu, cuda, ... or auto.
        precision: fp32, or bf16 or fp16: less time where the processor or GPU computes in them, more where it does not.
        compile: Compile the network for images, or windows, of the size of the first one: this takes a minute, and all
            that follow up to a third less time on processors. Others go through as without it.
        batch_size: Slices, or windows of a raster, that go through the network at once; decides the memory.
        tta: Mean over the four mirror images of each slice.
        probabilities: Also write the probabilities of every class, as an h5 file beside the mask, or as GeoTIFF with a
            band per class beside a map.
        overwrite: Write masks that exist already again; false goes on where an earlier run stopped.
    """
    paths = [ckpt_path] if isinstance(ckpt_path, str) else ckpt_path
    options = MapOptions(window, overlap, blend, batch_size, cog, probabilities, polygons)
    predictor = Predictor.from_checkpoint(*paths, device=device, tta=tta, precision=precision, compile=compile)
    job = f"{' '.join(paths)} {tta} {precision}"
    segment_files(predictor, Path(input), Path(output), options, format, overwrite, job)
