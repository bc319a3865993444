"""One-line messages for options that name classes, such as loggers and callbacks."""

from __future__ import annotations

import re
from collections.abc import Callable
from inspect import signature
from pydoc import locate
from typing import Any

from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, callbacks, loggers
from lightning.pytorch.loggers import Logger

from mlla_seg.errors import unknown
from mlla_seg.training.failures import one_line

PROBLEM = re.compile(
    r"Problem with given class_path '([\w.]+)': (.+?)(?: - (?:Problem|Expected|Not a valid)|Given value)"
)
NO_CLASS = re.compile(r"Expected a dot import path string: (\S+)")
OTHER_CLASS = re.compile(r"(?:does not correspond to|Not) a (?:valid )?subclass of (\w+)")
KNOWN = {"--trainer.logger": loggers.__all__, "--trainer.callbacks": callbacks.__all__}
"""Names that need no import path."""


def said_of_class(option: str, message: str) -> str | None:
    """Return the parser's message about an option that names a class in one line; None for other messages.

    Args:
        option: The option, such as ``--trainer.logger``.
        message: What the parser says of all types that the option may have, without line breaks.
    """
    if found := PROBLEM.search(message):
        return f"{option}: {_problem(found[1], found[2].strip())}"
    if found := NO_CLASS.search(message):
        return f"{option}: {unknown(KNOWN.get(option, []), found[1], 'class')} Others need their import path."
    if (found := OTHER_CLASS.search(message)) and "Import path" in message:
        return f"{option}: the class that it names is not a {found[1]}."
    return None


def _problem(path: str, reason: str) -> str:
    name = path.rpartition(".")[2]
    if found := re.search(r"Option '(\w+)' is not accepted", reason):
        return unknown(_options(path), found[1], f"option of {name}")
    if found := re.search(r"arguments are required: (.+)", reason):
        return f"{name} needs {found[1]}."
    if found := re.search(r"Parser key \"(\w+)\": (.+)", reason):
        return f"{name}: {found[1]}: {found[2]}."
    if "No module named" in reason or "has no attribute" in reason:
        return f"{path} cannot be imported: {reason}. PYTHONPATH lists the folder of a module of your own."
    return f"{name}: {reason.rstrip('.')}."


def _options(path: str) -> list[str]:
    """Return the names of a class's arguments."""
    parameters = signature(locate(path)).parameters.values()  # type: ignore[arg-type]  # the parser has imported it
    return [one.name for one in parameters if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]


class Refusals:
    """Builds the loggers and callbacks of options, and keeps the reason of a failure, which the parser hides."""

    def __init__(self, parser: ArgumentParser) -> None:
        self.reason: str | None = None
        for kind in (Logger, Callback):
            parser.add_instantiator(self.make, kind)

    def make(self, kind: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Make an instance; an error in a class of the user's own keeps its traceback."""
        try:
            return kind(*arguments, **options)
        except Exception as error:
            name = kind.__name__
            if isinstance(error, ModuleNotFoundError):
                said = one_line(error).partition(" Requirement '")[0]  # Lightning repeats it for every package
                self.reason = f"{name} needs another package. {said}"
            elif kind.__module__.startswith("lightning."):
                self.reason = f"{name}: {one_line(error)}"
            raise
