"""Segmentation of scenes of any size; memory does not grow with the scene.

A scene is processed in column stripes, each from top to bottom by a sliding window; the mask does not depend on the
stripe width. Progress is kept in a folder beside the mask, from which an interrupted run resumes.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mlla_seg.atomic import replace
from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.formats.geotiff import Raster, open_rasters
from mlla_seg.data.formats.geotiff_masks import write_map, write_probability_map
from mlla_seg.data.formats.locations import Location
from mlla_seg.data.formats.picture import Array
from mlla_seg.data.formats.polygons import PolygonOptions, write_polygons
from mlla_seg.data.slices import seen_by_network, standardised
from mlla_seg.disk_space import AGAIN, full_disk_told
from mlla_seg.errors import InputError, about, lookup
from mlla_seg.inference.jobs import Job, job_of
from mlla_seg.inference.partial_maps import PartialMap
from mlla_seg.inference.sliding_window import BLENDS, bands_along
from mlla_seg.inference.steps import Engine, window_logits
from mlla_seg.progress import note, progress

SUMS = 2**28
"""Maximum bytes for the pixels and summed logits of a stripe; determines its width."""
STRIP = 2**22
"""Pixels of a scene read at once."""
WINDOW = (512, 512)
"""Height and width of the sliding window if neither the user nor the training sets them."""


@dataclass(frozen=True)
class MapOptions:
    """Options for segmenting scenes.

    Args:
        window: Side of the square sliding window; defaults to the training patch size.
        overlap: Overlap of neighbouring windows, as a fraction of their size, 0 to 0.9.
        blend: Weighting of overlapping windows: ``gaussian`` or ``cosine``.
        batch_size: Windows per forward pass.
        cog: Write a Cloud Optimized GeoTIFF.
        probabilities: Also write the probabilities of every class, or region, beside the mask.
        polygons: Also write polygons beside the mask, as ``gpkg`` or ``geojson``.
        min_area_m2: Connected components smaller than this join their largest neighbour before they become polygons.
        simplify: Tolerance in metres of the simplification of polygons, which keeps shared borders shared.
        stripe: Width of the column stripes; defaults to what fits into ``SUMS`` bytes. Affects memory, not the mask.
    """

    window: int | None = None
    overlap: float = 0.5
    blend: str = "gaussian"
    batch_size: int = 4
    cog: bool = False
    probabilities: bool = False
    polygons: str | None = None
    min_area_m2: float | None = None
    simplify: float | None = None
    stripe: int | None = None

    def __post_init__(self) -> None:
        lookup(BLENDS, self.blend, "blend")
        if self.batch_size < 1:
            raise InputError(f"--batch_size must be 1 or more slices or windows, got {self.batch_size}.")
        _ = self.vectors  # raises if they are not valid
        if not 0 <= self.overlap <= 0.9:
            raise InputError(f"--overlap must be a fraction of the window from 0 to 0.9, got {self.overlap}.")
        if self.window is not None and self.window < 1:
            raise InputError(f"--window must be 1 or more pixels, got {self.window}.")

    @property
    def vectors(self) -> PolygonOptions | None:
        """Options of the polygons, if they are wanted."""
        if self.polygons is not None:
            return PolygonOptions(self.polygons, self.min_area_m2, self.simplify)
        for name, value in (("min_area_m2", self.min_area_m2), ("simplify", self.simplify)):
            if value is not None:
                raise InputError(f"--{name} is about polygons: add --polygons gpkg.")
        return None


class PolygonsFailed(InputError):
    """The polygons of a finished map could not be written."""


def map_files(output: Path, options: MapOptions) -> list[Path]:
    """Return the mask and the files written beside it."""
    files = [output]
    if options.probabilities:
        files.append(output.with_name(f"{output.stem}.probabilities.tif"))
    if options.polygons:
        files.append(output.with_name(f"{output.stem}.{options.polygons}"))
    return files


def predict_scene(
    engine: Engine,
    spec: DataSpec,
    sources: Sequence[Location],
    output: Path,
    options: MapOptions,
    job: Job | None = None,
    said: set[Hashable] | None = None,
) -> None:
    """Segment a scene, with a progress bar; resumes an interrupted run of the same job.

    No other process may make the same mask meanwhile.

    Args:
        engine: The network and the operations around it.
        spec: Description of the segmenter's data.
        sources: The raster, or several that together hold its spectral bands.
        output: Path of the GeoTIFF mask.
        options: Sliding window and outputs.
        job: See :func:`scene_job`, without which networks are not told apart; another job starts over.
        said: Notes that have been printed for other scenes, to which those for this scene are added.

    Raises:
        InputError: Not a raster, its bands differ from those of the training, its position does not suffice for the
            polygons, it changes while it is read, or logits are NaN or infinite.
        PolygonsFailed: The map is finished, but its polygons could not be written.
    """
    job = job or scene_job({}, spec, sources, options)
    if spec.axes == 3:
        raise InputError(f"{sources[0]}: is a scene, but this network sees volumes, which its training had.")
    with open_rasters(sources, spec.wanted) as raster:
        shape, place = raster.shape, raster.place
        moments = spec.view.moments(_Strips(raster))
        said = set() if said is None else said
        for key, text in raster.told.items():
            if key not in said:
                note(f"note: {sources[0].name}: {text}.")
            said.add(key)
        if options.vectors is not None:
            options.vectors.require_place(raster.grid, sources[0])
        grid = spec.view.grid((1, *shape))[1:]
        side = _window(options.window, spec.patch_size)
        if side is None:  # trained on whole images, or without a known patch size
            side = grid if spec.resize is not None else WINDOW
        window, size = seen_by_network(shape, grid, side)
        stripes = _stripes(shape[1], options.stripe or _widest(window[0], raster.count, spec))
        rows = bands_along(shape[0], window[0], options.overlap)
        layout = {"shape": shape, "window": window, "size": size, "stripes": stripes}
        partial = PartialMap(output, job, layout, len(spec.output_names) if options.probabilities else 0)
        done = sum(partial.done)
        with progress(len(stripes) * len(rows), sources[0].name, "row", initial=done) as bar:
            for k, (left, right) in enumerate(stripes):
                if partial.done[k] == len(rows):
                    continue
                blended = window_logits(
                    engine,
                    lambda corner, sides: standardised(raster.read_seen(*corner, *sides)[None], moments)[0],
                    shape,
                    window,
                    size,
                    overlap=options.overlap,
                    blend=options.blend,
                    batch_size=options.batch_size,
                    columns=(left, right),
                    first=partial.done[k],
                )
                for top, logits in blended:
                    with about(sources[0]):
                        labels = engine.labels(logits, 0)
                    pixels = raster.read_seen(top, left, *labels.shape)
                    probabilities = engine.probabilities(logits, 0) if options.probabilities else None
                    partial.keep(k, top, left, labels, probabilities, np.all(np.isfinite(pixels), axis=0))
                    bar.update()
    if job.sources.changed():
        raise InputError(f"{sources[0]}: was changed while it was segmented. Run the same command again.")
    _write_files(partial, output, shape, spec, place, options)


def scene_job(network: Mapping[str, Any], spec: DataSpec, sources: Sequence[Location], options: MapOptions) -> Job:
    """Return everything on which a map depends.

    Args:
        network: See ``CaseSegmenter.identity``.
        spec: Description of the segmenter's data.
        sources: The raster, or several that together hold its spectral bands.
        options: Sliding window and outputs.

    Raises:
        InputError: A source cannot be opened.
    """
    how = {key: getattr(options, key) for key in ("window", "overlap", "blend")}
    files = {"cog": options.cog}
    if options.polygons:
        files |= {key: getattr(options, key) for key in ("polygons", "min_area_m2", "simplify")}
    return job_of(network, spec, sources, how, files)


def _window(asked: int | None, frame: Sequence[int] | None) -> Sequence[int] | None:
    """Return height and width of the sliding window: as requested, or the training patch size.

    Raises:
        InputError: The window is smaller than the patch size, to which the network would pad it.
    """
    if asked is None:
        return frame
    if frame is not None and asked < max(frame):
        height, width = frame
        raise InputError(
            f"--window {asked}: is smaller than the training patches, {height} x {width}, to which the network would "
            f"pad every window. Use {max(frame)} or more; to save memory, lower --batch_size."
        )
    return asked, asked


@dataclass(frozen=True)
class _Strips:
    """Strips ``(C, rows, W)`` of a raster from top to bottom, for networks that normalise a scene as a whole."""

    raster: Raster

    def __iter__(self) -> Iterator[Array]:
        height, width = self.raster.shape
        rows = max(1, STRIP // width)
        for top in range(0, height, rows):
            yield self.raster.read_seen(top, 0, min(rows, height - top), width)


def _widest(height: int, channels: int, spec: DataSpec) -> int:
    """Return the width of a stripe whose pixels and summed logits fit into ``SUMS`` bytes."""
    return max(height, SUMS // (4 * height * (channels + len(spec.output_names))))


def _stripes(width: int, widest: int) -> list[tuple[int, int]]:
    """Return the first and end columns of stripes of about equal width."""
    count = math.ceil(width / widest)
    edges = [round(k * width / count) for k in range(count + 1)]
    return list(pairwise(edges))


def _write_files(
    partial: PartialMap,
    output: Path,
    shape: tuple[int, int],
    spec: DataSpec,
    place: Mapping[str, Any],
    options: MapOptions,
) -> None:
    """Write the mask of a finished scene, then the files beside it, and remove the partial results.

    Raises:
        PolygonsFailed: The mask is written; the partial results stay, so that another run writes its polygons alone.
    """
    targets = map_files(output, options)
    ready = [partial.folder / target.name for target in targets]
    with full_disk_told(output, f"{AGAIN[:-1]}: it only has to write the files.", ready):
        write_map(ready[0], partial.labels, shape, spec.classes, place, options.cog)
        if options.probabilities:
            write_probability_map(ready[1], partial.probabilities, shape, spec.output_names, place, options.cog)
    if options.vectors is not None:
        targets[-1].unlink(missing_ok=True)  # of another map
    replace(dict(list(zip(ready, targets, strict=True))[: 1 + options.probabilities]))
    if options.vectors is not None:
        try:
            with full_disk_told(targets[-1], "Free some space.", [ready[-1]]):
                write_polygons(ready[-1], output, spec.classes, spec.background, options.vectors)
            replace({ready[-1]: targets[-1]})
        except Exception as error:  # such as those of the libraries that write the formats, or a full disk
            reason = " ".join(str(error).split()) or type(error).__name__
            raise PolygonsFailed(
                f"{output}: is finished, but its polygons could not be written ({reason}). Run the same command "
                "again: it continues with the polygons."
            ) from error
    partial.remove()
