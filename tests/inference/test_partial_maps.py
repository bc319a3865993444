"""Parts of a scene: the same whatever the number of processes, gathered exactly, and never those of another job."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from layouts import write_scene
from maps import noise, spec_of
from mlla_seg.inference.partial_maps import MOST_PARTS, Gone, PartialMap, parts_of
from mlla_seg.inference.scenes import MapOptions, scene_job
from mlla_seg.locks import Held

BANDS = [(0, 30), (30, 60), (60, 70)]
LAYOUT = {"shape": (70, 50), "stripes": [(0, 20), (20, 50)], "bands": BANDS}


@pytest.fixture
def job(tmp_path):
    source = write_scene(tmp_path / "scene.tif", noise(1, 70, 50))
    return scene_job({"weights": "a"}, spec_of(1), [source], MapOptions())


def fill(partial, labels, count=None):
    for k, part in list(enumerate(partial.parts))[:count]:
        for top, end in part.bands:
            rows, columns = slice(top, end), slice(*part.columns)
            partial.keep(k, labels[rows, columns], None, np.ones((end - top, columns.stop - columns.start), bool))


@pytest.mark.parametrize("count", [1, 3, MOST_PARTS, MOST_PARTS + 1, 100])
def test_parts_cover_all_bands_of_all_stripes_once(count):
    bands = [(k, k + 1) for k in range(count)]
    parts = parts_of([(0, 5), (5, 9)], bands)
    assert [band for part in parts for band in part.bands] == bands * 2
    assert len(parts) <= 2 * MOST_PARTS
    below = [second.continues(first) for first, second in pairwise(parts)]
    assert below.count(False) == 1


def test_rectangles_are_gathered_from_the_parts_that_they_lie_in(tmp_path, job):
    labels = noise(70, 50) % 5
    partial = PartialMap(tmp_path / "map.tif", job, LAYOUT)
    fill(partial, labels)
    assert partial.unfinished() == []
    for rows, columns in (((0, 70), (0, 50)), ((25, 65), (10, 30)), ((60, 61), (19, 20))):
        np.testing.assert_array_equal(
            partial.labels(slice(*rows), slice(*columns)), labels[slice(*rows), slice(*columns)]
        )


def test_results_of_which_files_are_missing_start_over(tmp_path, job):
    fill(PartialMap(tmp_path / "map.tif", job, LAYOUT), noise(70, 50), 3)
    partial = PartialMap(tmp_path / "map.tif", job, LAYOUT)
    assert partial.finished() == 3
    (partial.folder / "0001.labels.npy").write_bytes(b"")  # as a power cut may leave it
    assert PartialMap(tmp_path / "map.tif", job, LAYOUT).finished() == 0


def test_others_take_part_in_the_same_job_only(tmp_path, job, capsys):
    output = tmp_path / "map.tif"
    with pytest.raises(Gone):  # nobody has begun
        PartialMap(output, job, LAYOUT, joining=True)
    first = PartialMap(output, job, LAYOUT)
    second = PartialMap(output, job, LAYOUT, joining=True)
    other = replace(job, network={"weights": "b"})
    with pytest.raises(Gone):
        PartialMap(output, other, LAYOUT, joining=True)
    with (
        first.taken(2),
        pytest.raises(Held, match=r"^a part of the map is being made by process \d+ on "),
        second.taken(2),
    ):
        pass
    fill(first, noise(70, 50), 2)
    assert second.finished() == 2
    PartialMap(output, other, LAYOUT)
    said = "note: map.tif: an interrupted run had finished 2 row bands, made with another network; starting over."
    assert said in capsys.readouterr().err
    with pytest.raises(Gone), second.taken(2):
        pass
    first.remove()
    with pytest.raises(Gone), second.taken(2):
        pass
    assert not first.folder.exists()
