"""Partial results of a scene, in a folder beside its mask, from which an interrupted run goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlla_seg.atomic import replace_content
from mlla_seg.data.formats.geotiff_masks import FULL, NODATA
from mlla_seg.data.formats.picture import Array
from mlla_seg.disk_space import full_disk_told, reserved_array
from mlla_seg.inference.jobs import Job
from mlla_seg.progress import note
from mlla_seg.texts import read_json, read_text

JOB = "job"
"""File with the job of the results. Without it, the other files mean nothing: it is written last and removed first."""


def partial_folder(output: Path) -> Path:
    """Return the folder of the partial results of a mask."""
    return output.with_name(f".{output.name}.partial")


class PartialMap:
    """Finished row bands of the stripes of a scene, kept on the disk.

    A run goes on with what an earlier one of the same job has finished. If the job is another, it starts over, with a
    note if anything is lost.

    Args:
        output: Path of the mask.
        job: What decides the labels.
        layout: How the scene is divided: ``shape`` (height and width), ``stripes``, ``window``, ``size``.
        outputs: Number of the network's outputs whose probabilities are kept; 0 to keep none.
    """

    def __init__(self, output: Path, job: Job, layout: Mapping[str, Any], outputs: int = 0) -> None:
        self.folder = partial_folder(output)
        self.outputs = outputs
        if self.folder.is_symlink():  # nothing is written elsewhere
            self.folder.unlink()
        self.folder.mkdir(parents=True, exist_ok=True)
        layout = json.loads(json.dumps({**layout, "outputs": outputs}))
        stored = self._stored()
        if stored is None or (reasons := _reasons(job, layout, stored)):
            if stored is not None and (lost := sum(self._array("done"))):
                note(
                    f"note: {output.name}: an interrupted run had finished {lost} row bands, made with "
                    f"{', '.join(reasons)}; starting over."
                )
            (self.folder / JOB).unlink(missing_ok=True)
            shape = tuple(layout["shape"])
            with full_disk_told(output, parts=[self.folder]):
                reserved_array(self.folder / "labels.npy", np.uint8, shape).flush()
                reserved_array(self.folder / "done.npy", np.int64, (len(layout["stripes"]),)).flush()
                if outputs:
                    reserved_array(self.folder / "probabilities.npy", np.uint8, (outputs, *shape)).flush()
                replace_content(self.folder / JOB, json.dumps({"job": job.to_dict(), "layout": layout}).encode())
        self.done: list[int] = np.load(self.folder / "done.npy").tolist()
        """Number of finished row bands per stripe."""

    def _stored(self) -> dict[str, Any] | None:
        """Return the job and layout of the results in the folder; None if there are none."""
        try:
            earlier = not read_text(self.folder / JOB).startswith("{")  # versions that stored a digest
            return {} if earlier else read_json(self.folder / JOB)
        except (OSError, ValueError):
            return None

    def keep(
        self, stripe: int, top: int, left: int, labels: Array, probabilities: Array | None, present: Array
    ) -> None:
        """Store a row band of a stripe; it counts as done only once it is written.

        Args:
            stripe: Number of the stripe.
            top: First row.
            left: First column.
            labels: ``(rows, columns)`` class indices.
            probabilities: ``(K, rows, columns)`` of the network's outputs, if they are kept.
            present: ``(rows, columns)``, False where the scene has no data.
        """
        height, width = labels.shape
        place = (slice(top, top + height), slice(left, left + width))
        self._write("labels", place, np.where(present, labels, NODATA))
        if probabilities is not None:
            stored = np.rint(FULL * probabilities).astype(np.uint8)
            self._write("probabilities", (slice(None), *place), np.where(present, stored, NODATA))
        self.done[stripe] += 1
        self._write("done", (slice(stripe, stripe + 1),), np.array([self.done[stripe]]))

    def labels(self, rows: slice, columns: slice) -> Array:
        """Return a part of the labels."""
        return np.array(self._array("labels")[rows, columns])

    def probabilities(self, rows: slice, columns: slice) -> Array:
        """Return a part of the probabilities ``(K, rows, columns)``, as bytes."""
        return np.array(self._array("probabilities")[:, rows, columns])

    def remove(self) -> None:
        """Remove the folder."""
        (self.folder / JOB).unlink(missing_ok=True)
        shutil.rmtree(self.folder)

    def _array(self, name: str, mode: Any = "r") -> Array:
        """Memory-map an array anew each time, so that used pages do not stay in memory."""
        return np.load(self.folder / f"{name}.npy", mmap_mode=mode)

    def _write(self, name: str, place: tuple[slice, ...], values: Array) -> None:
        mapped = self._array(name, "r+")
        mapped[place] = values
        mapped.flush()  # type: ignore[attr-defined]  # of a memory-mapped array


def _reasons(job: Job, layout: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    """Return in words why stored results are not those of a job; empty if they are."""
    if not stored:
        return ["an earlier version of mlla_seg"]
    found = job.differences(stored["job"], files=False)
    had = stored["layout"]
    if bool(had["outputs"]) != bool(layout["outputs"]):
        found.append("--probabilities " + ("true instead of false" if had["outputs"] else "false instead of true"))
    elif had != layout and not found:
        found.append("another division into windows")
    return found
