"""Start from pretrained weights: load them, and compare the normalisation of their images with that of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlla_seg.data.block_splits import seen_in_training
from mlla_seg.data.cases import Case
from mlla_seg.data.dataspec import DataSpec, Normalisation
from mlla_seg.errors import InputError
from mlla_seg.models.checkpoint import PRETRAINING_KEY, read_content
from mlla_seg.models.foreign import find_foreign, published_moments
from mlla_seg.models.segmenter import Segmenter
from mlla_seg.models.weights import load_pretrained
from mlla_seg.progress import note
from mlla_seg.texts import read_json

IMAGENET = Normalisation((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
"""How torchvision, most of timm, and the authors of MLLA normalise ImageNet, in 0..255."""
TOLERANCE = 0.02
"""Difference of means and standard deviations, relative to the latter, up to which they count as equal."""


def start_from(network: Segmenter, path: str, spec: DataSpec) -> list[str]:
    """Load weights into a network; return notes on what was loaded and on how its images were normalised.

    Args:
        network: The network; changed in place.
        path: A file or folder, see :func:`~mlla_seg.models.weights.load_pretrained`.
        spec: Description of the data that the network is trained on.

    Raises:
        InputError: The weights cannot be read or do not fit.
    """
    said = [f"{path}: {load_pretrained(network, path)}"]
    theirs, ours = normalisation_of(path, network), spec.normalisation
    if theirs is None:
        if not alike(IMAGENET, ours):
            said.append(
                f"note: {path} does not say how its images were normalised. ImageNet classifiers: {words(IMAGENET)}; "
                f"this training: {ours.in_words(spec.channels)}."
            )
    elif alike(theirs, ours):
        said.append(f"{path}: its images were normalised as those of this training: {words(theirs)}.")
    else:
        said.append(
            f"note: the images of {path} were normalised by {words(theirs)}; this training: "
            f"{ours.in_words(spec.channels)}. The card's normalisation decides."
        )
    return said


def note_seen(path: str, cases: Sequence[Case]) -> None:
    """Note how many of the cases to be scored the pretrained weights were trained on, with or without labels.

    Args:
        path: File of the weights; only files of ``fit`` and ``pretrain`` record what they were trained on. A folder
            does not, with a note.
        cases: Cases of validation and test.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        note(
            f"note: {path} does not say on which patients it was trained. If some are in validation or test, their "
            "scores will be too good; the .ckpt of fit would tell."
        )
        return
    try:
        content = read_content(file)
    except InputError:
        return
    known = [state for state in content.values() if isinstance(state, Mapping) and {"salt", "patients"} <= state.keys()]
    if seen := sorted({name for state in known for name in seen_in_training(cases, state)}):
        note(
            f"note: {path} was trained on images of {len(seen)} patients of validation and test, such as {seen[0]}, so "
            "their scores will be too good. Pretrain with the same card, --data.fold and splits."
        )


def normalisation_of(path: str, network: Segmenter) -> Normalisation | None:
    """Return how the images were normalised that weights were trained on; none if neither file nor library says."""
    file = Path(path).expanduser()
    try:
        content: Mapping[str, Any] = _said_in_folder(file) if file.is_dir() else read_content(file)
    except InputError:  # of another program
        content = {}
    if isinstance(said := content.get(PRETRAINING_KEY), Mapping):
        return Normalisation.from_dict({key: value for key, value in said.items() if key != "kind"}, path)
    saved = content.get("hyper_parameters")
    if isinstance(saved, Mapping) and isinstance(saved.get("spec"), Mapping):
        return DataSpec.from_dict(saved["spec"], path).normalisation
    foreign = find_foreign(network)
    moments = published_moments(foreign[1].name) if foreign else None
    return Normalisation(*moments) if moments else None


def _said_in_folder(folder: Path) -> dict[str, Any]:
    """Return the spec that ``save_pretrained`` wrote, as a checkpoint holds it; smp's folders have none."""
    path = folder / "config.json"
    said = read_json(path) if path.is_file() else None
    return {"hyper_parameters": {"spec": said.get("spec")}} if isinstance(said, Mapping) else {}


def alike(one: Normalisation, other: Normalisation) -> bool:
    """Return whether two normalisations change images alike."""
    mean, std, other_mean, other_std = map(np.atleast_1d, (one.mean, one.std, other.mean, other.std))
    try:
        near = (abs(mean - other_mean) <= TOLERANCE * std) & (abs(std - other_std) <= TOLERANCE * std)
    except ValueError:  # of other numbers of channels
        return False
    return one.kind == other.kind and one.windows == other.windows and bool(near.all())


def words(normalisation: Normalisation) -> str:
    """Describe a normalisation, with the numbers of all channels beside each other."""
    if normalisation.kind != Normalisation().kind:
        return normalisation.in_words([""])
    mean, std = (
        ", ".join(f"{value:.4g}" for value in np.atleast_1d(values))
        for values in (normalisation.mean, normalisation.std)
    )
    return f"mean {mean}, standard deviation {std}"
