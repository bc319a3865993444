"""Prediction from a checkpoint alone: masks keep the source's format and geometry, bad input is refused by name."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
import rasterio
import torch
from PIL import Image

from dicom_samples import dicom_series
from layouts import PLACE, write_scene
from mlla_seg import Predictor
from mlla_seg.data.formats.polygons import write_polygons
from mlla_seg.data.formats.registry import read_mask
from mlla_seg.data.synthetic import phantom_volume


@pytest.fixture
def volume():
    image, _ = phantom_volume(slices=5, size=37, seed=1)
    return image  # (S, H, W) in HU


def test_predictor_takes_arrays_in_raw_units(checkpoint, volume):
    predictor = Predictor.from_checkpoint(checkpoint)
    labels = predictor(volume[:, None])
    assert labels.shape == volume.shape
    assert labels.dtype == np.uint8
    assert labels.max() < 9
    np.testing.assert_array_equal(predictor(volume[2:3]), labels[2])
    np.testing.assert_array_equal(predictor(volume[:, None], batch_size=2), labels)


def test_checkpoint_knows_its_data(checkpoint):
    spec = Predictor.from_checkpoint(checkpoint).spec
    assert spec.class_names[5] == "liver"
    assert spec.classes[5].colour == (150, 80, 60)
    assert spec.channels == ("CT in HU",)
    assert spec.normalisation.window == (-125, 275)


def test_nifti_comes_back_in_its_own_geometry(cli, checkpoint, volume, tmp_path):
    affine = np.array([[0, -0.8, 0.1, 10], [0.7, 0, 0, -20], [0, 0.1, 5, 30], [0, 0, 0, 1.0]])
    image = nib.Nifti1Image(np.moveaxis(volume, 0, 2).astype(np.int16), affine)
    image.to_filename(tmp_path / "ct.nii.gz")
    cli("predict", "--ckpt_path", checkpoint, "--input", tmp_path / "ct.nii.gz", "--output", tmp_path / "masks")
    mask = nib.load(tmp_path / "masks/ct.nii.gz")
    assert mask.shape == image.shape
    assert mask.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(mask.affine, nib.load(tmp_path / "ct.nii.gz").affine)


def test_same_patient_in_another_orientation_gives_the_same_mask(cli, checkpoint, volume, tmp_path):
    original = nib.Nifti1Image(np.moveaxis(volume, 0, 2), np.diag([-1, -1, 3, 1.0]))
    turned = original.as_reoriented(nib.orientations.axcodes2ornt("SAL"))
    (tmp_path / "in").mkdir()
    original.to_filename(tmp_path / "in/a.nii.gz")
    turned.to_filename(tmp_path / "in/b.nii.gz")
    cli("predict", "--ckpt_path", checkpoint, "--input", tmp_path / "in", "--output", tmp_path / "out")
    a, b = (nib.as_closest_canonical(nib.load(tmp_path / f"out/{name}.nii.gz")) for name in "ab")
    np.testing.assert_array_equal(np.asarray(a.dataobj), np.asarray(b.dataobj))
    np.testing.assert_allclose(a.affine, b.affine)


def test_array_files_are_read_in_the_units_of_the_card(cli, checkpoint, phantom_root, tmp_path):
    source = phantom_root / "test_vol_h5/case0013.npy.h5"
    cli("predict", "--ckpt_path", checkpoint, "--input", source, "--output", tmp_path / "masks")
    with h5py.File(source) as file, h5py.File(tmp_path / "masks/case0013.npy.h5") as written:
        hu = file["image"][()] * 400 - 125
        np.testing.assert_array_equal(written["label"][()], Predictor.from_checkpoint(checkpoint)(hu[:, None]))


def test_photo_gives_an_indexed_png(cli, checkpoint, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 51), dtype=np.uint8)).save(tmp_path / "scan.jpg")
    cli("predict", "--ckpt_path", checkpoint, "--input", tmp_path / "scan.jpg", "--output", tmp_path / "masks")
    with Image.open(tmp_path / "masks/scan.png") as mask:
        assert mask.mode == "P"
        assert mask.size == (51, 40)
        assert mask.getpalette()[15:18] == [150, 80, 60]  # liver


def test_existing_masks_are_kept_when_asked(cli, capsys, checkpoint, phantom_root, tmp_path):
    target = tmp_path / "masks/case0013.npy.h5"
    target.parent.mkdir()
    target.write_text("kept")
    source = phantom_root / "test_vol_h5"
    cli("predict", "--ckpt_path", checkpoint, "--input", source, "--output", target.parent, "--overwrite=false")
    assert target.read_text() == "kept"
    assert len(list(target.parent.glob("[!.]*"))) == 4
    assert "case0013.npy.h5 was kept without knowing the network" in capsys.readouterr().err


def refused(capsys, cli, *arguments):
    with pytest.raises(SystemExit) as stop:
        cli("predict", *arguments)
    assert stop.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: ")
    return message


def test_bad_checkpoints_are_refused(capsys, cli, checkpoint, tmp_path):
    rest = ("--input", tmp_path, "--output", tmp_path / "masks")
    assert "no such checkpoint" in refused(capsys, cli, "--ckpt_path", "absent.ckpt", *rest)
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    assert "is not a checkpoint of mlla_seg" in refused(capsys, cli, "--ckpt_path", tmp_path / "other.ckpt", *rest)
    (tmp_path / "cut.ckpt").write_bytes(checkpoint.read_bytes()[:5000])
    assert "cut.ckpt: cannot be read" in refused(capsys, cli, "--ckpt_path", tmp_path / "cut.ckpt", *rest)


def test_a_run_or_a_word_for_a_checkpoint_is_answered_with_the_file(capsys, cli, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = Path("runs/mine/version_0/checkpoints/best.ckpt")
    file.parent.mkdir(parents=True)
    file.write_bytes(checkpoint.read_bytes())
    for given in ("best", "runs/mine/version_0", "runs/mine"):
        assert f"Did you mean {file}?" in refused(capsys, cli, "--ckpt_path", given, "--input", "a", "--output", "b")
    assert "Give the path of a .ckpt" in refused(capsys, cli, "--ckpt_path", "last", "--input", "a", "--output", "b")


def test_a_bad_file_in_a_folder_is_named_and_the_others_have_masks(capsys, cli, checkpoint, phantom_root, tmp_path):
    shutil.copytree(phantom_root / "test_vol_h5", tmp_path / "in")
    (tmp_path / "in/case0014.npy.h5").write_bytes(b"cut")
    with pytest.raises(SystemExit) as stop:
        cli("predict", "--ckpt_path", checkpoint, "--input", tmp_path / "in", "--output", tmp_path / "out")
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert "error: 1 of 4 images have no mask:" in said.err
    assert "case0014.npy.h5: cannot be read" in said.err
    assert "3 of 4 masks written" in said.out
    assert sorted(path.name[:8] for path in (tmp_path / "out").glob("[!.]*")) == ["case0013", "case0015", "case0016"]


def test_bad_images_are_refused(capsys, cli, checkpoint, phantom_root, tmp_path):
    def run(source, output="masks"):
        return refused(
            capsys, cli, "--ckpt_path", checkpoint, "--input", tmp_path / source, "--output", tmp_path / output
        )

    Image.new("RGB", (32, 32)).save(tmp_path / "colour.png")
    assert "colour.png: has 3 channels; this network was trained on 1 (CT in HU)" in run("colour.png")
    assert "no such file or folder" in run("absent")
    (tmp_path / "empty").mkdir()
    assert "contains no image" in run("empty")
    (tmp_path / "text.nii.gz").write_text("hello")
    assert "text.nii.gz: cannot be read as .nii.gz" in run("text.nii.gz")
    (tmp_path / "notes.md").write_text("hello")
    assert "notes.md: unknown format .md" in run("notes.md")
    (tmp_path / "list.txt").write_text("hello.png\n")
    assert re.search(r"list\.txt: lists .*hello\.png, which does not exist", run("list.txt"))
    (tmp_path / "list.txt").write_text("x" * 5000)  # longer than a system allows
    assert re.search(r"list\.txt: lists .*x, which does not exist", run("list.txt"))
    (tmp_path / "list.txt").write_text("\n")
    assert "list.txt: lists no image" in run("list.txt")
    shutil.copytree(phantom_root / "test_vol_h5", tmp_path / "here")
    assert "here: is the folder of the images, where masks would overwrite" in run("here", output="here")
    assert not list(tmp_path.glob("masks/.*"))


def test_probabilities_are_written_beside_the_mask(cli, checkpoint, phantom_root):
    source = phantom_root / "test_vol_h5/case0013.npy.h5"
    cli(
        "predict",
        "--ckpt_path",
        checkpoint,
        "--input",
        source,
        "--output=masks",
        "--probabilities=true",
        "--batch_size=3",
    )
    with h5py.File("masks/case0013.probabilities.h5") as file:
        array = file["probabilities"]
        assert array.shape == (9, 4, 32, 32)
        assert array.dtype == np.float16
        assert list(array.attrs["classes"])[:2] == ["background", "aorta"]
        probabilities = array[()].astype(np.float32)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=5e-3)
    labels = read_mask(Path("masks/case0013.npy.h5")).array[:, 0]
    chosen = np.take_along_axis(probabilities, labels[None].astype(int), axis=0)[0]
    assert (chosen >= probabilities.max(axis=0) - 1e-3).all()
    assert [path.name for path in Path("masks").iterdir() if path.name.startswith(".")] == [".mlla_seg"]


def test_probabilities_say_where_they_lie(cli, checkpoint, tmp_path):
    affine = np.array([[0.0, 0, 5, -3], [-0.7, 0, 0, 9], [0, 0.8, 0, 2], [0, 0, 0, 1]])
    volume = np.random.default_rng(0).normal(0, 300, (12, 10, 4)).astype(np.float32)
    nib.save(nib.Nifti1Image(volume, affine), tmp_path / "ct.nii.gz")
    cli("predict", "--ckpt_path", checkpoint, "--input", tmp_path / "ct.nii.gz", "--output=m", "--probabilities=true")
    mask = nib.load("m/ct.nii.gz")
    with h5py.File("m/ct.probabilities.h5") as file:
        labels = file["probabilities"][()].argmax(axis=0)
        place = file["probabilities"].attrs["affine"]
    for index in ((0, 0, 0), (2, 3, 1), tuple(n - 1 for n in labels.shape)):
        voxel = np.linalg.inv(mask.affine) @ place @ (*index, 1)
        assert labels[index] == np.asarray(mask.dataobj)[tuple(np.rint(voxel[:3]).astype(int))]


def test_a_dicom_folder_and_its_patient_folder_are_predicted(cli, capsys, checkpoint, tmp_path):
    for name in ("first", "second"):
        dicom_series(tmp_path / "patient" / name)
    rest = ("--ckpt_path", checkpoint, "--output=masks")
    cli("predict", *rest, "--input", tmp_path / "patient/first", "--format=dicom-seg")
    assert [path.name for path in Path("masks").glob("[!.]*")] == ["first.dcm"]
    cli("predict", *rest, "--input", tmp_path / "patient")
    assert {path.name for path in Path("masks").glob("[!.]*")} == {"first.dcm", "first.nii.gz", "second.nii.gz"}
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), tmp_path / "patient/first.nii.gz")
    message = refused(capsys, cli, *rest, "--input", tmp_path / "patient")
    assert "first.nii.gz: would be the mask of both" in message
    assert "Did you mean nii.gz" in refused(capsys, cli, *rest, "--input", tmp_path / "patient", "--format=nii.g")


def test_probabilities_of_two_images_do_not_overwrite_each_other(cli, capsys, checkpoint, tmp_path):
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), tmp_path / "in/x.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), tmp_path / "in/x.nii")
    rest = ("--ckpt_path", checkpoint, "--input", tmp_path / "in", "--output=masks")
    message = refused(capsys, cli, *rest, "--probabilities=true")
    assert "would be the mask of both" in message
    cli("predict", *rest)
    cli(
        "predict",
        "--ckpt_path",
        checkpoint,
        "--input",
        tmp_path / "in/x.nii",
        "--output=masks",
        "--overwrite=false",
        "--probabilities=true",
    )
    assert Path("masks/x.probabilities.h5").is_file()
    assert "--batch_size must be 1 or more" in refused(capsys, cli, *rest, "--batch_size=0")


def test_values_that_are_no_number_are_refused(cli, capsys, checkpoint, tmp_path):
    volume = np.zeros((8, 8, 3), np.float32)
    volume[2, 3, 1] = np.nan
    nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / "ct.nii.gz")
    message = refused(capsys, cli, "--ckpt_path", checkpoint, "--input", tmp_path / "ct.nii.gz", "--output=masks")
    assert "ct.nii.gz: 1 of 192 values are NaN or infinite" in message
    assert not list(Path("masks").glob("*"))


def test_scenes_become_maps_by_name_or_in_a_folder(cli, checkpoint, tmp_path):
    (tmp_path / "scenes").mkdir()
    for name in ("a", "b"):
        array = np.random.default_rng(0).normal(0, 100, (1, 70, 90)).astype(np.float32)
        write_scene(tmp_path / f"scenes/{name}.tif", array)
    rest = ("--ckpt_path", checkpoint, "--window=32", "--overlap=0.25")
    cli("predict", *rest, "--input", tmp_path / "scenes/a.tif", "--output=maps/one.tif")
    cli("predict", *rest, "--input", tmp_path / "scenes", "--output=maps", "--cog=true")
    assert sorted(path.name for path in Path("maps").glob("[!.]*")) == ["a.tif", "b.tif", "one.tif"]
    with rasterio.open("maps/one.tif") as one, rasterio.open("maps/a.tif") as other:
        np.testing.assert_array_equal(one.read(), other.read())
        assert one.transform == PLACE
    (tmp_path / "list.txt").write_text("scenes/b.tif\n\n")
    beside = ("--probabilities=true", "--polygons=geojson", "--blend=cosine")
    cli("predict", *rest, "--input", tmp_path / "list.txt", "--output=listed", *beside)
    assert sorted(path.name for path in Path("listed").glob("[!.]*")) == ["b.geojson", "b.probabilities.tif", "b.tif"]


def test_maps_whose_polygons_fail_are_kept_and_named(capsys, cli, checkpoint, tmp_path, monkeypatch):
    (tmp_path / "scenes").mkdir()
    for name in ("a", "b"):
        write_scene(tmp_path / f"scenes/{name}.tif", np.zeros((1, 40, 40), np.float32))

    def failing(path, *rest):
        if path.name == "a.gpkg":
            raise OSError("No space left on device")
        return write_polygons(path, *rest)

    monkeypatch.setattr("mlla_seg.inference.scenes.write_polygons", failing)
    rest = ("--ckpt_path", checkpoint, "--input", tmp_path / "scenes", "--output=maps", "--polygons=gpkg")
    with pytest.raises(SystemExit, match="2"):
        cli("predict", *rest)
    said = capsys.readouterr()
    assert "2 of 2 masks written" in said.out
    assert "1 of 2 images have no polygons:\nmaps/a.tif: is finished, but its polygons could not be written" in said.err
    assert sorted(path.name for path in Path("maps").glob("[!.]*")) == ["a.tif", "b.gpkg", "b.tif"]


def test_scenes_that_cannot_be_mapped_are_named(capsys, cli, checkpoint, tmp_path):
    source = write_scene(tmp_path / "scene.tif", np.zeros((2, 40, 40), np.uint8))
    rest = ("--ckpt_path", checkpoint, "--input", source)
    assert "scene.tif: has 2 bands; this network expects 1 (CT in HU)." in refused(capsys, cli, *rest, "--output=m")
    assert "Unknown --polygons 'shp'" in refused(capsys, cli, *rest, "--output=m", "--polygons=shp")
    assert "the mask would overwrite its image" in refused(capsys, cli, *rest, "--output", source)
    listed = tmp_path / "list.txt"
    (tmp_path / "sub").mkdir()
    write_scene(tmp_path / "sub/scene.tif", np.zeros((1, 40, 40), np.uint8))
    listed.write_text("scene.tif\nsub/scene.tif\n")
    message = refused(capsys, cli, "--ckpt_path", checkpoint, "--input", listed, "--output=m")
    assert "scene.tif: would be the mask of both" in message
