"""The next image is read and the last mask is written while the network runs; messages and files stay as they were."""

from __future__ import annotations

from collections import defaultdict
from threading import Event

import pytest
from PIL import Image

from jobs import Pixelwise, spec_of
from maps import noise
from mlla_seg import Predictor
from mlla_seg.errors import InputError
from mlla_seg.inference.files import segment_files
from mlla_seg.inference.records import FOLDER
from mlla_seg.inference.scenes import MapOptions

NAMES = ("a", "b", "c", "d")


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "in").mkdir()
    for k, name in enumerate(NAMES):
        Image.fromarray(noise(8, 9) + k).save(tmp_path / f"in/{name}.png")
    return tmp_path / "in"


class Watched(Predictor):
    """Does something before an image is read, segmented or written."""

    def __init__(self, **before):
        super().__init__(Pixelwise(), spec_of())
        self.before = before

    def _call(self, what, files):
        self.before.get(what, lambda name: None)(files[0].stem)

    def read(self, files):
        self._call("read", files)
        return super().read(files)

    def segment(self, picture, files, *args):
        self._call("segment", files)
        return super().segment(picture, files, *args)

    def write(self, labels, gaps, header, files, output):
        self._call("write", files)
        assert header.array.size == 0
        super().write(labels, gaps, header, files, output)


def test_one_image_ahead_is_read_and_one_mask_behind_is_written_meanwhile(photos, tmp_path):
    seen = defaultdict(Event)

    def segment(name):
        seen["segment", name].set()
        for later in NAMES[NAMES.index(name) + 1 :][:1]:
            assert seen["read", later].wait(20)  # before this one is finished
        assert not any(seen["read", later].is_set() for later in NAMES[NAMES.index(name) + 2 :])
        assert all(seen["written", earlier].is_set() for earlier in NAMES[: max(0, NAMES.index(name) - 1)])

    def write(name):
        for later in NAMES[NAMES.index(name) + 1 :][:1]:
            assert seen["segment", later].wait(20)
        seen["written", name].set()

    watched = Watched(read=lambda name: seen["read", name].set(), segment=segment, write=write)
    segment_files(watched, photos, tmp_path / "out", MapOptions())
    segment_files(Predictor(Pixelwise(), spec_of()), photos, tmp_path / "alone", MapOptions())
    for name in NAMES:
        assert (tmp_path / f"out/{name}.png").read_bytes() == (tmp_path / f"alone/{name}.png").read_bytes()


def test_errors_of_reader_network_and_writer_are_told_in_the_order_of_the_images(photos, tmp_path, capsys):
    def failing(at):
        def call(name):
            if name == at:
                raise InputError(f"{name} is wrong.")

        return call

    watched = Watched(write=failing("a"), segment=failing("b"), read=failing("c"))
    with pytest.raises(InputError) as error:
        segment_files(watched, photos, tmp_path / "out", MapOptions())
    assert str(error.value) == "3 of 4 images have no mask:\na is wrong.\nb is wrong.\nc is wrong."
    assert "1 of 4 masks written" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").glob("[!.]*")] == ["d.png"]


def test_an_interrupt_leaves_finished_masks_and_no_locks(photos, tmp_path, capsys):
    def interrupt(name):
        if name == "b":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment_files(Watched(segment=interrupt), photos, tmp_path / "out", MapOptions())
    assert [path.name for path in (tmp_path / "out").glob("[!.]*")] == ["a.png"]
    assert [path.name for path in (tmp_path / "out" / FOLDER).iterdir()] == ["a.png.json"]
    segment_files(Predictor(Pixelwise(), spec_of()), photos, tmp_path / "out", MapOptions(), overwrite=False)
    assert "a.png was made before by the same command and kept" in capsys.readouterr().err


def test_an_image_that_finds_no_memory_beside_another_is_read_at_its_turn(photos, tmp_path):
    reads = []

    def read(name):
        reads.append(name)
        if reads.count("b") == 1 and name == "b":
            raise MemoryError("cannot allocate")

    segment_files(Watched(read=read), photos, tmp_path / "out", MapOptions())
    assert sorted(reads) == ["a", "b", "b", "c", "d"]
    assert len(list((tmp_path / "out").glob("[!.]*"))) == 4
