"""The command line: Lightning's fit, validate and test, and tools that need neither trainer nor data module.

``COMMANDS`` lists them all. Nothing heavy is imported before a command is chosen, so ``--help`` answers at once.
"""

from __future__ import annotations

import json
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from importlib import import_module

from mlla_seg.errors import InputError, lookup

DESCRIPTION = "Semantic segmentation of medical and aerial images with MLLA encoders."


def _train(argv: Sequence[str]) -> None:
    from mlla_seg.training.cli import run

    run(argv)


def _preview(argv: Sequence[str]) -> None:
    from mlla_seg.training.preview import preview

    preview(argv)


def _tool(path: str) -> Callable[[Sequence[str]], None]:
    """A command that is a typed function, given as ``module:function``; its arguments become options."""

    def run(argv: Sequence[str]) -> None:
        from jsonargparse import auto_cli

        module, name = path.split(":")
        function = getattr(import_module(module), name)
        auto_cli(function, args=list(argv[1:]), as_positional=False, prog=f"cli.py {argv[0]}", exit_on_error=False)

    return run


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
    "phantom": (
        "Make a small CT-like data set in the Synapse layout: --output FOLDER",
        _tool("mlla_seg.data.synthetic:phantom"),
    ),
}


LISTS = ("sizes", "precision")
"""Options of ``benchmark`` that take several words."""


def gather_words(argv: Sequence[str]) -> list[str]:
    """Writes options of several words as the parser takes them.

    ``--ckpt_path a.ckpt b.ckpt``, an ensemble, is ``--ckpt_path a.ckpt --members [b.ckpt]``, and ``--sizes 224 512`` of
    ``benchmark`` is ``--sizes [224,512]``.
    """
    argv = [part for word in argv for part in (word.split("=", 1) if word.startswith("--ckpt_path=") else [word])]
    if "--ckpt_path" in argv:
        first, last = _words_of("--ckpt_path", argv)
        members = argv[first + 1 : last]
        argv[first + 1 : last] = ["--members", json.dumps(members)] if members else []
    for name in LISTS:
        if argv[0] == "benchmark" and f"--{name}" in argv:
            first, last = _words_of(f"--{name}", argv)
            if first < last and not argv[first].startswith("["):
                argv[first:last] = [f"[{','.join(argv[first:last])}]"]
    return argv


def _words_of(option: str, argv: Sequence[str]) -> tuple[int, int]:
    """Where the words after an option begin and end."""
    first = argv.index(option) + 1
    return first, next((i for i in range(first, len(argv)) if argv[i].startswith("-")), len(argv))


def overview() -> str:
    """Every command with one line."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {line}" for name, (line, _) in COMMANDS.items()]
    return "\n".join(
        [
            DESCRIPTION,
            "",
            "usage: python cli.py COMMAND [OPTIONS]",
            "",
            *lines,
            "",
            "Options of one: python cli.py COMMAND --help",
        ]
    )


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
        run(gather_words(argv))
    except InputError as error:
        sys.exit(_complain(str(error)))
    except ArgumentError as error:
        message = str(error.message).replace(f"{argv[0]}.", "--").rstrip(".")  # fit.data.root is --data.root
        sys.exit(_complain(f"{message}. All options: python cli.py {argv[0]} --help"))
    except OSError as error:  # a folder that cannot be written, a full disk
        if error.filename is None:
            raise
        sys.exit(_complain(f"{error.filename}: {error.strerror}. Choose another place, or change its permissions."))
    except KeyboardInterrupt:
        sys.exit(130)
