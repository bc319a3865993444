"""Command line: Lightning's fit, validate and test, and commands without a trainer.

``COMMANDS`` lists all commands. Heavy packages are only imported by the chosen command, so that ``--help`` is fast.
"""

from __future__ import annotations

import errno
import json
import re
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from inspect import signature
from traceback import extract_tb
from typing import Any

from mlla_seg.errors import InputError, lookup, program, unknown
from mlla_seg.progress import complain, say

DESCRIPTION = "Semantic segmentation of medical and aerial images with MLLA encoders."


def _train(argv: Sequence[str]) -> None:
    from mlla_seg.training.cli import run

    run(ensemble(_with_configs(argv)))


def _pretrain(argv: Sequence[str]) -> None:
    import_module("mlla_seg.pretraining.command").run(_with_configs(argv, pretraining=True)[1:])


def _preview(argv: Sequence[str]) -> None:
    from mlla_seg.training.preview import preview

    preview(_with_configs(argv))


def _check(argv: Sequence[str]) -> None:
    import_module("mlla_seg.checking.command").check(_with_configs(argv))


def _with_configs(argv: Sequence[str], pretraining: bool = False) -> list[str]:
    """Resolve names of configs to paths and insert the recipe that a config extends before it."""
    from mlla_seg.data.shipped import with_recipe

    words = iter([part for word in argv for part in (word.split("=", 1) if word.startswith("--config=") else [word])])
    expanded: list[str] = []
    for word in words:
        if word.split("=")[0] == "--recipe":
            raise InputError("recipe is a key of configs: set it there, or use --config configs/recipes/NAME.yaml.")
        if word == "--config":
            for path in with_recipe(next(words, ""), pretraining):
                expanded += ["--config", path]
        else:
            expanded.append(word)
    return expanded


def _tool(path: str) -> Callable[[Sequence[str]], None]:
    """Return a command that calls ``module:function``; the function's typed arguments become options.

    Lists may be given as several arguments, ``true`` may be left out, and ``--config`` names a file with options.
    """

    def run(argv: Sequence[str]) -> None:
        from jsonargparse import auto_cli

        module, name = path.split(":")
        function = getattr(import_module(module), name)
        parameters = signature(function).parameters
        for option, parameter in parameters.items():
            if str(parameter.annotation).startswith("list["):
                argv = gather(option, argv)
        flags = [k for k in parameters if str(parameters[k].annotation).startswith("bool")]
        words = _with_files(_with_true(flags, argv[1:]))
        try:
            auto_cli(function, args=words, as_positional=False, prog=f"{program()} {argv[0]}", exit_on_error=False)
        except ArgumentError as error:
            wrong = re.search(r"Option '([\w.]+)' is not accepted|unrecognized arguments: --(\w+)", str(error))
            if wrong is None:
                raise
            raise InputError(unknown(parameters, wrong[1] or wrong[2], "option")) from error

    return run


def _with_true(flags: Sequence[str], argv: Sequence[str]) -> list[str]:
    """Write out ``--flag true`` where the flag stands alone."""
    options, following = {f"--{flag}" for flag in flags}, [*argv[1:], "-"]
    return [f"{word}=true" if word in options and following[i].startswith("-") else word for i, word in enumerate(argv)]


def _with_files(argv: Sequence[str]) -> list[str]:
    """Resolve the names of configs to paths."""
    from mlla_seg.data.shipped import read_found

    return [str(read_found(word)[0]) if i and argv[i - 1] == "--config" else word for i, word in enumerate(argv)]


@cache
def _bound_parser() -> None:
    """Make the parser refuse values and configs, also those that configs name, that would fill memory or stack."""
    from jsonargparse import _loaders_dumpers as loaders
    from jsonargparse import set_loader
    from yaml import YAMLError

    from mlla_seg.texts import require_bounded

    load = loaders.yaml_load

    def bounded(text: str) -> Any:
        if len(text) > SHORT:
            try:
                require_bounded(text)
            except InputError as error:
                raise YAMLError(f"it {error}") from None
        return load(text)

    set_loader("yaml", bounded, (YAMLError,))
    loaders.yaml_load = bounded  # values of options do not pass through what set_loader sets


SHORT = 100
"""Characters of a value that can be neither too deep nor too large."""
KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a word"}
"""Names of types in messages."""
COMMANDS: dict[str, tuple[str, Callable[[Sequence[str]], None]]] = {
    "plan": (
        "Write a card and a config for a folder of images and masks: --input FOLDER --output FOLDER",
        _tool("mlla_seg.planning.command:plan"),
    ),
    "fit": ("Train: --config configs/NAME.yaml, followed by options that override it", _train),
    "validate": ("Score a checkpoint on the validation split: --config ... --ckpt_path ...", _train),
    "test": ("Score a checkpoint on the test split: --config ... --ckpt_path ...", _train),
    "pretrain": (
        "Train an encoder to start from: --config configs/pretrain_imagenet.yaml --data.root FOLDER",
        _pretrain,
    ),
    "preview": ("Draw augmented training samples: --config configs/NAME.yaml", _preview),
    "check": ("List all problems of a data set, and what a step costs: --config configs/NAME.yaml", _check),
    "predict": (
        "Segment files with a checkpoint: --ckpt_path ... --input FILE_OR_FOLDER --output FOLDER",
        _tool("mlla_seg.inference.predictor:predict"),
    ),
    "explain": (
        "Draw attention and receptive field of a checkpoint: --ckpt_path ... --input FILE",
        _tool("mlla_seg.explain.command:explain"),
    ),
    "export": (
        "Export a checkpoint: --ckpt_path ... --format onnx --output model.onnx",
        _tool("mlla_seg.export:export"),
    ),
    "folds": (
        "Combine the folds of a cross-validation into one table: --runs runs/NAME",
        _tool("mlla_seg.evaluation.fold_summary:folds"),
    ),
    "study": (
        "Train and compare variants of a config over several seeds: --config configs/study.yaml",
        _tool("mlla_seg.study.command:study"),
    ),
    "compare": (
        "Compare scored runs over patients and seeds: --runs FOLDER FOLDER ...",
        _tool("mlla_seg.study.command:compare"),
    ),
    "benchmark": (
        "Compare time and memory with other networks: --encoder mlla_tiny --sizes 224 512 1024",
        _tool("mlla_seg.benchmark.command:benchmark"),
    ),
    "configs": (
        "List the included configs, or copy some: --copy NAME",
        _tool("mlla_seg.data.shipped:configs"),
    ),
    "phantom": (
        "Generate a small CT-like data set in the Synapse layout: --output FOLDER",
        _tool("mlla_seg.data.synthetic:phantom"),
    ),
}


def gather(name: str, argv: Sequence[str]) -> list[str]:
    """Rewrite the values of a list option for the parser: ``--sizes 224 512`` becomes ``--sizes [224, 512]``."""
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
    """Rewrite ``--ckpt_path a.ckpt b.ckpt`` for Lightning's commands: further checkpoints become ``--members``."""
    argv = gather("members", gather("ckpt_path", argv))
    if "--ckpt_path" in argv[:-1] and argv[at := argv.index("--ckpt_path") + 1].startswith("["):
        path, *others = _listed("ckpt_path", argv[at])
        argv[at] = path
        if "--members" in argv[:-1]:
            others += _listed("members", argv.pop(at := argv.index("--members") + 1))
            argv.pop(at - 1)
        argv += ["--members", json.dumps(others)] if others else []
    return argv


def _listed(option: str, words: str) -> list[str]:
    """Return the paths of a list option.

    Raises:
        InputError: It is no list of texts, or an empty one.
    """
    try:
        paths = json.loads(words)
    except (ValueError, RecursionError):
        paths = None
    if not paths or not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise InputError(f"--{option} {words}: is not a list of checkpoints, such as --{option} a.ckpt b.ckpt.")
    return paths


def overview() -> str:
    """Return the overview of all commands."""
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
            f"Options of a command: {program()} COMMAND --help",
        ]
    )


def _explain(error: ArgumentError, command: str) -> str:
    """Return the parser's error in one line, with suggestions if an option has a list of choices."""
    message = " ".join(str(error.message).replace(f"{command}.", "--", 1).split())
    option = re.search(r'Parser key "(?:--)?(\S+?)"', message)
    value = re.search(r"(?:Got|Given) value: (\S+)", message)
    if option and re.search("class_path|[Ii]mport path", message):
        said = import_module("mlla_seg.training.class_options").said_of_class(f"--{option[1]}", message)
        if said is not None:
            return said
    if option and value:
        if choices := re.search(r"Expected a typing\.Literal\[(.*?)\]", message):
            known = ["true", "false"] if "<class 'bool'>" in message else []
            return unknown([*known, *re.findall(r"'([^']*)'", choices[1])], value[1], f"--{option[1]}")
        if expected := re.search(r"Expected a <class '(\w+)'>", message):
            return f"--{option[1]} takes {KINDS.get(expected[1], expected[1])}, got {value[1]}."
    wrong = re.match(r"unrecognized arguments: --([\w.]+)", message)
    if wrong and command in ("fit", "validate", "test", "preview", "check"):
        near = import_module("mlla_seg.training.options").similar_options(wrong[1])
        if wrong[1] in near:
            return f"{command} has no option --{wrong[1]}: it is one of fit."
        if near:
            return f"Unknown option --{wrong[1]}. Did you mean {' or '.join(f'--{name}' for name in near)}?"
    return message.rstrip(".") + "."


def _of_the_system(error: Exception) -> str | None:
    """Return the message for a full disk, a read-only folder and the like; None if the program may be at fault."""
    from mlla_seg.disk_space import told

    if message := told(error):
        return message
    if isinstance(error, RecursionError) and any(
        "jsonargparse" in frame.filename for frame in extract_tb(error.__traceback__)
    ):
        return "The options, or configs that they name, lie too deep within each other to be read."
    if isinstance(error, UnicodeDecodeError):
        byte = f"byte {error.start} is 0x{error.object[error.start]:02x}"
        return f"A file is not {error.encoding} text ({byte}): save configs and other texts in the encoding UTF-8."
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return f"{error.filename}: no file can have such a long name."
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}. Choose another path, or change its permissions."
    return None


def _complain(message: str) -> int:
    complain(message)
    return 2


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command; user errors print a message without traceback and exit with status 2."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        say(overview())
        return
    if argv[0] == "--version":
        from mlla_seg._version import __version__

        say(__version__)
        return
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        _, run = lookup(COMMANDS, argv[0], "command")
        _bound_parser()
        run(argv)
    except InputError as error:
        sys.exit(_complain(str(error)))
    except ArgumentError as error:
        sys.exit(_complain(f"{_explain(error, argv[0])} All options: {program()} {argv[0]} --help"))
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if (message := _of_the_system(error)) is None:
            raise
        sys.exit(_complain(message))
