"""What a check found, as data: for the terminal in words, and for programs as JSON."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

Severity: TypeAlias = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
"""``error``: training would fail or be wrong; ``warning``: probably a mistake; ``info``: worth knowing."""
SHOWN = 20
"""Most lines of a finding, and most cases of a line, that the terminal shows; the JSON has all."""


@dataclass(frozen=True)
class Finding:
    """Something found in some cases, or in the data as a whole."""

    severity: Severity
    kind: str
    """What it is about in one word, such as ``truncated``; does not change between versions."""
    summary: str
    """One sentence without a full stop."""
    cases: tuple[str, ...] = ()
    """Names of the cases."""
    details: tuple[str, ...] = ()
    """More about each of the cases; empty if there is no more to say."""
    advice: str = ""
    unit: str = "case"
    """What the names are of."""


@dataclass(frozen=True)
class Cost:
    """What training costs on a machine."""

    device: str
    batch_size: int
    step_seconds: float
    """Time of an optimiser step in float32."""
    loading_seconds: float
    """Time in which one process draws the samples of a step."""
    workers: int
    step_gb: float
    """Memory of a step, in 1e9 bytes."""
    free_gb: float | None
    """Free memory before, None if it is unknown."""
    steps: int
    """Steps of an epoch."""
    epoch_seconds: float
    """Time of an epoch without validation."""


@dataclass(frozen=True)
class Report:
    """Everything that a check found."""

    name: str
    root: str
    splits: Mapping[str, int]
    """Cases that can be used, by split."""
    unusable: int
    findings: Sequence[Finding]
    frequencies: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Fraction of the labelled pixels of a split that have a class, by split and class."""
    exclude: Mapping[str, str] = field(default_factory=dict)
    """Cases that ``--data.exclude`` has to name so that the others can be used, each with a reason."""
    cost: Cost | None = None

    @property
    def failed(self) -> bool:
        """Whether training would fail or be wrong."""
        return any(finding.severity == "error" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; every finding has the number of its cases as ``count``."""
        content = asdict(self)
        for finding in content["findings"]:
            finding["count"] = len(finding["cases"])
        return {"failed": self.failed, **content}


def as_json(report: Report) -> str:
    """Return a report as JSON."""
    return json.dumps(report.to_dict(), indent=2, ensure_ascii=False)


def in_words(report: Report) -> Iterator[str]:
    """Yield the lines of a report."""
    used = ", ".join(f"{count} {split}" for split, count in report.splits.items())
    unusable = f"; {report.unusable} cannot be used" if report.unusable else ""
    yield f"{report.name}: {sum(report.splits.values())} usable cases ({used}){unusable}"
    for severity in SEVERITIES:
        for finding in report.findings:
            if finding.severity == severity:
                yield from _finding(finding)
    if report.exclude:
        listed = json.dumps(dict(report.exclude), ensure_ascii=False)
        yield "To train without the cases that cannot be used, add this option, or the same as exclude: in a card:"
        yield f"  --data.exclude {shlex.quote(listed)}"
    if report.frequencies:
        yield from _table(report.frequencies)
    if report.cost:
        yield _cost(report.cost)
    counts = [(severity, sum(f.severity == severity for f in report.findings)) for severity in SEVERITIES[:2]]
    yield ", ".join(f"{count} {severity}{'' if count == 1 else 's'}" for severity, count in counts) + (
        ": training would fail or be wrong." if report.failed else "."
    )


def _finding(finding: Finding) -> Iterator[str]:
    advice = f" {finding.advice}" if finding.advice else ""
    number = len(finding.cases)
    count = f" ({number} {finding.unit}{'' if number == 1 else 's'})" if number else ""
    yield f"{finding.severity}{count}: {finding.summary}.{advice}"
    alike: dict[str, list[str]] = {}
    for name, detail in zip(finding.cases, finding.details or [""] * number, strict=True):
        alike.setdefault(detail, []).append(name)
    for detail, names in [*alike.items()][:SHOWN]:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        yield f"  {', '.join(names[:SHOWN])}{more}{': ' if detail else ''}{detail}"
    if len(alike) > SHOWN:
        yield f"  ... and {len(alike) - SHOWN} more; --json lists all"


def _table(frequencies: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    names = [*next(iter(frequencies.values()))]
    width = max(map(len, ["class", *names]))
    yield f"{'class'.ljust(width)}" + "".join(split.rjust(10) for split in frequencies) + "   of labelled pixels"
    for name in names:
        yield name.ljust(width) + "".join(_percent(shares[name]).rjust(10) for shares in frequencies.values())


def _percent(share: float) -> str:
    return "-" if share == 0 else "<0.01 %" if share < 1e-4 else f"{100 * share:.2f} %"


def _cost(cost: Cost) -> str:
    minutes = cost.epoch_seconds / 60
    epoch = f"{minutes:.1f} min" if minutes >= 1 else f"{cost.epoch_seconds:.1f} s"
    free = "" if cost.free_gb is None else f" of {cost.free_gb:.3g} GB free"
    return (
        f"On this machine ({cost.device}, float32) a step of batch size {cost.batch_size} takes "
        f"{cost.step_seconds:.2g} s and {cost.step_gb:.2g} GB{free}, loading its samples "
        f"{cost.loading_seconds:.2g} s of one process ({cost.workers} workers); an epoch of {cost.steps} steps takes "
        f"about {epoch} without validation."
    )
