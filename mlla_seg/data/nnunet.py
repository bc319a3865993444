"""nnU-Net raw folders and Medical Segmentation Decathlon tasks: ``dataset.json``, with a card or instead of one."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from mlla_seg.data.card import Card
from mlla_seg.data.card_sections import CardClass, CardNormalisation, Layout
from mlla_seg.data.card_splits import CardSplits
from mlla_seg.data.cases import Case, missing_data, note_unlabelled
from mlla_seg.data.dataset_json import USUAL_ENDING, Description, read_description
from mlla_seg.data.dataspec import DataSpec, class_colour
from mlla_seg.data.nnunet_regions import classes_of
from mlla_seg.data.schemes import scheme_of
from mlla_seg.data.slices import ZSCORE
from mlla_seg.errors import InputError
from mlla_seg.progress import note, note_files

TREE = """dataset.json
imagesTr/case_0000.nii.gz ...    (channels _0000, _0001, ..., or as the fourth axis of case.nii.gz)
labelsTr/case.nii.gz ...
"""
SPLITS = CardSplits(seed=0, val=0.1, test=0.2)
"""Default splits, drawn once: test labels of challenges are rarely public."""


def nnunet_card(root: Path) -> Card:
    """Build a card from a folder's ``dataset.json``.

    As in nnU-Net, the name of a channel selects its normalisation, and only a label that is declared as such is
    ignored. Slices run along the coarsest axis of each volume and are resampled to the median pixel spacing of all.

    Raises:
        InputError: The folder or its ``dataset.json`` is missing or cannot be used.
    """
    path = root / "dataset.json"
    if not path.is_file():
        raise InputError(
            f"Without --data.card the data are described by {path.absolute()}, which does not exist. "
            "Give the name of a card, the root of an nnU-Net or Decathlon folder, or a folder with rasters in images/ "
            "and polygons in labels/."
        )
    about = read_description(path)
    if not about.channels or len(about.labels) < 2:
        raise InputError(f"{path}: needs channel_names (or modality) and at least two labels.")
    given = about.channels  # each channel needs a name of its own
    channels = tuple(f"{name} {k}" if given.count(name) > 1 else name for k, name in enumerate(given))
    return Card(
        name=re.sub(r"[^\w-]+", "_", about.name).strip("_").lower()[:100] or "dataset",
        title=about.name,
        modality=given[0],
        channels=channels,
        classes=classes_of(about.labels, about.order)
        if about.regions
        else tuple(CardClass(name, class_colour(k), value) for k, (value, name) in enumerate(about.labels.items())),
        normalisation=CardNormalisation(schemes=dict(zip(channels, map(scheme_of, given), strict=True))),
        layout=Layout(format="nnunet", tree=TREE),
        splits=SPLITS,
        source=about.source,
        licence=about.licence,
        folder=root,
        ignore_index=about.ignore,
        background=about.labels.get(0),
        plane="acquired",
        spacing_mm=(None, "median", "median"),
        regions={name: tuple(ids) for name, ids in about.regions.items()} or None,
        regions_class_order=about.order if about.regions else None,
    )


def note_described(card: Card, spec: DataSpec) -> None:
    """Print what ``dataset.json`` says, and what rules decide instead, for data without a card."""
    unknown = [
        name for name, scheme in card.schemes.items() if scheme == ZSCORE and not name.casefold().startswith(ZSCORE)
    ]
    steps = spec.spacing_mm and " x ".join("original" if step is None else f"{step:g}" for step in spec.spacing_mm)
    ids = [*card.ids]
    facts = [
        f"normalisation: {spec.normalisation.in_words(spec.channels)}",
        f"{', '.join(unknown)} {'names' if len(unknown) == 1 else 'name'} no scheme of nnU-Net, so zscore is used"
        if unknown
        else "",
        f"slices along the coarsest axis of each volume, median spacing of all cases: {steps} mm" if steps else "",
        *(f"the label {name} is a class: only ignore is ignored" for name in card.class_names if _means_ignore(name)),
        "no label is ignored" if card.ignore_index is None else f"the label {card.ignore_index} is ignored",
        f"class {card.background} ({ids[0]}) is the background" if card.background else "no class is the background",
        "" if ids == list(range(len(ids))) else f"the ids {', '.join(map(str, ids))} have gaps and are kept in masks",
    ]
    note(f"note: {card.folder / 'dataset.json'}: {'; '.join(filter(None, facts))}.")


def _means_ignore(name: str) -> bool:
    return re.fullmatch(r"ignored?|unlabell?ed|void", name, re.IGNORECASE) is not None


def nnunet_cases(card: Card, root: Path) -> list[Case]:
    """Find the cases of ``imagesTr`` and ``labelsTr``; the classes of ``dataset.json`` must be the card's."""
    path = root / "dataset.json"
    if not path.is_file():
        raise InputError(missing_data(card, root, "has no dataset.json"))
    about = read_description(path)
    listed = {value: name.lower() for value, name in about.labels.items()}
    expected = {value: card.class_names[k].lower() for value, k in card.ids.items()}
    if listed != expected and not (about.regions and set(listed) == set(expected)):  # these name no ids
        raise InputError(
            f"{path} lists the classes {', '.join(f'{value} {name}' for value, name in listed.items()) or 'none'}; the "
            f"card {card.name} expects {', '.join(f'{value} {card.class_names[k]}' for value, k in card.ids.items())}."
        )
    ending = about.ending or USUAL_ENDING
    images = _by_stem(root / "imagesTr", ending)
    channels: dict[str, dict[int, Path]] = defaultdict(dict)
    for stem, file in images.items():
        if match := re.fullmatch(r"(.+)_(\d{4})", stem):
            channels[match[1]][int(match[2])] = file
    masks = _by_stem(root / "labelsTr", ending)
    if not masks:
        _refuse_ending(about, root)
    cases = []
    for name, mask in masks.items():
        numbered = dict(sorted(channels[name].items())) if name in channels else {}
        if not numbered and name not in images:
            place = root / "imagesTr" / mask.name
            raise InputError(f"{mask} has no image: expected {place} or {name}_0000{ending} beside it.")
        files = tuple(numbered.values()) or (images[name],)
        if [*numbered] != list(range(len(numbered))):
            raise InputError(
                f"{files[0]}: the channels of {name} are {[*numbered]}, expected consecutive numbers from 0."
            )
        cases.append(Case(name, name, (files,), (mask,)))
    known = {file.name for case in cases for files in case.images for file in files}
    note_unlabelled(sorted(file.name for file in images.values() if file.name not in known), "imagesTr")
    cases = _listed(about, cases)
    _note_count(about, len(cases))
    return cases


def _listed(about: Description, cases: list[Case]) -> list[Case]:
    """Return the cases that the description lists, as nnU-Net takes them, or all if it lists none that is there."""
    listed = [case for case in cases if case.name in about.cases]
    if about.cases and not listed:
        note(
            f"note: {about.path} lists {len(about.cases)} training cases, such as {min(about.cases)}, none of which is "
            "there; all cases with a mask are taken."
        )
    if not listed:
        return cases
    others = [case.name for case in cases if case.name not in about.cases]
    note_files(others, "labelsTr", f"are not listed in {about.path} and are left out")
    lost = sorted(about.cases - {case.name for case in listed})
    note_files(lost, "labelsTr", f"are listed in {about.path} but are not there")
    return listed


def _by_stem(folder: Path, ending: str) -> dict[str, Path]:
    """Return the files of a folder with an ending in any case, by their names without it, in order.

    Raises:
        InputError: Two files differ only in the case of their ending.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name.lower().endswith(ending.lower()) and path.name[0] != ".":
            other = found.setdefault(path.name[: -len(ending)], path)
            if other != path:
                raise InputError(f"{path}: {other.name} beside it has the same name; keep one of them.")
    return found


def _refuse_ending(about: Description, root: Path) -> None:
    """Raise if the masks have another ending than ``dataset.json`` says."""
    there = sorted(path.name for path in (root / "labelsTr").glob("[!.]*"))
    if there:
        said = f"file_ending is {about.ending}" if about.ending else f"there is no file_ending, so it is {USUAL_ENDING}"
        raise InputError(
            f"{about.path}: {said}, but none of the {len(there)} files in labelsTr ends so, such as {there[0]}. "
            "Correct file_ending."
        )


def _note_count(about: Description, found: int) -> None:
    if about.count is not None and about.count != found:
        note(f"note: {about.path} says numTraining {about.count}, but {found} cases are there.")
