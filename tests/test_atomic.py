"""Replacing of files: whole or not at all, and leftovers of killed processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from conftest import ROOT
from mlla_seg import atomic


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_with_its_folder(tmp_path):
    path = tmp_path / "new/a.nii.gz"
    with atomic.renamed_when_done(path) as temporary:
        assert temporary.name.endswith(".a.nii.gz") and temporary.parent == path.parent
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole" and names(path.parent) == ["a.nii.gz"]


def test_an_error_keeps_the_earlier_file_and_leaves_nothing(tmp_path):
    path = tmp_path / "a.gpkg"
    path.write_text("earlier")

    def fail():
        with atomic.renamed_when_done(path) as temporary:
            temporary.write_text("half")
            temporary.with_name(temporary.name + "-journal").write_text("of the library")
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fail()
    assert path.read_text() == "earlier" and names(tmp_path) == ["a.gpkg"]


def test_errors_name_the_file_that_the_user_knows(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(IsADirectoryError) as error:
        atomic.replace_content(tmp_path / "a.png", b"x")
    assert error.value.filename == str(tmp_path / "a.png")


def test_long_names(tmp_path):
    path = tmp_path / ("ä" * 120 + ".json")
    atomic.replace_content(path, b"x")
    assert path.read_bytes() == b"x"


def test_threads_replace_one_file_without_mixing(tmp_path):
    with atomic.renamed_when_done(tmp_path / "a") as one, atomic.renamed_when_done(tmp_path / "a") as two:
        assert one != two
        one.write_text("1")
        two.write_text("2")
    assert (tmp_path / "a").read_text() == "1" and names(tmp_path) == ["a"]


def test_files_move_out_of_an_unfinished_folder(tmp_path):
    with atomic.unfinished_folder(tmp_path / "model") as folder:
        (folder / "model").mkdir()
        (folder / "model/weights").write_text("w")
        (folder / "report").write_text("r")
        atomic.replace({folder / "report": tmp_path / "report", folder / "model": tmp_path / "model"})
    assert names(tmp_path) == ["model", "report"]


def test_an_unfinished_folder_is_removed_on_an_error(tmp_path):
    def fail():
        with atomic.unfinished_folder(tmp_path / "model") as folder:
            (folder / "half").write_text("h")
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fail()
    assert names(tmp_path) == []


def test_leftovers_of_killed_processes_are_removed_and_no_others(tmp_path):
    code = "import os, sys; from mlla_seg.atomic import *; from pathlib import Path; folder = Path(sys.argv[1])\n"
    code += "with renamed_when_done(folder / 'a') as a, unfinished_folder(folder / 'b') as b: a.touch(); os._exit(9)"
    subprocess.run([sys.executable, "-c", code, tmp_path], env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert len(names(tmp_path)) == 2
    alive = atomic.temporary_for(tmp_path / "a")
    foreign = [tmp_path / f".tmp-{k:08x}-1-abcdef.a" for k in range(2)]  # of other hosts
    kept = [alive, foreign[0], tmp_path / ".tmp-mine", tmp_path / ".123.a"]
    for path in [*kept, foreign[1]]:
        path.touch()
    os.utime(foreign[1], (time.time() - 2 * atomic.FOREIGN,) * 2)
    assert atomic.remove_leftovers(tmp_path) == 3
    assert names(tmp_path) == sorted(path.name for path in kept)
    assert atomic.remove_leftovers(tmp_path / "absent") == 0
