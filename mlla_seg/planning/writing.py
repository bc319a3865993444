"""Writing of planned cards and configs as YAML, with the reason of each choice as a comment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import wrap
from typing import Any

import yaml

from mlla_seg.atomic import renamed_when_done
from mlla_seg.planning.choices import Choice
from mlla_seg.visible import visible

WIDTH = 118


def write_yaml(path: Path, title: str, content: Mapping[str, Choice | Mapping[str, Choice]]) -> None:
    """Write choices, and sections of choices, to a YAML file with comments."""
    lines = _comment(title)
    for key, value in content.items():
        if isinstance(value, Choice):
            lines += _entry(key, value)
        else:
            lines.append(f"{key}:")
            lines += [f"  {line}" for name, choice in value.items() for line in _entry(name, choice)]
    with renamed_when_done(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _entry(key: str, choice: Choice) -> list[str]:
    value = choice.value
    if isinstance(value, list) and value and isinstance(value[0], dict):
        lines = [f"{key}:", *(f"  - {_flow(entry)}" for entry in value)]
    elif isinstance(value, dict) and any(isinstance(inner, dict | list) for inner in value.values()):
        lines = [f"{key}:", *(f"  {_flow(name)}: {_flow(inner)}" for name, inner in value.items())]
    else:
        lines = [f"{key}: {_flow(value)}"]
    return [*_comment(choice.reason), *lines]


def _flow(value: Any) -> str:
    """Return a value in one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)
    return text.removesuffix("...\n").strip()


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in wrap(visible(text), WIDTH)]
