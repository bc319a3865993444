"""Building of a case: its arrays are written under temporary names, renamed together, and its entry is written last."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from mlla_seg.atomic import replace, unfinished_folder
from mlla_seg.data.card import Card
from mlla_seg.data.cases import Case
from mlla_seg.data.formats.classes import IGNORE_INDEX
from mlla_seg.data.polygon_labels import fingerprint_of_polygons
from mlla_seg.data.reading import open_case
from mlla_seg.data.sampling import class_places, value_sample
from mlla_seg.data.schemes import per_case
from mlla_seg.data.slices import View
from mlla_seg.data.store.case import KINDS
from mlla_seg.data.store.entry import VERSION, Entry, Stored, StoredSources, checksum_of, stamps_of, write_entry
from mlla_seg.disk_space import reserved_array

FULL = "Free some space, then run the same command again; cases that are stored stay."


def how_read(card: Card) -> str:
    """Return a digest of everything in a card that decides which arrays a case becomes."""
    masks = [getattr(card.layout, key) for key in ("coloured_masks", "ignored_colours", "mask_threshold")]
    counted = [card.under_masks, per_case([*card.schemes.values()])]
    gaps = (card.nodata, card.nodata_rule, card.grid)
    values = (card.array_units, [*card.ids.items()], card.ignore_index, counted, gaps)
    colours = card.layout.coloured_masks and [entry.colour for entry in card.classes]
    polygons = fingerprint_of_polygons(card)
    key = [card.layout.mask_key] * (card.layout.mask_key is not None)
    reading = (card.plane, values, card.class_names, card.bands, card.seen, masks, colours, polygons, *key)
    return hashlib.sha256(json.dumps(reading).encode()).hexdigest()


def reading_of(reading: str, case: Case) -> str:
    """Return a digest of everything that decides which arrays a case becomes, its files apart.

    Args:
        reading: From :func:`how_read`.
        case: The case.
    """
    # The text names the class Part and its fields: renaming one makes all stores of blocks be built again.
    own = [str(case.part)] * (case.part is not None) + ["unlabelled"] * (not case.labelled)
    return hashlib.sha256(" ".join([reading, *own]).encode()).hexdigest() if own else reading


def build_case(card: Card, case: Case, folder: Path, reading: str, sources: StoredSources) -> Entry:
    """Write the arrays of a case and its entry.

    Args:
        card: Card of the data set.
        case: The case.
        folder: The store.
        reading: From :func:`reading_of`.
        sources: The files of the case, taken before.

    Raises:
        InputError: The case cannot be used, or the disk is full.
    """
    with unfinished_folder(folder / case.name, FULL) as unfinished:
        temporary = {kind: unfinished / f"{kind}.npy" for kind in KINDS}
        with open_case(card, case) as source:
            image = reserved_array(temporary["image"], source.dtype, source.shape)
            mask = reserved_array(temporary["mask"], np.uint8, (source.shape[0], *source.shape[2:]))
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
        del image, mask
        checksums = {kind: checksum_of(path) for kind, path in temporary.items()}
        replace({path: folder / f"{case.name}.{kind}.npy" for kind, path in temporary.items()})
    entry = Entry(
        version=VERSION,
        reading=reading,
        sources=sources,
        arrays={kind: Stored(stamp, checksums[kind]) for kind, stamp in stamps_of(folder, case.name).items()},
        shape=source.shape,
        voxels=tuple(counts),
        spacing_mm=source.spacing_mm,
        ground=source.ground,
        warped=dict(source.warped),
        notes=source.notes,
        moments=moments and (tuple(moments[0].tolist()), tuple(moments[1].tolist())),
        own=source.own,
    )
    write_entry(folder, case.name, entry)
    return entry
