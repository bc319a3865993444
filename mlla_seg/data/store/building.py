"""Memory-mapped store of decoded cases, built once per data set, so that training never decodes gzip or npz.

A case is stored as ``<case>.image.npy`` ``(S, C, H, W)``, ``<case>.mask.npy`` ``(S, H, W)`` with class indices,
``<case>.values.npy`` and ``<case>.places.npy`` with samples of its values and class positions, and ``<case>.json`` with
the fingerprint of its sources and its georeference. Files are written under temporary names and the JSON last, so an
interrupted build resumes. A case is rebuilt when its sources, or the way of reading them, change.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from mlla_seg.atomic import renamed_when_done
from mlla_seg.data.card import Card
from mlla_seg.data.cases import Case
from mlla_seg.data.formats.classes import IGNORE_INDEX
from mlla_seg.data.reading import open_case
from mlla_seg.data.sampling import class_places, value_sample
from mlla_seg.data.schemes import per_case
from mlla_seg.data.slices import View
from mlla_seg.data.store.opening import KINDS, stored
from mlla_seg.errors import InputError

VERSION = 8
"""Increased when the meaning of the stored arrays changes, so that older ones are rebuilt."""
THREADS = 4


def build_store(card: Card, cases: Sequence[Case], root: Path, folder: Path) -> None:
    """Update the store in ``folder`` from its sources, with a progress bar.

    Raises:
        InputError: Some cases cannot be used; names them and the reasons. All other cases are stored.
    """
    from tqdm import tqdm

    folder.mkdir(parents=True, exist_ok=True)
    stale = [case for case in cases if stored(folder, case.name).get("fingerprint") != _fingerprint(card, case, root)]
    if not stale:
        return
    problems = []
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        jobs = [pool.submit(_build_case, card, case, root, folder) for case in stale]
        for job in tqdm(jobs, desc=f"Preparing {card.name}", unit="case", leave=False):
            try:
                job.result()
            except InputError as error:
                problems.append(str(error))
    if problems:
        more = f"\n... and {len(problems) - 5} more" if len(problems) > 5 else ""
        count = f"{len(problems)} of {len(cases)} cases cannot be used:\n" if len(problems) > 1 else ""
        raise InputError(count + "\n".join(problems[:5]) + more)


def _fingerprint(card: Card, case: Case, root: Path) -> str:
    files = [file for path in case.files for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    sources = [(str(path.relative_to(root)), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in files]
    masks = [getattr(card.layout, key) for key in ("coloured_masks", "ignored_colours", "mask_threshold")]
    counted = [card.under_masks, per_case([*card.schemes.values()])]
    gaps = (card.nodata, card.nodata_rule, card.grid)
    values = (card.array_units, [*card.ids.items()], card.ignore_index, counted, gaps)
    colours = card.layout.coloured_masks and [entry.colour for entry in card.classes]
    reading = (VERSION, card.plane, values, card.class_names, card.bands, card.seen, masks, colours)
    return hashlib.sha256(json.dumps([sources, reading]).encode()).hexdigest()


def _build_case(card: Card, case: Case, root: Path, folder: Path) -> None:
    fingerprint = _fingerprint(card, case, root)
    with ExitStack() as stack:
        temporary = {kind: folder / f".{os.getpid()}.{case.name}.{kind}.npy" for kind in KINDS}
        for path in temporary.values():
            stack.callback(path.unlink, missing_ok=True)
        with open_case(card, case) as source:
            image = open_memmap(temporary["image"], "w+", source.dtype, source.shape)
            mask = open_memmap(temporary["mask"], "w+", np.uint8, (source.shape[0], *source.shape[2:]))
            voxels = np.zeros(256, np.int64)
            for piece in source.pieces:
                slices, _, height, _ = piece.image.shape
                place = (slice(piece.first, piece.first + slices), slice(piece.top, piece.top + height))
                image[place[0], :, place[1]] = piece.image
                mask[place] = piece.labels
                voxels += np.bincount(piece.labels.ravel(), minlength=256)
        counts = voxels[: len(card.classes)].tolist()
        background = card.class_names.index(card.background) if card.background in card.class_names else None
        left_out = (IGNORE_INDEX, background) if card.under_masks else ()
        np.save(temporary["places"], class_places(mask, counts))
        np.save(temporary["values"], value_sample(image, mask, left_out))
        moments = View(per_case=per_case([*card.schemes.values()])).moments(image)
        del image, mask  # flushes them to disk
        entry = {
            "fingerprint": fingerprint,
            "shape": source.shape,
            "voxels": counts,
            "spacing_mm": source.spacing_mm,
            "ground": source.ground and asdict(source.ground),
            "warped": source.warped,
            "notes": source.notes,
            "moments": moments and [value.tolist() for value in moments],
        }
        for kind, path in temporary.items():
            os.replace(path, folder / f"{case.name}.{kind}.npy")
        with renamed_when_done(folder / f"{case.name}.json") as note:
            note.write_text(json.dumps(entry))
