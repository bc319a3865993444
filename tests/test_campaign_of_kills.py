"""Exports and scoring that are killed at random accesses to their files end, when started again, as if never killed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

import mlla_seg.export
import mlla_seg.training.cli  # noqa: F401 - once, as the runs are forked
from conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))
import kill_parts
import kills

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture
def inputs(tmp_path, checkpoint, phantom_root):
    folder = tmp_path / "inputs"
    folder.mkdir()
    shutil.copy(checkpoint, folder / "best.ckpt")
    (folder / "phantom").symlink_to(phantom_root)
    return folder


@pytest.mark.parametrize(("name", "seeds"), [("test", [1]), ("safetensors", [1, 2])])
def test_a_killed_run_ends_as_one_that_was_not(tmp_path, inputs, name, seeds):
    part, folder = kill_parts.PARTS[name], tmp_path / "work"
    status, count = kills.start(part.command(inputs), folder, None)
    assert status == 0, folder.with_suffix(".log").read_text()
    expected = part.results(folder)
    assert expected
    for seed in seeds:
        outcome, detail = kills.one_kill(part, inputs, folder, expected, count, seed)
        assert outcome in kills.OUTCOMES[:3], f"{outcome}: {detail} {folder.with_suffix('.log').read_text()}"
    if name == "safetensors":  # what is lost is noticed
        changed = {**expected, "folder/model.safetensors": b""}
        assert kills.one_kill(part, inputs, folder, changed, count, 1)[0] in ("half file", "lost")


def test_the_folder_of_results_is_found(tmp_path):
    assert kill_parts.of_test(tmp_path) == kill_parts.of_export(tmp_path) == {}
    Path(tmp_path / ".tmp-x").write_text("x")
    assert kills.leftovers(tmp_path) == [".tmp-x"]
