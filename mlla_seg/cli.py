"""The command line: Lightning's fit, validate and test, and tools that need neither trainer nor data module.

``COMMANDS`` lists them all. Nothing heavy is imported before a command is chosen, so ``--help`` answers at once.
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from importlib import import_module
from inspect import signature

from mlla_seg.errors import InputError, lookup, program, unknown

DESCRIPTION = "Semantic segmentation of medical and aerial images with MLLA encoders."


def _train(argv: Sequence[str]) -> None:
    from mlla_seg.training.cli import run

    run(ensemble(_with_configs(argv)))


def _preview(argv: Sequence[str]) -> None:
    from mlla_seg.training.preview import preview

    preview(_with_configs(argv))


def _with_configs(argv: Sequence[str]) -> list[str]:
    """Words in which configs stand as paths, each after the recipe that it starts from."""
    from mlla_seg.data.shipped import with_recipe

    words = iter([part for word in argv for part in (word.split("=", 1) if word.startswith("--config=") else [word])])
    expanded: list[str] = []
    for word in words:
        if word == "--config":
            for path in with_recipe(next(words, "")):
                expanded += ["--config", path]
        else:
            expanded.append(word)
    return expanded


def _tool(path: str) -> Callable[[Sequence[str]], None]:
    """A command that is a typed function, given as ``module:function``; its arguments become options.

    Those that are lists may be given as several words.
    """

    def run(argv: Sequence[str]) -> None:
        from jsonargparse import auto_cli

        module, name = path.split(":")
        function = getattr(import_module(module), name)
        for option, parameter in signature(function).parameters.items():
            if str(parameter.annotation).startswith("list["):
                argv = gather(option, argv)
        auto_cli(function, args=list(argv[1:]), as_positional=False, prog=f"{program()} {argv[0]}", exit_on_error=False)

    return run


KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a word"}
"""What users call Python's types."""
COMMANDS: dict[str, tuple[str, Callable[[Sequence[str]], None]]] = {
    "fit": ("Train: --config configs/NAME.yaml, any option overridden after it.", _train),
    "validate": ("Score a checkpoint on the validation split: --config ... --ckpt_path ...", _train),
    "test": ("Score a checkpoint on the test split, write tables and a picture: --config ... --ckpt_path ...", _train),
    "preview": ("Draw training samples as the network gets them: --config configs/NAME.yaml", _preview),
    "predict": (
        "Segment files with a checkpoint: --ckpt_path ... --input FILE_OR_FOLDER --output FOLDER",
        _tool("mlla_seg.inference.predictor:predict"),
    ),
    "export": (
        "Export a checkpoint: --ckpt_path ... --format onnx --output model.onnx",
        _tool("mlla_seg.export:export"),
    ),
    "folds": (
        "Gather the folds of a cross-validation into one table: --runs runs/NAME",
        _tool("mlla_seg.evaluation.cross_validation:folds"),
    ),
    "benchmark": (
        "Measure time and memory beside other networks: --encoder mlla_tiny --sizes 224 512 1024",
        _tool("mlla_seg.benchmark.command:benchmark"),
    ),
    "configs": (
        "List the shipped configs, or copy them: --copy NAME",
        _tool("mlla_seg.data.shipped:configs"),
    ),
    "phantom": (
        "Make a small CT-like data set in the Synapse layout: --output FOLDER",
        _tool("mlla_seg.data.synthetic:phantom"),
    ),
}


def gather(name: str, argv: Sequence[str]) -> list[str]:
    """Writes an option of several words as the parser takes it: ``--sizes 224 512`` as ``--sizes [224, 512]``."""
    option = f"--{name}"
    argv = [part for word in argv for part in (word.split("=", 1) if word.startswith(f"{option}=") else [word])]
    if option not in argv:
        return argv
    first = argv.index(option) + 1
    last = next((i for i in range(first, len(argv)) if argv[i].startswith("-")), len(argv))
    words = argv[first:last]
    if words and not words[0].startswith("["):
        quoted = [word if word.isdecimal() else json.dumps(word) for word in words]
        argv[first:last] = [f"[{', '.join(quoted)}]"]
    return argv


def ensemble(argv: Sequence[str]) -> list[str]:
    """Writes ``--ckpt_path a.ckpt b.ckpt`` as Lightning's commands take it: the others are ``--members``."""
    argv = gather("members", gather("ckpt_path", argv))
    if "--ckpt_path" in argv[:-1] and argv[at := argv.index("--ckpt_path") + 1].startswith("["):
        path, *others = json.loads(argv[at])
        argv[at] = path
        if "--members" in argv[:-1]:
            others += json.loads(argv.pop(at := argv.index("--members") + 1))
            argv.pop(at - 1)
        argv += ["--members", json.dumps(others)] if others else []
    return argv


def overview() -> str:
    """Every command with one line."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {line}" for name, (line, _) in COMMANDS.items()]
    return "\n".join(
        [
            DESCRIPTION,
            "",
            f"usage: {program()} COMMAND [OPTIONS]",
            "",
            *lines,
            "",
            f"Options of one: {program()} COMMAND --help",
        ]
    )


def _explain(error: ArgumentError, command: str) -> str:
    """What the parser says, in one line; with the near names where an option takes one of several."""
    message = " ".join(str(error.message).replace(f"{command}.", "--", 1).split())
    option = re.search(r'Parser key "(?:--)?(\S+?)"', message)
    value = re.search(r"(?:Got|Given) value: (\S+)", message)
    if option and value:
        if choices := re.search(r"Expected a typing\.Literal\[(.*?)\]", message):
            return unknown(re.findall(r"'([^']*)'", choices[1]), value[1], f"--{option[1]}")
        if expected := re.search(r"Expected a <class '(\w+)'>", message):
            return f"--{option[1]} takes {KINDS.get(expected[1], expected[1])}, got {value[1]}."
    return message.rstrip(".") + "."


def _complain(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command; a mistake of the user ends with its message and status 2, without a traceback."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(overview())
        return
    if argv[0] == "--version":
        from mlla_seg._version import __version__

        print(__version__)
        return
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        _, run = lookup(COMMANDS, argv[0], "command")
        run(argv)
    except InputError as error:
        sys.exit(_complain(str(error)))
    except ArgumentError as error:
        sys.exit(_complain(f"{_explain(error, argv[0])} All options: {program()} {argv[0]} --help"))
    except OSError as error:  # a folder that cannot be written, a full disk
        if error.filename is None:
            raise
        sys.exit(_complain(f"{error.filename}: {error.strerror}. Choose another place, or change its permissions."))
    except KeyboardInterrupt:
        sys.exit(130)
