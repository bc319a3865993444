"""Every writer on a full disk: one line with folder and space, the earlier file kept, nothing else left behind."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import ROOT, TINY, run_main
from dicom_samples import dicom_series
from maps import Bright, make_map, spec_of
from mlla_seg import create_model
from mlla_seg.atomic import renamed_when_done
from mlla_seg.cli import COMMANDS
from mlla_seg.data.formats.polygons import PolygonOptions, write_polygons
from mlla_seg.data.formats.probabilities import write_probabilities
from mlla_seg.data.formats.registry import write_mask
from mlla_seg.data.synthetic import write_synapse_layout
from mlla_seg.disk_space import FullDisk
from mlla_seg.evaluation import html, plots, tables
from mlla_seg.export.programs import write_whole
from mlla_seg.training.curve import Curve
from samples import classes_of, write_array, write_nifti
from small_disk import on_small_disk

NOISE = np.random.default_rng(0)
MASK = NOISE.integers(0, 250, (3, 1024, 1024)).astype(np.uint8)
CLASSES = classes_of(range(250))
TEXT = MASK.tobytes()[: 2**21].hex()
MEGABYTE = "size=1m"
FREE = r"(\d+\.\d MB|\d+ kB|\d+ bytes) are free"
LINE = r"the disk is full: ((more than )?\d+\.\d [GM]B are needed, |only )" + FREE + r" in {folder}\. ?"


@contextmanager
def filled(folder, left=0):
    """Fill a disk but for some bytes."""
    usage = os.statvfs(folder)
    (folder / "rest").write_bytes(bytes(usage.f_bavail * usage.f_frsize - left))
    try:
        yield
    finally:
        (folder / "rest").unlink()


def refused(tmp_path, write, name):
    """Check a writer of ``name`` on a disk of 1 MB that holds an earlier file."""

    def work(folder):
        path = folder / name
        path.write_text("earlier")
        with pytest.raises(FullDisk) as error:
            write(path)
        assert path.read_text() == "earlier"
        return str(error.value), sorted(path.name for path in folder.iterdir())

    disk = tmp_path / "disk"
    message, left = on_small_disk(disk, work, MEGABYTE)
    pattern = re.escape(f"{disk}/{name}: ") + LINE.format(folder=re.escape(str(disk)))
    assert re.match(pattern, message), message
    assert f"The {name} before is kept. Free some space" in message and "\n" not in message
    assert left == [name]


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.seg.nrrd", "a.h5", "a.npz", "a.png"])
def test_masks(tmp_path, name):
    if name.endswith(("nrrd", "mha")):
        pytest.importorskip("SimpleITK")
    like = tmp_path / ("source.nii" if name not in ("a.h5", "a.npz") else f"source{Path(name).suffix}")
    mask = MASK[:1] if like.suffix != ".png" else MASK
    mask = MASK[:1].repeat(2, axis=0) if name == "a.nii" else MASK[:2]
    mask = MASK[:2].reshape(1, 2048, 1024) if name == "a.png" else mask
    if like.suffix == ".nii":
        write_nifti(like, mask.transpose(2, 1, 0))
    else:
        write_array(like, image=mask)
    refused(tmp_path, lambda path: write_mask(path, mask, CLASSES, like), name)


def test_dicom_segmentations(tmp_path):
    pytest.importorskip("highdicom")
    series = dicom_series(tmp_path / "series")
    mask = np.ones((6, 10, 12), np.uint8)

    def write(path):
        with filled(path.parent):
            write_mask(path, mask, classes_of(["background", "liver"]), series)

    refused(tmp_path, write, "a.dcm")


def test_probabilities(tmp_path):
    def write(path):
        with write_probabilities(path, (3, 8, 256, 256), "abc") as array:
            for s in range(8):
                array[:, s] = NOISE.random((3, 256, 256))

    refused(tmp_path, write, "a.h5")


@pytest.mark.parametrize("cog", [False, True])
def test_maps(tmp_path, cog):
    pytest.importorskip("rasterio")
    from mlla_seg.data.formats.geotiff_masks import write_map, write_probability_map

    def write(path, bands):
        with renamed_when_done(path) as temporary:
            if bands == 1:
                write_map(temporary, lambda *part: MASK[0][part], (1024, 1024), CLASSES, {}, cog)
            else:
                write_probability_map(temporary, lambda *part: MASK[(slice(None), *part)], (1024, 1024), "abc", {}, cog)

    for bands in (1, 3):
        refused(tmp_path, partial(write, bands=bands), "a.tif")


@pytest.mark.parametrize("format", ["gpkg", "geojson"])
def test_polygons(tmp_path, format):
    rasterio = pytest.importorskip("rasterio")
    pytest.importorskip("pyogrio")
    from mlla_seg.data.formats.geotiff_masks import write_map

    place = {"crs": rasterio.CRS.from_epsg(32633), "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
    scene, labels = tmp_path / "map.tif", MASK[0][:128, :128] % 4
    write_map(scene, lambda *part: labels[part], labels.shape, classes_of(range(4)), place)

    def write(path):
        with renamed_when_done(path) as temporary:
            write_polygons(temporary, scene, classes_of(range(4)), None, PolygonOptions(format))

    refused(tmp_path, write, f"a.{format}")


def curve(path):
    written = Curve(str(path.parent))
    written.metrics = [{"loss": TEXT}]
    written.save()


def figure(path):
    drawn, axes = plots.new_figure(1, 1, (11, 11))
    axes[0, 0].imshow(MASK[0], interpolation="nearest")
    plots.save_figure(drawn, path)


def network(path):
    with filled(path.parent, left=2**19):
        create_model("mlla_test", in_channels=1, num_classes=2).save_pretrained(path.parent)


WRITERS = {
    "scores.csv": lambda path: tables.write_csv(path, [{"case": TEXT}]),
    "summary.json": lambda path: tables.write_json(path, {"case": TEXT}),
    "report.html": lambda path: html.write_page(path, "title", [TEXT]),
    "overlay.png": figure,
    "metrics.csv": curve,
    "model.safetensors": network,
    "model.ts": lambda path: write_whole(path, partial(torch.save, torch.zeros(10**6))),
}


@pytest.mark.parametrize("name", WRITERS)
def test_tables_pictures_and_networks(tmp_path, name):
    refused(tmp_path, WRITERS[name], name)


def test_phantoms(tmp_path):
    def work(folder):
        with pytest.raises(FullDisk, match=r"case0001_slice\d+\.npz: the disk is full"):
            write_synapse_layout(folder, [1], [], slices=16, size=256)
        assert not list(folder.rglob(".tmp*"))

    on_small_disk(tmp_path / "disk", work, MEGABYTE)


@pytest.fixture
def scene(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    path = tmp_path / "scene.tif"
    place = {"crs": rasterio.CRS.from_epsg(32633), "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
    size = {"count": 1, "height": 1024, "width": 1024}
    with rasterio.open(path, "w", driver="GTiff", dtype="uint8", **size, **place) as file:
        file.write(MASK[0], 1)
    return path


def test_scenes_are_refused_before_the_work(tmp_path, scene):
    def work(folder):
        with pytest.raises(FullDisk) as error:
            make_map(Bright(), spec_of(1), scene, folder / "map.tif", probabilities=True, window=512)
        return str(error.value), list(folder.iterdir())

    message, left = on_small_disk(tmp_path / "disk", work, "size=3m")
    assert re.search(LINE.format(folder=re.escape(f"{tmp_path}/disk")), message)
    assert "map.tif: the disk is full: 4.2 MB are needed" in message and left == []


def test_scenes_whose_file_finds_no_room_continue(tmp_path, scene):
    def work(folder):
        continues = r"map\.tif: the disk is full.* it only has to write the files\."
        with filled(folder, left=2**20 + 2**16), pytest.raises(FullDisk, match=continues):
            make_map(Bright(), spec_of(1), scene, folder / "map.tif", window=512)
        assert not (folder / "map.tif").exists()
        make_map(Bright(), spec_of(1), scene, folder / "map.tif", window=512)
        return [path.name for path in folder.iterdir()]

    assert on_small_disk(tmp_path / "disk", work, "size=3m") == ["map.tif"]


def test_predict_ends_with_the_first_and_fit_names_the_store(tmp_path, checkpoint, phantom_root, capfd):
    images = tmp_path / "images"
    images.mkdir()
    for k in range(3):
        write_array(images / f"{k}.h5", image=np.zeros((4, 32, 32), np.float32))

    def work(folder):
        statuses = []
        options = ["--config", ROOT / "configs/demo.yaml", f"--data.root={phantom_root}", "--data.crop=[32,32]", *TINY]
        for left, command in (
            (4096, ["predict", "--ckpt_path", checkpoint, "--input", images, "--output", folder / "masks"]),
            (2**17, ["fit", *options, f"--data.cache_dir={folder}/cache"]),
        ):
            with filled(folder, left), pytest.raises(SystemExit) as error:
                run_main(*command)
            statuses.append(error.value.code)
        return statuses, [path.name for path in folder.rglob("*") if path.name.startswith(".tmp")]

    assert on_small_disk(tmp_path / "disk", work, MEGABYTE) == ([2, 2], [])
    first, second = (line for line in capfd.readouterr().err.splitlines() if line.startswith("error: "))
    assert re.search(r"/disk/masks/.*0\.h5.*: the disk is full: .* Written so far: 0 of 3 masks\.", first)
    assert "/disk/cache/phantom-" in second and ": the disk is full: " in second


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("No space left on device")])
def test_what_nobody_has_told_is_one_line_too(cli, capsys, monkeypatch, error):
    def fail(_):
        raise error

    monkeypatch.setitem(COMMANDS, "configs", ("", fail))
    with pytest.raises(SystemExit) as stop:
        cli("configs")
    assert stop.value.code == 2
    assert re.match("error: the disk is full: only .* are free in .*Free some space", capsys.readouterr().err)
