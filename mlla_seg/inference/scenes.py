"""Segmentation of scenes of any size; memory does not grow with the scene.

A scene is processed in column stripes, each from top to bottom by a sliding window; the mask does not depend on the
stripe width. Progress is kept in a folder beside the mask, from which an interrupted run resumes, and in which several
processes compute parts of one scene.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
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
from mlla_seg.data.slices import standardised
from mlla_seg.disk_space import AGAIN, full_disk_told
from mlla_seg.errors import InputError, about, lookup
from mlla_seg.inference.jobs import Job, job_of
from mlla_seg.inference.partial_maps import MapPart, PartialMap
from mlla_seg.inference.ranks import ALONE, Ranks
from mlla_seg.inference.scene_layout import layout_of
from mlla_seg.inference.scene_parts import PartWorker, ReadAhead
from mlla_seg.inference.sliding_window import BLENDS
from mlla_seg.inference.steps import Engine, window_logits
from mlla_seg.progress import note, progress

STRIP = 2**22
"""Pixels of a scene read at once."""


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


@dataclass(frozen=True)
class Computed:
    """A scene whose partial results are complete.

    Args:
        write: Writes the mask and the files beside it.
        notes: On how the scene is read, each with what is the same for scenes that are read alike.
    """

    write: Callable[[], None]
    notes: list[tuple[str, str]]


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

    No other process may make the same mask meanwhile, but others may take part in it; see :func:`compute_scene`.

    Args:
        engine: The network and the operations around it.
        spec: Description of the segmenter's data.
        sources: The raster, or several that together hold its spectral bands.
        output: Path of the GeoTIFF mask.
        options: Sliding window and outputs.
        job: See :func:`scene_job`; by default one that does not tell networks apart. Another job starts over.
        said: Notes that have been printed for other scenes, to which those for this scene are added.

    Raises:
        InputError: Not a raster, its bands differ from those of the training, its position does not suffice for the
            polygons, it changes while it is read, or logits are NaN or infinite.
        PolygonsFailed: The map is finished, but its polygons could not be written.
    """
    job = job or scene_job({}, spec, sources, options)
    compute_scene(engine, spec, sources, output, options, job, set() if said is None else said).write()


def compute_scene(
    engine: Engine,
    spec: DataSpec,
    sources: Sequence[Location],
    output: Path,
    options: MapOptions,
    job: Job,
    said: set[Hashable],
    ranks: Ranks = ALONE,
    joining: bool = False,
    watch: Callable[[float, float], None] | None = None,
) -> Computed:
    """Compute a scene up to its partial results.

    Args:
        engine: The network and the operations around it.
        spec: Description of the segmenter's data.
        sources: The raster, or several that together hold its spectral bands.
        output: Path of the GeoTIFF mask.
        options: Sliding window and outputs.
        job: See :func:`scene_job`.
        said: Notes that have been printed for other scenes, to which those for this scene are added.
        ranks: This process among those of the command.
        joining: Whether another process makes the map, and this one only takes part in the computation.
        watch: Called after row bands with the fractions of the scene that were computed since the start, and are left.

    Raises:
        Gone: The map that another process makes is finished, or not begun.
    """
    if spec.axes == 3:
        raise InputError(f"{sources[0]}: is a scene, but this network was trained on volumes.")
    with open_rasters(sources, spec.wanted) as raster, ThreadPoolExecutor(1, "disk", **_in_environment()) as disk:
        shape, place = raster.shape, raster.place
        notes = [(repr(key), text) for key, text in raster.told.items()]
        for key, text in notes:
            if key not in said:
                note(f"note: {sources[0].name}: {text}.")
            said.add(key)
        if options.vectors is not None:
            options.vectors.require_place(raster.grid, sources[0])
        layout = layout_of(spec, shape, raster.count, options.window, options.overlap, options.stripe)
        outputs = len(spec.output_names) if options.probabilities else 0
        partial = PartialMap(output, job, asdict(layout), outputs, joining)
        moments = spec.view.moments(_Strips(raster)) if partial.unfinished() else None

        def bands(part: MapPart, first: int) -> Iterator[tuple[int, Any]]:
            return window_logits(
                engine,
                ReadAhead(
                    lambda corner, sides: standardised(raster.read_seen(*corner, *sides)[None], moments)[0],
                    [top for top, _ in layout.bands],
                    disk,
                ),
                shape,
                layout.window,
                layout.size,
                overlap=options.overlap,
                blend=options.blend,
                batch_size=options.batch_size,
                columns=part.columns,
                first=first,
            )

        def store(k: int, top: int, logits: Any) -> Callable[[], None]:
            with about(sources[0]):
                labels = engine.labels(logits, 0)
            probabilities = engine.probabilities(logits, 0) if options.probabilities else None

            def write() -> None:
                pixels = raster.read_seen(top, partial.parts[k].columns[0], *labels.shape)
                partial.keep(k, labels, probabilities, np.all(np.isfinite(pixels), axis=0))

            return write

        first = shown = partial.finished()
        total = len(layout.stripes) * len(layout.bands)
        with progress(total, sources[0].name, "row", initial=first) as bar:

            def show() -> None:
                nonlocal shown
                if (now := partial.finished()) > shown:
                    bar.update(now - shown)
                    shown = now
                    if watch is not None:
                        watch((now - first) / total, (total - now) / total)

            worker = PartWorker(partial, bands, store, disk, show)
            worker.run(ranks, str(output) if ranks.size == 1 else "")
    if job.sources.changed():
        raise InputError(f"{sources[0]}: was changed while it was segmented. Run the same command again.")
    return Computed(lambda: _write_files(partial, output, shape, spec, place, options), notes)


def _in_environment() -> dict[str, Any]:
    """Return arguments of an executor whose thread gets the GDAL options of the calling thread."""
    import rasterio

    environment = rasterio.Env(**rasterio.env.getenv())
    return {"initializer": environment.__enter__}


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


@dataclass(frozen=True)
class _Strips:
    """Strips ``(C, rows, W)`` of a raster from top to bottom, for networks that normalise a scene as a whole."""

    raster: Raster

    def __iter__(self) -> Iterator[Array]:
        height, width = self.raster.shape
        rows = max(1, STRIP // width)
        for top in range(0, height, rows):
            yield self.raster.read_seen(top, 0, min(rows, height - top), width)


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
