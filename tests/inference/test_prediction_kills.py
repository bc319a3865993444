"""Predictions that are killed at any point, or share a folder, end as one that was not; see docs/reliability.md."""

from __future__ import annotations

import re
import time
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from forks import begin, end, kill_at
from jobs import Pixelwise, spec_of
from layouts import write_scene
from maps import Bright, noise
from maps import spec_of as scene_spec
from mlla_seg import Predictor
from mlla_seg.inference.files import segment_files
from mlla_seg.inference.records import FOLDER
from mlla_seg.inference.scenes import MapOptions

nib = pytest.importorskip("nibabel")
FILES = {"polygons": "geojson", "probabilities": True}


class Dark(Bright):
    """Finds other classes than :class:`Bright`."""

    def forward(self, x):
        return super().forward(x + 50)


def contents(folder):
    """Files that a user sees, and what is left besides them and their records."""
    rubbish = [path.name for path in folder.glob(".*") if path.name != FOLDER]
    rubbish += [path.name for path in (folder / FOLDER).iterdir() if path.suffix != ".json" or path.name[0] == "."]
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}, rubbish


def killed_everywhere(tmp_path, run, again, stride=1):
    """Yield what a folder contains after a run that was killed at one of its steps, and another run."""
    for step in count(0, stride):
        folder = tmp_path / f"out{step}"

        def killed(folder=folder, step=step):
            kill_at(step)
            run(folder)

        status = end(begin(killed))
        assert status in (0, -9)
        again(folder)
        yield contents(folder)
        if status == 0:
            return


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return write_scene(tmp_path_factory.mktemp("scene") / "scene.tif", noise(1, 80, 100))


def mapping(network, scene, overwrite=True, **options):
    predictor = Predictor(network, scene_spec(1))
    chosen = MapOptions(stripe=64, **options)
    return lambda folder: segment_files(predictor, scene, folder / "map.tif", chosen, overwrite=overwrite)


ALL = pytest.param(1, marks=pytest.mark.slow)


@pytest.mark.parametrize("stride", [8, ALL])
def test_a_killed_scene_goes_on_and_ends_with_the_same_bytes(scene, tmp_path, stride):
    mapping(Bright(), scene, **FILES)(tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    assert len(whole[0]) == 3
    assert whole[1] == []
    run, again = mapping(Bright(), scene, **FILES), mapping(Bright(), scene, overwrite=False, **FILES)
    found = list(killed_everywhere(tmp_path, run, again, stride))
    assert len(found) > 24 // stride
    assert all(files == whole for files in found)


@pytest.mark.parametrize("stride", [5, ALL])
def test_a_killed_scene_that_another_network_takes_over_is_the_map_of_that_network(scene, tmp_path, capsys, stride):
    mapping(Dark(), scene)(tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    found = list(killed_everywhere(tmp_path, mapping(Bright(), scene), mapping(Dark(), scene), stride))
    assert len(found) > 16 // stride
    assert all(files == whole for files in found)
    said = capsys.readouterr().err
    finished = r"map\.tif: an interrupted run had finished \d+ row bands?, made with another network; starting over\."
    assert re.search(finished, said)


@pytest.mark.parametrize("weight", [0, 5])
def test_killed_folders_of_volumes_end_with_the_same_bytes(tmp_path, weight):
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        nib.Nifti1Image(noise(9, 8, 3).astype(np.int16), np.eye(4)).to_filename(tmp_path / f"in/{name}.nii")
    later = Pixelwise()
    with torch.no_grad():
        later.conv.bias += weight * torch.arange(3)

    def segmenting(network, overwrite):
        predictor = Predictor(network, spec_of())
        chosen = MapOptions(probabilities=True)
        return lambda folder: segment_files(predictor, tmp_path / "in", folder, chosen, overwrite=overwrite)

    segmenting(later, True)(tmp_path / "whole")
    whole, rubbish = contents(tmp_path / "whole")
    assert rubbish == []
    again = segmenting(later, weight != 0)
    for files, rubbish in killed_everywhere(tmp_path, segmenting(Pixelwise(), True), again):
        assert files.keys() == whole.keys()
        assert all(files[name] == whole[name] for name in whole if name.endswith(".nii"))  # HDF5 stores times
        assert rubbish == []


def test_two_processes_in_one_folder_share_the_work(tmp_path, capsys, monkeypatch):
    (tmp_path / "in").mkdir()
    for name in ("a", "b", "c"):
        write_scene(tmp_path / f"in/{name}.tif", noise(1, 70, 70))
    out, begun, rest = tmp_path / "out", tmp_path / "begun", tmp_path / "rest"

    class Slow(Bright):
        def forward(self, x):
            begun.touch()
            wait_for(rest)
            return super().forward(x)

    notes = []

    def listening(text):
        notes.append(text)
        rest.touch()

    slow, quick = (Predictor(network(), scene_spec(1)) for network in (Slow, Bright))
    slow.identity = quick.identity  # the same network but for its pace
    first = begin(lambda: segment_files(slow, tmp_path / "in", out, MapOptions()))
    wait_for(begun)
    monkeypatch.setattr("mlla_seg.locks.note", listening)
    segment_files(quick, tmp_path / "in", out, MapOptions())
    assert end(first) == 0
    said = capsys.readouterr()
    assert [text.split(" on ")[0] for text in notes] == [f"note: {out / 'a.tif'}: process {first}"]
    assert "note: " + str(out / "a.tif") + " was made by another process meanwhile." in said.err
    assert "2 of 3 masks written" in said.out
    segment_files(Predictor(Bright(), scene_spec(1)), tmp_path / "in", tmp_path / "alone", MapOptions())
    assert contents(out) == contents(tmp_path / "alone")


def wait_for(path: Path) -> None:
    for _ in range(2000):
        if path.exists():
            return
        time.sleep(0.01)
    raise TimeoutError(path)
