"""Folders of scenes and polygons, which need no card: ``images/`` with rasters, ``labels/`` with vector files."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from mlla_seg.data.card import Card
from mlla_seg.data.card_sections import CardClass, CardNormalisation, Layout
from mlla_seg.data.card_splits import CardSplits
from mlla_seg.data.dataspec import class_colour
from mlla_seg.data.formats.geotiff import RASTER_SUFFIXES, open_rasters
from mlla_seg.data.formats.raster_colours import alpha_band
from mlla_seg.data.formats.registry import suffix_in
from mlla_seg.data.formats.vector_sources import VECTOR_SUFFIXES, Layer, is_vector, open_layer
from mlla_seg.data.polygon_labels import survey
from mlla_seg.data.tree import stem_of
from mlla_seg.errors import InputError
from mlla_seg.progress import note

TREE = """images/NAME.tif ...
labels/NAME.gpkg ...    (or .geojson, .shp; or one file for all images)
"""
CLASS = "class"
"""Attribute that tells the class, as in the polygons that predict writes."""
MOST = 50
"""Most different values of this attribute; if there are more, they are not classes."""
SPLITS = CardSplits(seed=0, val=0.1, test=0.2)


def is_polygon_folder(root: Path) -> bool:
    """Return whether a folder holds ``images/`` and vector files in ``labels/``."""
    return (root / "images").is_dir() and bool(_vector_files(root))


def _vector_files(root: Path) -> list[Path]:
    folder = root / "labels"
    return sorted(path for path in folder.iterdir() if is_vector(path)) if folder.is_dir() else []


def polygon_folder_card(root: Path) -> Card:
    """Build a card for a folder of scenes and polygons.

    The attribute ``class`` tells the class of a polygon where all files have it; else all polygons are of one class.

    Raises:
        InputError: There is no raster in ``images/``, or the polygons cannot be used without a card.
    """
    images = sorted(path for path in (root / "images").rglob("*") if suffix_in(path.name) in RASTER_SUFFIXES)
    if not images:
        raise InputError(f"{root / 'images'}: holds no raster ({', '.join(RASTER_SUFFIXES)}).")
    files = _vector_files(root)
    layers = [open_layer(path) for path in files]
    by_class = all(layer.fields.get(CLASS) == "object" for layer in layers)
    names = _classes(layers) if by_class else ["labelled"]
    stems = {stem_of(path.name) for path in images}
    whole = len(files) == 1 and stem_of(files[0].name) not in stems
    channels = channels_of(images[0])
    suffixes = "|".join(suffix[1:] for suffix in RASTER_SUFFIXES)
    return Card(
        name=re.sub(r"[^\w-]+", "_", root.absolute().name).strip("_").lower() or "scenes",
        title=root.absolute().name,
        modality="aerial or satellite",
        channels=tuple(channels),
        classes=tuple(CardClass(name, class_colour(k)) for k, name in enumerate(["background", *names])),
        normalisation=CardNormalisation(measured=True),
        layout=Layout(
            format="files",
            tree=TREE,
            patterns=(rf"images/(?P<case>.+)\.(?i:{suffixes})",),
            mask=f"labels/{files[0].name}" if whole else tuple(f"labels/{{case}}{s}" for s in VECTOR_SUFFIXES),
            attribute=CLASS if by_class else None,
        ),
        splits=SPLITS,
        source="your own",
        licence="your own",
        folder=root,
    )


def note_polygon_folder(card: Card) -> None:
    """Print what was decided for data without a card."""
    attribute, mask = card.layout.attribute, card.layout.mask
    told = (
        f"the attribute {attribute} of the polygons tells their class"
        if attribute
        else f"not all files have a text {CLASS}, so every polygon is of one class; a card with attribute names others"
    )
    pairs = f"{mask} labels all images" if isinstance(mask, str) else "each image has the labels of its name"
    note(
        f"note: {card.folder} has no card: {told}; classes {', '.join(card.class_names)}; channels "
        f"{', '.join(card.channels)}, as in the first image; {pairs}."
    )


def _classes(layers: list[Layer]) -> list[str]:
    """Return the values of the attribute in all files, sorted, without the background."""
    counts: Counter[str] = Counter()
    for layer in layers:
        counts.update(survey(open_layer(layer.path, attribute=CLASS)).values)
    names = sorted(counts.keys() - {"background"})
    if "" in names or not 0 < len(names) <= MOST:
        found = f"{counts['']} polygons have none" if "" in names else f"it has {len(names)} values"
        raise InputError(
            f"{layers[0].path}: without a card the attribute {CLASS} names the classes, but {found}. Write a card: "
            "see docs/datasets.md."
        )
    return names


def channels_of(image: Path) -> list[str]:
    """Return names of the bands of an image: their descriptions or colours, or numbers."""
    with open_rasters([image]) as raster:
        dataset = raster.datasets[0]
        colours = [colour.name for colour in dataset.colorinterp]
        alpha = alpha_band(raster.datasets)
        described = [dataset.descriptions[k] or colours[k] for k in range(dataset.count) if k != alpha]
    count = len(described)
    plain = len(set(described)) == count and not {"gray", "undefined", "palette"} & set(described)
    return described if plain else [f"band {k + 1}" for k in range(count)]
