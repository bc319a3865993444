"""``check``: planted faults of every kind are all listed at once, with count, names and exit status."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

import layouts
from conftest import TINY

NETWORK = [option for option in TINY if option.startswith("--model.")]


def edit(path, change=lambda a: a, affine=None):
    """Change the voxels or the affine of a NIfTI."""
    volume = nib.load(path)
    array = change(np.asanyarray(volume.dataobj).copy())
    nib.Nifti1Image(array, volume.affine if affine is None else affine).to_filename(path)


def with_value(value):
    def change(array):
        array[0, 0, 0] = value
        return array

    return change


def checked(cli, capsys, *options):
    """Run ``check``; return exit status, findings by kind, the report and the text."""
    status = 0
    try:
        cli("check", *options, "--output=report.json")
    except SystemExit as stop:
        status = stop.code
    captured = capsys.readouterr()
    assert status in (0, 1), captured.err
    report = json.loads(Path("report.json").read_text())
    assert report["failed"] == (status == 1)
    return status, {found["kind"]: found for found in report["findings"]}, report, captured.out


@pytest.fixture
def nnunet(cli, tmp_path):
    """An nnU-Net folder in the working directory, and functions that return paths of its cases."""
    layouts.hippocampus(tmp_path / "data", version=2, cases=14)

    def image(k):
        return tmp_path / f"data/imagesTr/hippocampus_{k:03d}_0000.nii.gz"

    def mask(k):
        return tmp_path / f"data/labelsTr/hippocampus_{k:03d}.nii.gz"

    content = {"data": {"root": "data", "crop": [16, 16], "batch_size": 4, "num_workers": 0}}
    Path("mine.yaml").write_text(yaml.safe_dump(content))
    return image, mask


def name(k):
    return f"hippocampus_{k:03d}"


def test_all_cases_that_cannot_be_read_are_listed_by_kind_and_can_be_excluded(cli, nnunet, capsys):
    image, mask = nnunet
    image(0).write_bytes(image(0).read_bytes()[:900])
    mask(1).write_text("no image " * 100)
    edit(mask(2), lambda array: array[:-1])
    edit(mask(3), affine=np.diag([1.5, 1, 1, 1]))
    edit(mask(4), with_value(7))
    edit(image(5), with_value(np.nan))
    edit(image(6), lambda array: np.stack([array, array], axis=-1))
    for k in (7, 8):  # swapped
        shutil.move(image(k), "aside.nii.gz")
        shutil.move(mask(k), image(k))
        shutil.move("aside.nii.gz", mask(k))
    status, kinds, report, text = checked(cli, capsys, "--config=mine.yaml")
    assert status == 1
    expected = {
        "truncated": [0], "unreadable": [1], "shape": [2], "affine": [3], "values": [4, 7, 8], "nan": [5],
        "channels": [6], "swapped": [7, 8],
    }  # fmt: skip
    for kind, numbers in expected.items():
        assert sorted(kinds[kind]["cases"]) == [name(k) for k in numbers], kind
        assert kinds[kind]["count"] == len(numbers)
        assert all(name(k) in text for k in numbers)
    assert {kinds[kind]["severity"] for kind in expected if kind != "swapped"} == {"error"}
    assert "error (3 cases): the mask has values outside the classes of the card." in text
    assert "mask value 7 in 1 voxels" in text
    assert report["unusable"] == 9
    assert report["exclude"] == {name(k): kind for kind, ks in expected.items() if kind != "swapped" for k in ks}
    assert report["cost"] is None

    (line,) = [line for line in text.splitlines() if "--data.exclude" in line]
    option, value = line.strip().split(" ", 1)
    assert sum(report["splits"].values()) == 5
    status, kinds, report, text = checked(cli, capsys, "--config=mine.yaml", option, value.strip("'"))
    assert status == 0
    assert not set(kinds) & set(expected)
    assert sum(report["splits"].values()) == 5
    assert report["exclude"] == {}


def test_suspicious_contents_are_warnings_and_training_is_measured(cli, nnunet, capsys):
    image, mask = nnunet
    edit(image(0), lambda array: array * 0 + 5)
    edit(mask(1), lambda array: array * 0)
    edit(image(2), lambda array: (array > array.mean()).astype(np.int16))
    for path in (image(3), mask(3)):
        edit(path, affine=np.diag([1, 1, 9.0, 1]))
    for path in (image(4), mask(4)):
        edit(path, lambda array: array[:7, :7])
    status, kinds, report, text = checked(cli, capsys, "--config=mine.yaml", *NETWORK)
    assert status == 0
    for kind, k in (("constant", 0), ("empty_mask", 1), ("swapped", 2), ("spacing", 3), ("small", 4)):
        assert kinds[kind]["cases"] == [name(k)], kind
        assert kinds[kind]["severity"] == "warning"
    assert kinds["spacing"]["details"] == ["9 x 1 x 1 mm"]
    assert kinds["swapped"]["details"] == ["values 0, 1"]
    assert kinds["described"]["severity"] == "info"
    cost = report["cost"]
    assert cost["batch_size"] == 4
    assert cost["step_seconds"] > 0
    assert cost["step_gb"] > 0
    assert cost["epoch_seconds"] >= cost["steps"] * cost["step_seconds"]
    assert "a step of batch size 4 takes" in text
    for shares in report["frequencies"].values():
        assert list(shares) == ["background", "Anterior", "Posterior"]
        assert sum(shares.values()) == pytest.approx(1)


def test_the_same_images_in_several_splits_are_an_error(cli, nnunet, capsys):
    image, mask = nnunet
    for k in range(1, 14):
        shutil.copy(image(0), image(k))
    shutil.copy(mask(0), mask(1))
    status, kinds, _, text = checked(cli, capsys, "--config=mine.yaml")
    assert status == 1
    assert kinds["duplicates_across_splits"]["severity"] == "error"
    assert kinds["duplicates"]["severity"] == "warning"
    assert kinds["duplicates"]["count"] + kinds["duplicates_across_splits"]["count"] == 13
    assert "with another mask" in text


def test_what_prevents_a_step_is_an_error(cli, nnunet, capsys):
    for options, message in (
        (["--data.batch_size=1000"], "fewer than one batch"),
        ([*NETWORK, "--model.class_weights=[1]"], "class_weights has 1 entries for 3 classes"),
    ):
        status, kinds, report, _ = checked(cli, capsys, "--config=mine.yaml", *options)
        assert status == 1
        assert message in kinds["step"]["summary"]
        assert report["cost"] is None


def test_json_alone_is_printed(cli, nnunet, capsys):
    cli("check", "--config=mine.yaml", "--json")
    report = json.loads(capsys.readouterr().out)
    assert not report["failed"]
    assert {"name", "root", "splits", "findings", "frequencies", "cost"} <= set(report)


def test_absent_classes_are_named_by_split(cli, nnunet, capsys):
    _, mask = nnunet
    for k in range(14):
        edit(mask(k), lambda array: np.where(array == 2, 0, array))
    status, kinds, _, _ = checked(cli, capsys, "--config=mine.yaml")
    assert status == 0
    assert "no training mask of data contains Posterior" in kinds["classes"]["summary"]
    assert "no mask of val contains Posterior" in kinds["absent_val"]["summary"]
    for k in range(14):
        edit(mask(k), lambda array: array * 0)
    status, kinds, _, _ = checked(cli, capsys, "--config=mine.yaml")
    assert status == 1
    assert "so there is nothing to learn" in kinds["classes"]["summary"]


def test_patients_in_several_splits_do_not_hide_other_problems(cli, tmp_path, capsys):
    layouts.acdc_transunet(tmp_path / "data")
    for s in range(3):
        shutil.move(f"data/train/case_001_sliceES_{s}.npz", f"data/valid/case_001_sliceES_{s}.npz")
    with np.load("data/train/case_003_sliceES_1.npz") as source:
        arrays = dict(source)
    np.savez("data/train/case_003_sliceES_1.npz", **{**arrays, "label": arrays["label"] + 9})
    status, kinds, _, text = checked(cli, capsys, "--data.card=acdc", "--data.root=data", "--data.crop=[32,32]")
    assert status == 1
    assert kinds["patients"]["details"] == ["train and val"]
    assert "error (1 patient): patients are in several splits" in text
    assert kinds["values"]["count"] == 1


def test_scenes_that_share_ground_or_lie_elsewhere_are_named(cli, tmp_path, capsys):
    layouts.geotiff_pairs(tmp_path / "data")
    for n in (1, 2, 3, 4):  # all but scenes 0 and 5 at one place
        for path, bands in ((f"data/scene {n}.tif", 3), (f"data/scene {n}_mask.tif", 1)):
            array = layouts.blobs(n, 1, 90, 60, 2)[1].repeat(bands, axis=0).astype(np.uint16)
            values = (array * 900 + 400 + np.arange(90)[:, None]) if bands == 3 else array
            layouts.write_scene(tmp_path / path, values.astype(np.uint16 if bands == 3 else np.uint8))
    layouts.write_scene(tmp_path / "data/scene 5_mask.tif", np.zeros((1, 90, 60), np.uint8), transform=layouts.away(-3))
    for pair in (("data/scene 0.tif", "data/scene 0_mask.tif"), ("data/scene 0_mask.tif", "data/scene 0.tif")):
        shutil.copy(pair[0], f"{pair[1]}.swapped")
    for path in ("data/scene 0.tif", "data/scene 0_mask.tif"):
        Path(f"{path}.swapped").rename(path)
    Path("data/scene 4_mask.tif").unlink()
    status, kinds, _, _ = checked(cli, capsys, "--data.card=geotiff_pairs", "--data.root=data", "--data.crop=[32,32]")
    assert status == 1
    assert kinds["channels"]["cases"] == kinds["swapped"]["cases"] == ["scene 0"]
    assert "1 files in data have no mask and are skipped: scene 4.tif" in kinds["cases"]["summary"]
    assert kinds["crs"]["cases"] == ["scene 5"]
    assert kinds["ground"]["severity"] == "warning"
    assert "of it lies in scene" in kinds["ground"]["details"][0]


def test_what_is_no_config_is_said_in_a_line(cli, capsys, tmp_path):
    for options, message in (
        (["--config=missing.yaml"], "missing.yaml: no such file"),
        (["--data.root=missing", "--data.crop=[16,16]"], "missing"),
    ):
        with pytest.raises(SystemExit) as stop:
            cli("check", *options)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
