"""Prediction from a checkpoint and image files to masks in the same format and geometry, without config or card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.formats import registry, vector_files
from mlla_seg.errors import InputError
from mlla_seg.inference.base import CaseSegmenter
from mlla_seg.inference.cases import TorchEngine
from mlla_seg.inference.devices import several
from mlla_seg.inference.files import segment_files
from mlla_seg.inference.optimize import PRECISIONS, device_named, for_inference
from mlla_seg.inference.scenes import MapOptions
from mlla_seg.inference.sliding_window import BLENDS
from mlla_seg.inference.summaries import Summaries
from mlla_seg.models.checkpoint import load_network
from mlla_seg.models.digest import network_digest
from mlla_seg.models.ensemble import Flips
from mlla_seg.models.segmenter import Segmenter


class Predictor(CaseSegmenter):
    """Trained segmenter: images, arrays or files in raw units in, class indices out; see ``__call__``.

    Args:
        network: Trained segmenter, such as from ``Segmenter.from_pretrained``, or any network that maps
            ``(B, C, H, W)`` in raw units to logits ``(B, K, H, W)``.
        spec: Description of its data: classes, colours, channels, plane, sizes; defaults to the segmenter's own.
        device: ``cpu``, ``cuda``, ... or ``auto`` for a GPU if available.
        precision: A key of :data:`mlla_seg.inference.optimize.PRECISIONS`.
        compile: Compile the network for the size of the first image, see
            :mod:`mlla_seg.inference.optimize_compile`; ``auto`` uses code that is kept, and where the amount of work is
            known, as in :func:`predict`, compiles if that saves time.
        compile_cache: Folder where compiled code is kept for the next time; by default ``~/.cache/mlla_seg/compiled``.

    Raises:
        InputError: No spec, an unknown device or precision, no compiler, or a cache that others can write to.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        spec: DataSpec | Mapping[str, Any] | None = None,
        device: str = "cpu",
        precision: str = "fp32",
        compile: bool | Literal["auto"] = False,
        compile_cache: str | Path | None = None,
    ) -> None:
        spec = spec or getattr(network, "spec", None)
        if spec is None:
            raise InputError(
                "This network has no spec of its classes and channels. "
                'Pass spec, such as SegmentationDataModule(...).spec or {"channels": ["CT"], "classes": ["background", '
                '"liver"]}.'
            )
        self.device = device_named(device)
        self.network = network.eval()
        self.fast = for_inference(network, self.device, precision, compile, compile_cache)  # the one that runs
        self._run = {"device": torch.device(self.device).type, "precision": precision, "compile": compile}
        known = DataSpec.of(spec)
        if isinstance(network, Segmenter):
            known.require_network((network.in_channels, network.num_classes), "Predictor")
        super().__init__(known, TorchEngine(self.fast, self.device, known.writes, own=True))

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """Digest of the network, or ensemble, and how it is run."""
        inner, tta = (self.network.network, True) if isinstance(self.network, Flips) else (self.network, False)
        return {"weights": network_digest(inner), "tta": tta, **self._run}

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *members: str | Path,
        device: str = "auto",
        tta: bool = False,
        precision: str = "fp32",
        compile: bool | Literal["auto"] = False,
        compile_cache: str | Path | None = None,
    ) -> Predictor:
        """Load checkpoints written by training, or folders written by ``save_pretrained``.

        Args:
            path: The ``.ckpt`` file or the folder; code stored in it is not executed.
            members: Further checkpoints of an ensemble, whose probabilities are averaged.
            device: ``cpu``, ``cuda``, ... or ``auto`` for a GPU if available.
            tta: Test-time augmentation: averages over flips along the axes that training mirrored.
            precision: A key of :data:`mlla_seg.inference.optimize.PRECISIONS`.
            compile: Compile the network for the size of the first image, or ``auto``.
            compile_cache: Folder where compiled code is kept; by default ``~/.cache/mlla_seg/compiled``.

        Raises:
            InputError: No such file, unreadable, not a checkpoint of this program, or members trained for different
                tasks.
        """
        network, spec = load_network([path, *members], tta)
        return cls(network, spec, device, precision, compile, compile_cache)


# Literals made from the tables, so that --help lists the choices.
MaskFormat: TypeAlias = Literal[tuple(registry.FORMATS)]  # type: ignore[valid-type]
PolygonFormat: TypeAlias = Literal[tuple(vector_files.FORMATS)]  # type: ignore[valid-type]
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
    min_area_m2: float | None = None,
    simplify: float | None = None,
    device: str = "auto",
    devices: int = 1,
    precision: PrecisionName = "fp32",
    compile: bool | Literal["auto"] = False,
    compile_cache: str | None = None,
    batch_size: int = 4,
    tta: bool = False,
    probabilities: bool = False,
    overwrite: bool | None = None,
    nodata: float | None = None,
    statistics: bool = False,
    preview: bool = False,
    postprocessing: bool = True,
) -> None:
    """Segment an image, a volume or a folder of them with a checkpoint.

    Masks keep the name, format and geometry of their source: NIfTI for NIfTI, arrays for arrays, indexed PNG for
    photos, NIfTI for a folder of DICOM files. Rasters of any size (GeoTIFF, JPEG 2000, VRT) are segmented by a sliding
    window and give a GeoTIFF with the same georeferencing.

    Args:
        ckpt_path: Checkpoint written by fit, or a folder written by save_pretrained; several form an ensemble, whose
            probabilities are averaged: `--ckpt_path a.ckpt b.ckpt`.
        input: Image file, folder of images, or list of images (.txt, one path per line); a folder, or folders in it,
            with a file for each channel, named as the channels; files with the bands of one raster with commas between
            them; or a raster that GDAL opens elsewhere, such as /vsizip/..., /vsis3/..., https://.
        output: Folder for the masks; for a single image also the path of its mask, such as liver.nii.gz.
        format: Format of volume masks: nii.gz, nii, nrrd, mha, seg.nrrd (3D Slicer, with names and colours) or
            dicom-seg; defaults to that of the source.
        window: Side of the sliding window for rasters, in pixels; at least, and by default, the training patch size.
        overlap: Overlap of these windows, as a fraction.
        blend: Weighting of overlapping windows: gaussian or cosine.
        cog: Write masks of rasters as Cloud Optimized GeoTIFF.
        polygons: Also write the connected components of raster masks as polygons beside the mask, as gpkg or geojson.
        min_area_m2: Components smaller than this many square metres join their largest neighbour in the polygons; the
            mask keeps them.
        simplify: Tolerance in metres of a simplification of the polygons, in which neighbours keep a common border.
        device: cpu, cuda, ... or auto.
        devices: Processes that share the images, or the parts of scenes, on this machine: one for each GPU, or for some
            of the cores. torchrun and srun start them on several machines, without this option.
        precision: fp32, bf16 or fp16; the last two are faster only on a CPU or GPU that supports them, else slower.
        compile: Compile the network for the size of the first image or window. This takes one to two minutes the first
            time, then seconds, and saves up to a third of the time on CPUs; other sizes run uncompiled. auto does so if
            the code is there from an earlier time, or if at least 20 minutes of work are left after the first images.
        compile_cache: Folder where compiled code is kept; by default ~/.cache/mlla_seg/compiled.
        batch_size: Slices, or windows of a raster, per forward pass; determines memory use.
        tta: Test-time augmentation: averages over flips along the axes that training mirrored.
        probabilities: Also write the probabilities of every class, or region, beside the mask, as h5, or for rasters as
            GeoTIFF with one band for each.
        overwrite: true makes existing masks anew, by default only those that this program has made; false keeps them,
            for resuming an interrupted run, and says which of them were made with another network, other options or
            other images.
        nodata: Value of pixels without data, for rasters and photos whose files tag none; defaults to that of the card.
            NaN never is data.
        statistics: Also write statistics.csv beside the masks: volumes in ml, or areas in m2, of classes and regions.
        preview: Also write a picture of each image with its mask, as PNG beside the mask.
        postprocessing: Apply the post-processing that was chosen on validation and is stored in the checkpoint, if any;
            never to rasters.
    """
    arguments = {**locals(), "devices": 1}
    paths = [ckpt_path] if isinstance(ckpt_path, str) else ckpt_path
    options = MapOptions(window, overlap, blend, batch_size, cog, probabilities, polygons, min_area_m2, simplify)
    if compile_cache is not None and not compile:
        raise InputError("--compile_cache is where --compile true, or auto, keeps its code: add it, or leave this out.")
    how: dict[str, Any] = {"precision": precision, "compile": compile, "compile_cache": compile_cache}
    with several(devices, device, predict, arguments) as ranks, ranks.speaking():
        device = device_named(device, ranks.local if ranks.size > 1 else None)
        predictor = Predictor.from_checkpoint(*paths, device=device, tta=tta, **how)
        if nodata is not None:
            predictor.spec = replace(predictor.spec, nodata=nodata)
        if not postprocessing:
            predictor.spec = replace(predictor.spec, postprocessing=())
        summaries = Summaries(statistics, preview)
        segment_files(predictor, input, Path(output), options, format, overwrite, summaries, ranks)
