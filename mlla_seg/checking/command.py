"""The command check: reads every image and mask once and lists all problems before time is spent on training."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from mlla_seg.atomic import replace_content
from mlla_seg.checking.classes import absent_classes, frequencies
from mlla_seg.checking.contents import contents, duplicates, odd_contents
from mlla_seg.checking.cost import measure
from mlla_seg.checking.findings import Cost, Finding, Report, Severity, as_json, in_words
from mlla_seg.checking.geometry import geometry
from mlla_seg.checking.refusals import excluded, refusals
from mlla_seg.data.card_sections import SPLITS
from mlla_seg.data.cases import Case
from mlla_seg.data.datamodule import SegmentationDataModule
from mlla_seg.data.splits import Splits, kept
from mlla_seg.data.store.case import StoredCase
from mlla_seg.errors import InputError, program
from mlla_seg.inference.memory import is_out_of_memory
from mlla_seg.progress import note, say
from mlla_seg.training.config_sections import add_sections_of_fit, data_options, has_section, parse_sections
from mlla_seg.training.module import SegmentationModule

LISTED = ("planes", "ground", "unlabelled")
"""Checks of the data module of which findings list all cases, see ``geometry.py`` and ``contents.py``."""
NEED_SPEC = ("resampled", "described")
DOUBTFUL = ("classes", "class_sizes")
"""Checks whose notes are warnings."""


def check(argv: Sequence[str]) -> None:
    """Check the data of a config, print the report, and exit with status 1 if training would fail or be wrong."""
    options = parse(argv[1:])
    data = SegmentationDataModule(**data_options(options.as_dict()))
    report = examine(data, options.model.as_dict() if has_section(argv[1:], "model") else None)
    say(as_json(report) if options.json else "\n".join(in_words(report)))
    if options.output:
        replace_content(Path(options.output), as_json(report).encode())
    if report.failed:
        sys.exit(1)


def parse(argv: Sequence[str]) -> Namespace:
    """Parse the options; of config files the sections ``data`` and ``model`` are used."""
    parser = ArgumentParser(prog=f"{program()} check", exit_on_error=False)
    parser.add_argument("--config", help="config file of fit; several are merged")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--output", help="JSON file to write the report to")
    add_sections_of_fit(parser)
    return parse_sections(parser, argv, ["data"], ["model"])


def examine(data: SegmentationDataModule, model: dict[str, object] | None = None) -> Report:
    """Return all findings on some data, and the cost of training a model on them.

    Args:
        data: The data, whose store is filled.
        model: Arguments of :class:`SegmentationModule`; None to measure no step.
    """
    card, findings = data.card, _splits(data)
    cases = {case.name: case for split in SPLITS for case in getattr(data.splits, split)}
    problems = data.leave_out_unusable()
    findings += refusals(card, problems, cases)
    by_split = data.by_split
    stored = [case for split in by_split.values() for case in split]
    shares = frequencies(card, by_split)
    cost = None
    findings += _empty_splits(by_split)
    if by_split["train"]:
        findings += _checked(data) + absent_classes(shares)
    if stored:
        found = contents(stored, card)
        findings += odd_contents(card, stored, found) + duplicates(by_split, found)
    if by_split["train"] and not any(finding.kind == "spec" for finding in findings):
        findings += geometry(card, by_split, data.spec.view)
        if not any(finding.severity == "error" for finding in findings):
            cost = _measured(data, model, findings)
    counts = {split: len(group) for split, group in by_split.items()}
    exclude = excluded(problems, cases, card.exclude or {}) if by_split["train"] else {}
    return Report(card.name, str(data.root), counts, len(problems), findings, shares, exclude, cost)


def _splits(data: SegmentationDataModule) -> list[Finding]:
    """Return findings on the splits; if these cannot be made, all cases are read as training cases."""
    with _notes("cases") as findings:
        cases = data.found
        try:
            _ = data.splits
        except InputError as error:
            data.splits = Splits(train=kept(cases))
            findings.append(_shared_patients(cases) or Finding("error", "splits", str(error).rstrip(".")))
    return findings


def _empty_splits(by_split: Mapping[str, Sequence[StoredCase]]) -> list[Finding]:
    """Return findings on splits without a case that can be used."""
    findings = []
    if not by_split["train"]:
        findings.append(Finding("error", "no_train", "no case of split train can be used"))
    effects = {"val": "no checkpoint is chosen by its scores", "test": "there is nothing to test on"}
    for split, effect in effects.items():
        if not by_split[split]:
            findings.append(Finding("warning", f"no_{split}", f"split {split} has no case, so {effect}"))
    return findings


@contextmanager
def _notes(kind: str, severity: Severity = "info") -> Iterator[list[Finding]]:
    """Collect the notes of the block as findings instead of printing them; if it raises an error, print them."""
    said, findings = StringIO(), list[Finding]()
    try:
        with redirect_stderr(said):
            yield findings
    except BaseException:
        for line in said.getvalue().splitlines():
            note(line)
        raise
    notes = re.split(r"^note: ", said.getvalue(), flags=re.MULTILINE)
    findings += [Finding(severity, kind, text.strip().rstrip(".")) for text in notes if text.strip()]


def _shared_patients(cases: Sequence[Case]) -> Finding | None:
    """Return the finding on patients whose cases lie in several splits."""
    places: dict[str, dict[str, None]] = defaultdict(dict)
    for case in kept(cases):
        if case.split:
            places[case.patient][case.split] = None
    shared = {patient: splits for patient, splits in places.items() if len(splits) > 1}
    if not shared:
        return None
    details = tuple(" and ".join(splits) for splits in shared.values())
    advice = "Put all cases of a patient in one split, or exclude some."
    return Finding("error", "patients", "patients are in several splits", tuple(shared), details, advice, "patient")


def _checked(data: SegmentationDataModule) -> list[Finding]:
    """Run the checks before training; their errors and notes become findings."""
    findings = []
    try:
        _ = data.spec
    except InputError as error:
        findings.append(Finding("error", "spec", str(error).rstrip(".")))
    left_out = (*LISTED, *(NEED_SPEC if findings else ()))
    blocks = data.card.splits.blocks is not None  # of which other scenes may overlap
    for kind, run in data.checks().items():
        if kind in left_out and not (kind == "ground" and blocks):
            continue
        with _notes(kind, "warning" if kind in DOUBTFUL else "info") as found:
            try:
                run()
            except InputError as error:
                found.append(Finding("error", kind, str(error).rstrip(".")))
        findings += found
    return findings


def _measured(data: SegmentationDataModule, model: dict[str, object] | None, findings: list[Finding]) -> Cost | None:
    """Measure a step if there is a model; what prevents training is added to the findings."""
    try:
        data.setup("fit")
        data.train_dataloader()  # raises if there are too few samples for a batch
        if model is None:
            return None
        return measure(data, SegmentationModule(**model, spec=data.spec))  # type: ignore[arg-type]
    except InputError as error:
        findings.append(Finding("error", "step", str(error).rstrip(".")))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        what = f"a step of batch size {data.batch_size} does not fit into memory"
        findings.append(Finding("error", "step", what, advice="Lower --data.batch_size or --data.crop."))
    return None
