"""Masks of one job are never mixed with, or mistaken for, those of another."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jobs import Pixelwise, spec_of
from layouts import write_scene
from maps import Bright, noise
from maps import spec_of as scene_spec
from mlla_seg import Predictor
from mlla_seg.errors import InputError
from mlla_seg.inference.files import segment_files
from mlla_seg.inference.records import FOLDER
from mlla_seg.inference.scenes import MapOptions
from mlla_seg.models.digest import network_digest
from mlla_seg.models.ensemble import Ensemble, Flips


class Other(Bright):
    """Finds other classes than :class:`Bright`."""

    def __init__(self):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.tensor(60.0))

    def forward(self, x):
        return super().forward(x + self.shift)


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "in").mkdir()
    for k, name in enumerate(("a.png", "b.png", "c.png")):
        Image.fromarray(noise(8, 9) + k).save(tmp_path / "in" / name)
    return tmp_path / "in"


@pytest.fixture
def scene(tmp_path):
    return write_scene(tmp_path / "scene.tif", noise(3, 96, 96))


def small(weight=0.0):
    network = Pixelwise()
    with torch.no_grad():
        network.conv.bias += weight * torch.arange(3)
    return Predictor(network, spec_of())


def state(folder):
    """Content and time of every mask."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.glob("[!.]*")}


def test_finished_masks_are_kept_and_counted(photos, tmp_path, capsys):
    out = tmp_path / "out"
    segment_files(small(), photos, out, MapOptions())
    before = state(out)
    (out / "b.png").unlink()
    segment_files(small(), photos, out, MapOptions(), overwrite=False)
    said = capsys.readouterr()
    assert re.search(r"note: 2 masks, such as .*a\.png, were made before by the same command and kept\.", said.err)
    assert "1 of 3 masks written" in said.out
    after = state(out)
    assert after["b.png"][0] == before["b.png"][0]
    assert (after["a.png"], after["c.png"]) == (before["a.png"], before["c.png"])


def test_masks_of_another_network_are_kept_named_and_an_error(photos, tmp_path):
    out = tmp_path / "out"
    segment_files(small(), photos, out, MapOptions())
    before = state(out)
    with pytest.raises(InputError, match=r"^3 masks, such as .*a\.png, were made otherwise, with another network, and"):
        segment_files(small(1), photos, out, MapOptions(), overwrite=False)
    assert state(out) == before
    segment_files(small(1), photos, out, MapOptions())
    assert state(out)["a.png"][0] != before["a.png"][0]


def test_masks_of_changed_images_are_known_whatever_their_time(photos, tmp_path):
    out = tmp_path / "out"
    segment_files(small(), photos, out, MapOptions())
    before = (photos / "b.png").stat()
    shutil.copyfile(photos / "a.png", photos / "b.png")
    os.utime(photos / "b.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(InputError, match=r"b\.png was made otherwise, with images that have changed since, and kept"):
        segment_files(small(), photos, out, MapOptions(), overwrite=False)


def test_masks_without_a_record_or_changed_by_hand_are_kept_with_a_note(photos, tmp_path, capsys):
    out = tmp_path / "out"
    segment_files(small(), photos, out, MapOptions())
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(out / "a.png")
    (out / FOLDER / "b.png.json").unlink()
    (out / FOLDER / "c.png.json").write_text('{"job": ')
    before = state(out)
    segment_files(small(1), photos, out, MapOptions(), overwrite=False)
    assert state(out) == before
    assert re.search(r"note: 3 masks, .* were kept without knowing the network", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"overlap": 0.25}, "--overlap 0.5 instead of 0.25"),
        ({"window": 80}, "--window none instead of 80"),
        ({"blend": "cosine"}, "--blend gaussian instead of cosine"),
        ({"cog": True}, "--cog false instead of true"),
    ],
)
def test_options_that_change_a_map_are_named(scene, tmp_path, changes, reason):
    predictor = Predictor(Bright(), scene_spec(3))
    out = tmp_path / "map.tif"
    segment_files(predictor, scene, out, MapOptions())
    with pytest.raises(InputError, match=f"otherwise, with {reason}, and kept. Use --overwrite true"):
        segment_files(predictor, scene, out, MapOptions(**changes), overwrite=False)
    segment_files(predictor, scene, out, MapOptions(batch_size=1, stripe=70), overwrite=False)  # only memory


def test_files_beside_a_map_are_made_if_they_are_missing_and_named_if_they_are_others(scene, tmp_path, capsys):
    predictor = Predictor(Bright(), scene_spec(3))
    out = tmp_path / "map.tif"
    segment_files(predictor, scene, out, MapOptions())
    segment_files(predictor, scene, out, MapOptions(polygons="geojson", probabilities=True), overwrite=False)
    assert (tmp_path / "map.geojson").is_file()
    assert (tmp_path / "map.probabilities.tif").is_file()
    segment_files(predictor, scene, out, MapOptions(), overwrite=False)
    with pytest.raises(InputError, match=r"--min_area_m2 none instead of 9"):
        segment_files(predictor, scene, out, MapOptions(polygons="geojson", min_area_m2=9), overwrite=False)
    segment_files(Predictor(Other(), scene_spec(3)), scene, out, MapOptions())  # leaves the probabilities
    said = capsys.readouterr().err
    assert re.search(r"note: 2 files, such as .*map\.probabilities\.tif, were left beside new masks, but", said)
    segment_files(Predictor(Other(), scene_spec(3)), scene, out, MapOptions(probabilities=True), overwrite=False)
    segment_files(Predictor(Other(), scene_spec(3)), scene, tmp_path / "new.tif", MapOptions(probabilities=True))
    for name in ("tif", "probabilities.tif"):
        assert (tmp_path / f"map.{name}").read_bytes() == (tmp_path / f"new.{name}").read_bytes()


def test_another_version_of_the_program_is_another_job(photos, tmp_path):
    segment_files(small(), photos / "a.png", tmp_path / "a.png", MapOptions())
    record = tmp_path / FOLDER / "a.png.json"
    content = json.loads(record.read_text())
    content["job"]["mlla_seg"] = "0.0.1"
    record.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"otherwise, with mlla_seg 0\.0\.1 instead of"):
        segment_files(small(), photos / "a.png", tmp_path / "a.png", MapOptions(), overwrite=False)


def test_a_source_that_changes_while_it_is_read_gives_no_mask(photos, scene, tmp_path):
    class Careless(Pixelwise):
        def forward(self, x):
            with Path(place).open("ab") as file:
                file.write(b"more")
            return super().forward(x)

    place = photos / "b.png"
    with pytest.raises(InputError, match=r"b\.png: was changed while it was segmented"):
        segment_files(Predictor(Careless(), spec_of()), place, tmp_path / "out", MapOptions())
    place = scene
    with pytest.raises(InputError, match=r"scene\.tif: was changed while it was segmented"):
        segment_files(Predictor(Careless(3), scene_spec(3)), place, tmp_path / "out", MapOptions())
    assert not list((tmp_path / "out").glob("[!.]*"))


def test_a_failed_image_leaves_the_record_of_the_earlier_mask(photos, tmp_path):
    out = tmp_path / "out"
    segment_files(small(), photos, out, MapOptions())
    content = (photos / "a.png").read_bytes()
    (photos / "a.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="1 of 3 images have no mask"):
        segment_files(small(), photos, out, MapOptions())
    (photos / "a.png").write_bytes(content)
    segment_files(small(), photos, out, MapOptions(), overwrite=False)


def test_a_network_is_known_by_all_it_computes_with():
    torch.manual_seed(0)
    networks = [Pixelwise().eval() for _ in range(3)]
    with torch.no_grad():
        networks[1].conv.weight[0, 0, 0, 0] += 1e-6
    networks[2].conv.padding_mode = "circular"
    first, *others = map(network_digest, networks)
    assert first == network_digest(Pixelwise().double().float().train())
    pairs = [Ensemble(networks[:2]), Ensemble(networks[1:]), Flips(networks[0], ["rows"])]
    assert len({first, *others, *map(network_digest, pairs)}) == 6
    identity = Predictor(Flips(networks[0], ["rows"]), spec_of()).identity
    assert identity == {**Predictor(networks[0], spec_of()).identity, "tta": True}


def test_a_mask_that_another_process_made_meanwhile_is_adopted_or_a_conflict(photos, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"

    class Beside(Pixelwise):
        """While the first image is segmented and the second is read, another process makes the masks of the others."""

        def forward(self, x):
            if not (out / "d.png").exists():
                with monkeypatch.context() as context:
                    context.setattr(time, "time", lambda now=time.time: now() + 1)
                    for name in ("c.png", "d.png"):
                        segment_files(other, photos / name, out, MapOptions())
            return super().forward(x)

    shutil.copy(photos / "b.png", photos / "d.png")
    mine, other = Predictor(Beside(), spec_of()), small()
    mine.identity = other.identity  # the same network but for its delay
    segment_files(mine, photos, out, MapOptions())
    said = capsys.readouterr()
    assert re.search(r"note: 2 masks, such as .*c\.png, were made by another process meanwhile\.", said.err)
    assert "2 of 4 masks written" in said.out
    shutil.rmtree(out)
    other = small(1)
    with pytest.raises(InputError, match=r"^2 masks, .* were made by another process meanwhile, with another network"):
        segment_files(mine, photos, out, MapOptions())
    segment_files(other, photos, tmp_path / "expected", MapOptions())
    assert (out / "c.png").read_bytes() == (tmp_path / "expected/c.png").read_bytes()
