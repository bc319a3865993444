"""Sections of the configs of fit as defaults of commands without a trainer."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from mlla_seg.data.datamodule import SegmentationDataModule
from mlla_seg.errors import InputError
from mlla_seg.texts import read_yaml
from mlla_seg.training.module import SegmentationModule


def add_sections_of_fit(parser: ArgumentParser) -> None:
    """Add the options of fit's sections ``data`` and ``model``."""
    parser.add_class_arguments(SegmentationDataModule, "data")
    parser.add_class_arguments(SegmentationModule, "model", skip={"spec"})


def share_dims(model: MutableMapping[str, Any], data: MutableMapping[str, Any]) -> None:
    """Give network and data the same ``dims``, as samples have the axes of the network; either section may name it.

    Raises:
        InputError: They name different ones.
    """
    named = {value for value in (model.get("dims"), data.get("dims")) if value is not None}
    if len(named) == 2:
        raise InputError(f"--model.dims is {model['dims']}, but --data.dims is {data['dims']}: leave the latter out.")
    model["dims"] = data["dims"] = named.pop() if named else None


def data_options(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the data module from the sections of a config."""
    model, data = ({**(content.get(name) or {})} for name in ("model", "data"))
    share_dims(model, data)
    return data


def parse_sections(
    parser: ArgumentParser, argv: Sequence[str], needed: Sequence[str], further: Sequence[str] = ()
) -> Namespace:
    """Parse options whose defaults are sections of the files of ``--config``; later files override earlier ones.

    Args:
        parser: Has the options of each section, such as ``--data.root`` for ``data``.
        argv: The command line.
        needed: Sections that every file must have.
        further: Sections that are used if a file has them.

    Raises:
        InputError: A file is missing, not valid YAML or without a needed section.
    """
    configs, rest = _split(argv)
    for path in configs:
        content = read_sections(Path(path))
        for name in (*needed, *further):
            section = content.get(name)
            if isinstance(section, dict):
                parser.set_defaults({f"{name}.{key}": value for key, value in section.items()})
            elif name in needed:
                raise InputError(f"{path}: has no section '{name}'. Give a config of fit.")
    return parser.parse_args(rest)


def has_section(argv: Sequence[str], name: str) -> bool:
    """Return whether a config or an option of the command line sets something in a section."""
    configs, rest = _split(argv)
    return any(word.startswith(f"--{name}.") for word in rest) or any(
        isinstance(read_sections(Path(path)).get(name), dict) for path in configs
    )


def read_sections(path: Path) -> dict[str, Any]:
    """Return the sections of a config.

    Raises:
        InputError: The file is missing or not valid YAML.
    """
    content = read_yaml(path)
    return content if isinstance(content, dict) else {}


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split arguments into config files and the rest."""
    configs, rest, words = [], [], iter(argv)
    for word in words:
        if word == "--config":
            configs.append(next(words, ""))
        elif word.startswith("--config="):
            configs.append(word.split("=", 1)[1])
        else:
            rest.append(word)
    return configs, rest
