"""Several processes of one command make the files of one process, also if some of them are killed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from forks import begin, end
from jobs import Pixelwise, spec_of
from layouts import write_scene
from maps import Bright, noise
from maps import spec_of as scene_spec
from mlla_seg import Predictor
from mlla_seg.errors import InputError
from mlla_seg.inference.files import segment_files
from mlla_seg.inference.ranks import ALONE, Ranks
from mlla_seg.inference.records import FOLDER
from mlla_seg.inference.scenes import MapOptions
from mlla_seg.inference.summaries import Summaries


def contents(folder):
    """Files that a user sees, and what is left besides them and their records."""
    rubbish = [path.name for path in folder.glob(".*") if path.name != FOLDER]
    rubbish += [path.name for path in (folder / FOLDER).iterdir() if path.suffix != ".json" or path.name[0] == "."]
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}, rubbish


def wait_for(*paths: Path) -> None:
    for _ in range(3000):
        if all(path.exists() for path in paths):
            return
        time.sleep(0.01)
    raise TimeoutError(paths)


class Meeting(Bright):
    """Waits in its first window until all processes are in theirs; some are killed after so many windows."""

    def __init__(self, folder, rank=0, size=1, lives=10_000):
        super().__init__()
        self.begun = [folder / f"begun{k}" for k in range(size)]
        self.rank, self.lives = rank, lives

    def forward(self, x):
        self.begun[self.rank].touch()
        wait_for(*self.begun)
        self.lives -= 1
        if self.lives < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


class Pixels(Pixelwise):
    """Waits in its first image until both processes are in theirs."""

    def __init__(self, folder, rank):
        super().__init__()
        self.begun, self.rank = [folder / f"begun{k}" for k in range(2)], rank

    def forward(self, x):
        self.begun[self.rank].touch()
        wait_for(*self.begun)
        return super().forward(x)


def predictor_of(network, plain, spec):
    predictor = Predictor(network, spec)
    predictor.identity = Predictor(plain, spec).identity  # the same but for its pace
    return predictor


@pytest.mark.parametrize("killed", [None, 0, 1])
def test_one_scene_is_shared_and_a_killed_process_leaves_its_parts_to_the_other(tmp_path, killed):
    source = write_scene(tmp_path / "scene.tif", noise(1, 300, 80))
    options = MapOptions(stripe=64, polygons="geojson", probabilities=True)

    def run(folder, ranks):
        lives = 3 if ranks.rank == killed else 10_000
        network = Meeting(tmp_path, ranks.rank, ranks.size, lives if ranks.size > 1 else 10_000)
        predictor = predictor_of(network, Bright(), scene_spec(1))
        segment_files(predictor, source, folder / "map.tif", options, summaries=Summaries(True), ranks=ranks)

    run(tmp_path / "one", ALONE)
    children = [begin(lambda k=k: run(tmp_path / "two", Ranks(k, 2))) for k in range(2)]
    assert [end(child) for child in children] == [-9 if k == killed else 0 for k in range(2)]
    if killed == 0:  # which alone writes the table
        (tmp_path / "one/statistics.csv").unlink()
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert contents(tmp_path / "one")[1] == []


def test_a_folder_is_shared_and_the_first_process_speaks_for_all(tmp_path, capfd):
    nib = pytest.importorskip("nibabel")
    (tmp_path / "in").mkdir()
    for k in range(5):
        image = nib.Nifti1Image(noise(9, 8, 3 + k).astype(np.int16), None)  # noted: there is no affine
        image.to_filename(tmp_path / f"in/{k}.nii")
    (tmp_path / "in/2.nii").write_bytes(b"no image")

    def run(folder, ranks):
        predictor = predictor_of(Pixels(tmp_path, ranks.rank), Pixelwise(), spec_of())
        where = tmp_path / "in", tmp_path / folder
        try:
            segment_files(predictor, *where, MapOptions(), None, True, Summaries(statistics=True), ranks)
        except InputError as error:
            (tmp_path / f"{folder}{ranks.rank}.txt").write_text(str(error))

    (tmp_path / "begun1").touch()
    run("one", ALONE)
    one = capfd.readouterr()
    for path in tmp_path.glob("begun*"):
        path.unlink()

    def speaking(k):
        with Ranks(k, 2).speaking():
            run("two", Ranks(k, 2))

    children = [begin(lambda k=k: speaking(k)) for k in range(2)]
    assert [end(child) for child in children] == [0, 0]
    two = capfd.readouterr()
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert two.out.replace("/two", "/one") == one.out
    assert "4 of 5 masks written" in two.out
    said = "note: 4 headers, such as that of "
    assert one.err.count(said) == two.err.count(said) == 1
    assert two.err.count("note: 2 processes share the 5 images.") == 1
    assert (tmp_path / "two0.txt").read_text() == (tmp_path / "one0.txt").read_text()
    assert not (tmp_path / "two1.txt").exists()


def test_masks_of_the_same_job_are_kept_by_several_processes_and_others_replaced(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for name in "ab":
        Image.fromarray(noise(8, 9)).save(tmp_path / f"in/{name}.png")
    predictor = Predictor(Pixelwise(), spec_of())
    segment_files(predictor, tmp_path / "in", tmp_path / "out", MapOptions())
    before = (tmp_path / "out/a.png").stat()
    content = (tmp_path / "out/b.png").read_bytes()
    (tmp_path / "out/b.png").write_bytes(b"changed by hand")
    time.sleep(0.01)
    predictor_of(Pixelwise(), Pixelwise(), spec_of())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlla_seg.inference.kept_masks.STARTED", time.time())
        with pytest.raises(InputError, match="not made by this program, or changed since"):
            segment_files(predictor, tmp_path / "in", tmp_path / "out", MapOptions(), ranks=Ranks(0, 2))
        segment_files(predictor, tmp_path / "in", tmp_path / "out", MapOptions(), overwrite=True, ranks=Ranks(0, 2))
    said = capsys.readouterr()
    assert (tmp_path / "out/a.png").stat() == before
    assert (tmp_path / "out/b.png").read_bytes() == content
    assert "a.png was made before by the same command and kept." in said.err
    assert "1 of 2 masks written" in said.out


def test_processes_without_work_are_noted(tmp_path, capsys):
    Image.fromarray(noise(8, 9)).save(tmp_path / "a.png")
    segment_files(
        Predictor(Pixelwise(), spec_of()), tmp_path / "a.png", tmp_path / "out", MapOptions(), ranks=Ranks(0, 4)
    )
    said = "note: 4 processes share the image; only scenes are divided, so 3 of them have nothing to do."
    assert said in capsys.readouterr().err
