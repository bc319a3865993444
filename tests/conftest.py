"""Fixtures shared by all tests: recorded tensors, real images, a tiny phantom data set and a network trained on it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[1]


def pytest_configure() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection() -> None:
    """Import what takes long, but not in the process of pytest-xdist that hands out tests, which does not collect."""
    import lightning.pytorch  # noqa: F401 - its log handler keeps the stderr of the first import, not that of a test
    import torch

    torch.set_num_threads(1)


def _folder(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value or not Path(value).is_dir():
        pytest.skip(f"{variable} should be the folder that holds them, it is {value or 'not set'}")
    return Path(value)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Tensors recorded from the authors' networks."""
    return _folder("MLLA_SEG_GOLDEN")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real images and masks."""
    return _folder("MLLA_SEG_DATA")


@contextmanager
def shared(factory: pytest.TempPathFactory, name: str) -> Iterator[tuple[Path, bool]]:
    """A folder shared by the processes of pytest-xdist, and whether the caller has to fill it."""
    base = factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / name
    with FileLock(f"{folder}.lock"):
        yield folder, not folder.exists() and folder.mkdir() is None


@pytest.fixture(scope="session")
def phantom_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The phantom data set with all cases of its card, each 4 slices of 32 x 32."""
    from mlla_seg.data.synthetic import write_synapse_layout

    folder = tmp_path_factory.mktemp("phantom")
    write_synapse_layout(folder, range(1, 13), range(13, 17), slices=4, size=32)
    return folder


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Run the command line in this process, in an empty folder: ``cli("fit", "--config", ...)``."""
    monkeypatch.chdir(tmp_path)
    return run_main


def run_main(*arguments: object, program: str = "cli.py") -> None:
    """Run the program's ``main`` with these arguments."""
    from mlla_seg.cli import main

    argv = [str(argument) for argument in arguments]
    saved, sys.argv = sys.argv, [program, *argv]
    try:
        main()
    finally:
        sys.argv = saved


PLAIN = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "logger": False,
}
"""Options of a trainer that writes nothing."""
TINY = [
    "--model.encoder=mlla_test",
    "--model.decoder_depths=[1,1,1]",
    "--data.batch_size=8",
    "--data.num_workers=0",
    "--trainer.enable_model_summary=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.accelerator=cpu",
]
"""Options that make any shipped config small enough for a test."""


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, phantom_root: Path) -> Path:
    """Folder in which a network was trained on the phantom for one epoch; contains ``runs/demo/version_0``."""
    before = Path.cwd()
    with shared(tmp_path_factory, "trained") as (folder, empty):
        if empty:
            os.chdir(folder)
            try:
                config = ROOT / "configs/demo.yaml"
                root = f"--data.root={phantom_root}"
                run_main("fit", "--config", config, root, "--data.crop=[32,32]", "--trainer.max_epochs=2", *TINY)
            finally:
                os.chdir(before)
    return folder


@pytest.fixture(scope="session")
def checkpoint(trained: Path) -> Path:
    """Checkpoint of :func:`trained`."""
    return trained / "runs/demo/version_0/checkpoints/best.ckpt"


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """ONNX file of :func:`checkpoint`, written by the command line."""
    with shared(tmp_path_factory, "exported") as (folder, empty):
        path = folder / "model.onnx"
        if empty:
            run_main("export", "--ckpt_path", checkpoint, "--output", path)
    return path
