"""Shipped configs and cards, in a checkout or an installed wheel, and the command ``mlla-seg configs``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlla_seg.atomic import replace_content
from mlla_seg.errors import InputError, lookup, program, unknown
from mlla_seg.progress import say
from mlla_seg.texts import read_text, read_yaml, require_utf8

OWN = "config.yaml"
"""Name of the config of a run or of a planned project, whose folder may be given instead."""


def shipped(kind: str) -> Path:
    """Return the folder of shipped ``configs`` or ``datasets``: in an installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    return package / kind if (package / kind).is_dir() else package.parent / kind


def find_config(name: str) -> str:
    """Return the path of a config: the file, ``config.yaml`` in the folder, or the shipped one of this name.

    ``.yaml`` may be left out of the name of a shipped config.

    Raises:
        InputError: None exists.
    """
    path = Path(name)
    if path.is_file():
        return name
    if (path / OWN).is_file():
        return str(path / OWN)
    known = {path.stem: path for path in sorted(shipped("configs").glob("*.yaml"))}
    if Path(name).parent.name in ("", "configs") and Path(name).stem in known:
        return str(known[Path(name).stem])
    near = unknown(known, path.stem, "config")
    if path.parent.name not in ("", "configs") or path.is_dir():  # a path, not a name
        folder = path if path.is_dir() else path.parent
        there = ", ".join(sorted(file.name for file in folder.glob("*.y*ml"))) or "no YAML files"
        near = f"{folder} has {there}." if folder.is_dir() else f"There is no folder {folder}."
        raise InputError(f"{name}: no such file. {near}")
    raise InputError(f"{name}: no such file, and no shipped config with this name. {near}")


def read_found(name: str) -> tuple[Path, Any]:
    """Return the path of a config, see :func:`find_config`, and its content.

    The parser of the command line reads it once more: in UTF-8 only, and without bounds.
    """
    path = Path(find_config(name))
    require_utf8(path)
    return path, read_yaml(path)


def with_recipe(name: str, pretraining: bool = False) -> list[str]:
    """Return the paths of a config: that of its recipe, if any, and its own, which comes last.

    Raises:
        InputError: The config or its recipe does not exist, is not valid YAML, or is of another command.
    """
    path, content = read_found(name)
    if is_pretraining(content) and not pretraining:
        raise InputError(f"{path} is a config of pretraining: run it with {program()} pretrain --config {name}.")
    if pretraining and not is_pretraining(content) and isinstance(content, dict) and "model" in content:
        raise InputError(f"{path} is not a config of pretraining, in which model and data have a class_path: use fit.")
    if is_study(content):
        raise InputError(f"{path} is a study of many trainings: run it with {program()} study --config {name}.")
    recipe = content.get("recipe") if isinstance(content, dict) else None
    if recipe is None:
        return [str(path)]
    folders = [shipped("configs") / "recipes", path.parent / "recipes"]
    known = {found.stem: found for folder in folders for found in sorted(folder.glob("*.yaml"))}
    return [str(lookup(known, str(recipe), f"recipe of {path}:")), str(path)]


def read_config(name: str) -> dict[str, Any]:
    """Return the content of a config merged over that of its recipe.

    Raises:
        InputError: See :func:`with_recipe`.
    """
    merged: dict[str, Any] = {}
    for path in with_recipe(name):
        merged = _merged(merged, read_yaml(Path(path)))
    return merged


def is_study(content: Any) -> bool:
    """Return whether the content of a config is for the command ``study`` rather than for a single training."""
    return isinstance(content, dict) and "variants" in content


def is_pretraining(content: Any) -> bool:
    """Return whether the content of a config is for the command ``pretrain``, which names classes."""
    model = content.get("model") if isinstance(content, dict) else None
    return isinstance(model, dict) and "class_path" in model


def _merged(below: Any, above: Any) -> Any:
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return {key: _merged(below.get(key), above[key]) if key in above else below[key] for key in {**below, **above}}


def configs(copy: list[str] | None = None, output: str = ".") -> None:
    """List the shipped configs, or copy some of them for editing.

    Args:
        copy: Names of configs, such as `--copy synapse acdc`.
        output: Folder for the copies.
    """
    if not copy:
        paths = sorted(shipped("configs").glob("*.yaml"))
        width = max(len(path.stem) for path in paths)
        for path in paths:
            say(f"{path.stem.ljust(width)}  {_first_comment(path)}")
        say(f"\nTrain: {program()} fit --config NAME   Copy: {program()} configs --copy NAME")
        kinds = ((is_study, "Study: {} study"), (is_pretraining, "Pretrain: {} pretrain"))
        for is_kind, command in kinds:
            if names := [path.stem for path in paths if is_kind(read_yaml(path))]:
                say(f"{command.format(program())} --config {' or '.join(names)}")
        return
    folder = Path(output)
    sources = [Path(find_config(name)) for name in copy]
    if there := [folder / path.name for path in sources if (folder / path.name).exists()]:
        raise InputError(f"{there[0]}: already exists. Move it or choose another --output.")
    for path in sources:
        replace_content(folder / path.name, path.read_bytes())
        say(str(folder / path.name))


def _first_comment(path: Path) -> str:
    """Return the first comment line of a config, which describes it."""
    lines = [line[1:].strip() for line in read_text(path).splitlines() if line.startswith("#")]
    return lines[0] if lines else ""
