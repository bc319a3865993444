"""From a checkpoint and files to masks in the files' own format and geometry; needs neither config nor card."""

from __future__ import annotations

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlla_seg.checkpoint import load_members, require_mirrored
from mlla_seg.data.io import READERS, SERIES, is_readable, mask_path, read_channels, suffix_of, write_mask
from mlla_seg.data.picture import Array, require_finite
from mlla_seg.data.polygons import require_polygons
from mlla_seg.data.probabilities import probabilities_path, write_probabilities
from mlla_seg.data.rasters import RASTER_SUFFIXES
from mlla_seg.errors import InputError
from mlla_seg.inference import Ensemble, Flips, case_logits
from mlla_seg.scenes import MapOptions, map_files, predict_scene
from mlla_seg.slices import network_grid
from mlla_seg.windows import array_windows

Spacing = tuple[float, float, float]
CHANNEL_SUFFIX = re.compile(r"_\d{4}$")
"""nnU-Net's number of a channel at the end of a name."""
LIST = ".txt"
"""Suffix of lists of images."""


class Predictor:
    """A trained segmenter for users: arrays or files in raw units in, class indices out.

    Args:
        network: A trained segmenter, as ``Segmenter.from_pretrained`` gives it, or anything that maps
            ``(B, C, H, W)`` in raw units to logits ``(B, K, H, W)``.
        spec: What it knows of its data: classes, colours, channels, plane, sizes; by default the segmenter's own.
        device: ``cpu``, ``cuda``, ... or ``auto`` for a GPU where there is one.

    Raises:
        InputError: Nothing says what the data were.
    """

    def __init__(self, network: torch.nn.Module, spec: Mapping[str, Any] | None = None, device: str = "cpu") -> None:
        spec = spec or getattr(network, "spec", None)
        if spec is None:
            raise InputError(
                "This network does not know its classes and channels. "
                "Give spec, as SegmentationDataModule(...).spec has it."
            )
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self.network = network.to(self.device).eval()
        self.spec = spec

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, *members: str | Path, device: str = "auto", tta: bool = False
    ) -> Predictor:
        """Loads checkpoints written by training, or folders written by ``save_pretrained``.

        Args:
            path: The ``.ckpt`` file or the folder; no code stored in it is run.
            members: Further ones, for an ensemble: their probabilities are averaged.
            device: ``cpu``, ``cuda``, ... or ``auto`` for a GPU where there is one.
            tta: Mean over the four mirror images of each slice.

        Raises:
            InputError: No such file, unreadable, not a checkpoint of this program, or members of another task.
        """
        networks = load_members([path, *members])
        if tta:
            for name, member in zip((path, *members), networks, strict=True):
                require_mirrored(name, member.spec or {})
        network: torch.nn.Module = Ensemble(networks) if members else networks[0]
        return cls(Flips(network) if tta else network, networks[0].spec, device)

    def logits(self, image: Array, batch_size: int = 16, spacing_mm: Spacing | None = None) -> Iterator[torch.Tensor]:
        """Logits ``(n, K, H, W)`` of the slices of ``(S, C, H, W)``, in order and a few at a time; see ``__call__``."""
        if image.ndim != 4 or image.shape[1] != len(self.spec["channels"]):
            channels = self.spec["channels"]
            found = f"{image.shape[1]} channels" if image.ndim == 4 else f"shape {tuple(image.shape)}"
            raise InputError(
                f"has {found}; this network was trained on {len(channels)} ({', '.join(channels)}). "
                "Arrays are (S, C, H, W), or (C, H, W) for a single image."
            )
        if image.dtype == np.uint16:
            image = image.astype(np.int32)  # torch hardly computes with uint16
        grid = network_grid((len(image), *image.shape[-2:]), spacing_mm, self.spec)
        how = {key: self.spec[key] for key in ("window", "context")}
        stack = torch.from_numpy(np.ascontiguousarray(image))
        return case_logits(self.network, stack, self.device, grid, **how, batch_size=batch_size)

    def __call__(self, image: Array, batch_size: int = 16, spacing_mm: Spacing | None = None) -> Array:
        """Segments slices or a single image.

        Args:
            image: ``(S, C, H, W)`` or ``(C, H, W)`` in raw units.
            batch_size: Slices that go through the network at once.
            spacing_mm: Distance of slices, rows and columns, for networks trained at one spacing.

        Returns:
            Class indices uint8, ``(S, H, W)`` or ``(H, W)``.

        Raises:
            InputError: Another number of channels than in training.
        """
        single = image.ndim == 3
        blocks = self.logits(image[None] if single else image, batch_size, spacing_mm)
        labels = np.concatenate([_labels(block) for block in blocks])
        return labels[0] if single else labels

    def predict_file(
        self, files: tuple[Path, ...], output: Path, batch_size: int = 16, probabilities: Path | None = None
    ) -> None:
        """Segments one image (one file, or one per channel) and writes its mask in the source's format and geometry.

        Args:
            files: The image.
            output: The mask.
            batch_size: Slices that go through the network at once.
            probabilities: An h5 file for the probabilities of every class, if they are wanted.
        """
        from tqdm import tqdm

        picture = read_channels(files, self.spec["plane"], self.spec["array_units"])
        require_finite(files[0], picture)
        names = [entry["name"] for entry in self.spec["classes"]]
        slices, _, height, width = picture.array.shape
        try:
            blocks = self.logits(picture.array, batch_size, picture.spacing_mm)
        except InputError as error:
            raise InputError(f"{files[0]}: {error}") from error
        labels = np.empty((slices, height, width), np.uint8)
        with ExitStack() as stack:
            if probabilities is not None:
                shape = (len(names), slices, height, width)
                array = stack.enter_context(write_probabilities(probabilities, shape, names, picture.affine))
            bar = tqdm(total=slices, desc=files[0].name, unit="slice", leave=False, disable=slices == 1)
            progress = stack.enter_context(bar)
            done = 0
            for block in blocks:
                part = slice(done, done := done + len(block))
                labels[part] = _labels(block)
                if probabilities is not None:
                    array[:, part] = block.float().softmax(dim=1).transpose(0, 1).cpu().numpy()
                progress.update(len(block))
        write_mask(output, labels, self.spec["classes"], files[0], self.spec["plane"])


def _labels(logits: torch.Tensor) -> Array:
    return logits.argmax(dim=1).to(torch.uint8).cpu().numpy()


def find_images(source: Path, channels: int) -> list[tuple[Path, ...]]:
    """The images of a folder or a list, or the one file or series: each as its files.

    In folders nnU-Net's names say which files are channels of one image. A list (``.txt``) has an image a line,
    relative to its own folder; several files of one image are separated by commas.

    Raises:
        InputError: Nothing is there, or something in the list is not.
    """
    if not source.exists():
        raise InputError(f"{source}: no such file or folder.")
    if source.is_file():
        return _listed(source) if source.suffix.lower() == LIST else [(source,)]
    if is_readable(source):  # a folder may be one DICOM series
        others = [path.name for path in source.iterdir() if path.is_file() and is_readable(path)]
        if others:
            print(f"note: {source} is taken as a DICOM series; left out: {', '.join(sorted(others))}", file=sys.stderr)
        return [(source,)]
    files = sorted(path for path in source.iterdir() if is_readable(path))
    if not files:
        raise InputError(f"{source}: holds no image of a known format ({', '.join(READERS)}).")
    if channels == 1:
        return [(path,) for path in files]
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        stem = path.name if suffix_of(path) == SERIES else path.name[: -len(suffix_of(path))]
        groups[CHANNEL_SUFFIX.sub("", stem)].append(path)
    return [tuple(group) for group in groups.values()]


def _listed(source: Path) -> list[tuple[Path, ...]]:
    lines = [line.strip() for line in source.read_text().splitlines()]
    images = [tuple(source.parent / name.strip() for name in line.split(",")) for line in lines if line]
    absent = [path for files in images for path in files if not path.exists()]
    if absent or not images:
        raise InputError(f"{source}: " + (f"lists {absent[0]}, which is not there." if absent else "lists no image."))
    return images


def predict(
    ckpt_path: str,
    input: str,
    output: str,
    format: str | None = None,
    window: int | None = None,
    overlap: float = 0.5,
    blend: str = "gaussian",
    cog: bool = False,
    polygons: str | None = None,
    device: str = "auto",
    batch_size: int = 4,
    tta: bool = False,
    probabilities: bool = False,
    overwrite: bool = True,
    members: list[str] | None = None,
) -> None:
    """Segment an image, a volume or a folder of them with a checkpoint.

    Masks get the source's name, format and geometry: NIfTI gives NIfTI, arrays give arrays, photos an indexed PNG, and
    a folder of DICOM files NIfTI. Rasters of any size (GeoTIFF, VRT) give a GeoTIFF in the same place, block by block.

    Args:
        ckpt_path: Checkpoint written by fit, or a folder written by save_pretrained.
        input: An image file, a folder of them, or a list of them (.txt with a path a line).
        output: Folder for the masks; for a single raster also the name of the map.
        format: Write the masks of volumes as nii.gz, nii, nrrd, mha, seg.nrrd (3D Slicer, with names and colours) or
            dicom-seg.
        window: Side of the windows in which rasters are seen, by default that of the training crops.
        overlap: Of these windows, as a fraction.
        blend: Weights of overlapping windows of rasters: gaussian or cosine.
        cog: Write maps of rasters as Cloud Optimized GeoTIFF.
        polygons: Also write the regions of maps as polygons, as gpkg or geojson, beside the map.
        device: cpu, cuda, ... or auto.
        batch_size: Slices, or windows of a raster, that go through the network at once; decides the memory.
        tta: Mean over the four mirror images of each slice.
        probabilities: Also write the probabilities of every class, as an h5 file beside the mask, or as GeoTIFF with a
            band per class beside a map.
        overwrite: Write masks that exist already again; false goes on where an earlier run stopped.
        members: Further checkpoints, an ensemble; `--ckpt_path a.ckpt b.ckpt` is short for it.
    """
    from tqdm import tqdm

    if batch_size < 1:
        raise InputError(f"--batch_size is a number of slices or windows, 1 or more, got {batch_size}.")
    options = MapOptions(window, overlap, blend, batch_size, cog, probabilities, polygons)
    if polygons is not None:
        require_polygons(polygons)
    predictor = Predictor.from_checkpoint(ckpt_path, *(members or ()), device=device, tta=tta)
    images = find_images(Path(input), len(predictor.spec["channels"]))
    folder = Path(output)
    if len(images) == 1 and suffix_of(folder) in RASTER_SUFFIXES and _is_scene(images[0]):
        targets, folder = [folder], folder.parent
    else:
        targets = [mask_path(files[0], folder, format) for files in images]
    if folder.is_file():
        raise InputError(f"{folder}: is a file; --output takes a folder for the masks.")
    written_by = [
        map_files(target, options) if _is_scene(files) else _mask_files(target, probabilities)
        for files, target in zip(images, targets, strict=True)
    ]
    claims = Counter(path for paths in written_by for path in paths)
    for files, target, paths in zip(images, targets, written_by, strict=True):
        if target.resolve() in [path.resolve() for path in files]:
            raise InputError(f"{target}: the mask would overwrite its image. Choose another folder for --output.")
        if any(claims[path] > 1 for path in paths):
            raise InputError(f"{target}: would be the mask of several images of {input}; give them one by one.")
    written, problems = 0, []
    progress = tqdm(images, desc="Predicting", unit="image")
    for files, target, paths in zip(progress, targets, written_by, strict=True):
        if not overwrite and all(path.exists() for path in paths):
            continue
        try:
            if _is_scene(files):
                job = f"{ckpt_path} {members} {tta}"
                windows = array_windows(predictor.network, predictor.device)
                predict_scene(windows, predictor.spec, files, target, options, job)
            else:
                predictor.predict_file(files, target, batch_size, paths[1] if probabilities else None)
            written += 1
        except InputError as error:  # the other images are not to blame
            problems.append(str(error))
    print(f"{written} of {len(images)} masks written to {folder}")
    print("\n".join(_legend(predictor.spec)))
    if problems:
        count = f"{len(problems)} of {len(images)} images have no mask:\n" if len(images) > 1 else ""
        raise InputError(count + "\n".join(problems))


def _is_scene(files: Sequence[Path]) -> bool:
    return any(suffix_of(path) in RASTER_SUFFIXES for path in files)


def _mask_files(target: Path, probabilities: bool) -> list[Path]:
    """A mask and what is written beside it."""
    return [target, *([probabilities_path(target, suffix_of(target))] if probabilities else [])]


def _legend(spec: Mapping[str, Any]) -> Iterator[str]:
    yield "Values: " + ", ".join(f"{entry.get('id', k)} {entry['name']}" for k, entry in enumerate(spec["classes"]))
