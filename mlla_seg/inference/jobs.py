"""What decides the content of a mask: network, data description, options and source files.

A mask is made by one job, however often the program is interrupted. The job is stored with the partial results of a
scene (:mod:`mlla_seg.inference.partial_maps`) and beside every finished mask (:mod:`mlla_seg.inference.records`), so
that results of two jobs are never mixed or mistaken for each other. Options that only cost time or memory, such as the
batch size, are not part of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlla_seg._version import __version__
from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.formats.locations import Location
from mlla_seg.data.formats.source_files import Sources

WORDS = {
    "weights": "another network",
    "spec": "other classes, channels, normalisation, nodata or post-processing",
    "sources": "images that have changed since",
}
"""Words for the parts of a job that differ, as in "made with another network"."""


@dataclass(frozen=True)
class Job:
    """Everything on which a mask and the files beside it depend.

    Args:
        network: ``weights``, a digest, and how the network is run; see ``CaseSegmenter.identity``.
        spec: Digest of the description of the data.
        sources: Fingerprint of the source files.
        options: Options that decide the labels, by name.
        files: Options that decide how they are written.
    """

    network: Mapping[str, Any]
    spec: str
    sources: Sources
    options: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the job in plain types; reads the source files."""
        options = {**self.network, **self.options, **self.files}
        weights = options.pop("weights", None)
        sources = self.sources.to_dict()
        return {"mlla_seg": __version__, "weights": weights, "spec": self.spec, "options": options, "sources": sources}

    def differences(self, stored: Mapping[str, Any], files: bool = True) -> list[str]:
        """Return in words how a stored job differs; empty if it gives the same.

        Options that only the stored job has do not matter, as they are about files that are not wanted now.

        Args:
            stored: What :meth:`to_dict` returned.
            files: Compare how files are written too.
        """
        found = []
        if (version := stored.get("mlla_seg")) != __version__:
            found.append(f"mlla_seg {version} instead of {__version__}")
        for key, own in (("weights", self.network.get("weights")), ("spec", self.spec)):
            if stored.get(key) != own:
                found.append(WORDS[key])
        had = stored.get("options", {})
        for key, own in {**self.network, **self.options, **(self.files if files else {})}.items():
            if key != "weights" and had.get(key) != own:
                found.append(f"--{key} {_text(had.get(key))} instead of {_text(own)}")
        if not self.sources.equal(stored.get("sources", {})):
            found.append(WORDS["sources"])
        return found


def job_of(
    network: Mapping[str, Any],
    spec: DataSpec,
    sources: Sequence[Location],
    options: Mapping[str, Any] | None = None,
    files: Mapping[str, Any] | None = None,
) -> Job:
    """Return the job that makes the mask of an image; see :class:`Job`.

    Raises:
        InputError: A source cannot be opened.
    """
    content = json.dumps(spec.to_dict(), sort_keys=True).encode()
    return Job(network, hashlib.sha256(content).hexdigest(), Sources(sources), options or {}, files or {})


def _text(value: Any) -> str:
    """Return an option as it is typed."""
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)
