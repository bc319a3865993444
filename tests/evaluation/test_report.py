"""Output of ``validate`` and ``test``: every case once, both protocols, a self-contained report."""

from __future__ import annotations

import base64
import csv
import json
import re
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import torch

import layouts
from conftest import ROOT, TINY
from forks import run_apart
from mlla_seg import Predictor
from mlla_seg.data.formats.registry import read_image, read_mask
from mlla_seg.errors import InputError
from mlla_seg.evaluation.surface_distance import case_surface_scores
from mlla_seg.evaluation.transunet_protocol import transunet_labels, transunet_scores
from mlla_seg.places import shareable
from mlla_seg.training.scoring import Scoring

FILES = {"per_case.csv", "summary.json", "scores.csv", "scores.tex", "report.html", "overlay.png", "config.yaml"}


@pytest.fixture
def options(phantom_root):
    return ["--config", ROOT / "configs/demo.yaml", f"--data.root={phantom_root}", "--data.crop=[32,32]", *TINY]


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("command", "split", "cases"), [("test", "test", 4), ("validate", "val", 2)])
def test_every_file_is_there_and_every_case_once(cli, capsys, options, checkpoint, command, split, cases):
    cli(command, *options, "--ckpt_path", checkpoint, "--nsd_tolerance=1.5")
    run = Path("runs/demo/version_0")
    assert {path.name for path in run.iterdir()} >= FILES
    rows = read_csv(run / "per_case.csv")
    assert len({(row["case"], row["class"]) for row in rows}) == len(rows) == cases * 9
    summary = json.loads((run / "summary.json").read_text())
    assert summary["cases"] == cases
    assert summary["split"] == split
    assert (summary["unit"], summary["nsd_tolerance"]) == ("voxel", 1.5)
    assert {f"{split}/{score}" for score in ("dice", "iou", "hd95", "assd", "nsd", "precision", "recall")} <= set(
        summary
    )
    assert "transunet" not in str(summary)
    for name, numbers in summary["cases_by_class"].items():
        assert sum(numbers.values()) == cases
        known = [float(row["dice"]) for row in rows if row["class"] == name and row["status"] != "absent"]
        assert len(known) == cases - numbers["absent"]
        if known:
            assert summary[f"{split}/dice_{name}"] == pytest.approx(sum(known) / len(known), abs=1e-6)
    printed = capsys.readouterr().out
    assert sum(sum(row.values()) for row in summary["confusion"].values()) == sum(
        int(row["tp"]) + int(row["fn"]) for row in rows
    )
    assert not any("boundary" in name for name in summary["pooled"])  # cases are volumes
    assert f"All voxels together: mean IoU {summary['pooled']['iou']:.4f} without background (" in printed
    assert "NSD 1.5 voxel" in printed
    assert "Distances in voxels: the spacing of some images of the split is unknown." in printed


def test_scores_of_both_protocols_are_those_of_the_files(cli, options, checkpoint, phantom_root, capsys):
    cli("test", *options, "--ckpt_path", checkpoint, "--evaluation=transunet")
    assert "To compare with papers train with --data.crop null --data.resize [224,224]" in capsys.readouterr().err
    rows = {(row["case"], row["class"]): row for row in read_csv(Path("runs/demo/version_0/per_case.csv"))}
    predictor = Predictor.from_checkpoint(checkpoint)
    names = predictor.spec.class_names
    for case in ("case0013", "case0016"):
        path = phantom_root / f"test_vol_h5/{case}.npy.h5"
        image = read_image(path, array_units=predictor.spec.array_units).array
        mask = torch.from_numpy(read_mask(path).array[:, 0].astype("uint8"))
        native = case_surface_scores(torch.from_numpy(predictor(image)), mask, 9, (1, 1, 1), 2.0)
        labels = transunet_labels(predictor.network, torch.from_numpy(image), predictor.spec.view)
        published = transunet_scores(labels, mask, 9)
        for k in range(1, 9):
            row = rows[case, names[k]]
            found = [float(row[key] or "nan") for key in ("hd95", "assd", "nsd", "transunet_dice", "transunet_hd95")]
            assert found == pytest.approx([*native[k].tolist(), *published[k].tolist()], nan_ok=True, rel=1e-5)


def test_calibration_and_scores_by_area_are_options(cli, options, checkpoint, capsys):
    run = Path("runs/demo/version_0")
    cli("validate", *options, "--ckpt_path", checkpoint, "--surface_area=true")
    summary, rows, page = json.loads((run / "summary.json").read_text()), read_csv(run / "per_case.csv"), "report.html"
    assert summary["val/hd95_area"] > 0 and 0 <= summary["val/nsd_area"] <= 1
    assert {"hd95_area", "assd_area", "nsd_area", "ece", "ece_predicted"} <= set(rows[0])
    assert "HD95 by area, voxel" in (run / page).read_text() and "hd95_area" in (run / "scores.csv").read_text()
    assert "weigh pieces of surface by their area" in capsys.readouterr().out
    liver = [float(row["ece"]) for row in rows if row["class"] == "liver"]
    known = summary["calibration"]["classes"]["liver"]
    assert min(liver) <= known["all"] <= max(liver)
    assert 0 < summary["calibration"]["top_label"]["all"] < 1 and (run / "reliability.png").is_file()
    cli("validate", *options, "--ckpt_path", checkpoint, "--calibration=false", "--distances=false")
    summary = json.loads(Path("runs/demo/version_1/summary.json").read_text())
    assert "calibration" not in summary and "val/hd95_area" not in summary
    assert not Path("runs/demo/version_1/reliability.png").exists()
    assert "ece" not in read_csv(Path("runs/demo/version_1/per_case.csv"))[0]


def test_report_is_one_file_that_says_how_it_was_measured(cli, options, checkpoint):
    cli("test", *options, "--ckpt_path", checkpoint, "--evaluation=transunet")
    page = Path("runs/demo/version_0/report.html").read_text()
    for name in ("overlay.png", "reliability.png"):
        assert base64.b64encode(Path("runs/demo/version_0", name).read_bytes()).decode() in page
    sources = re.findall(r'(?:src|href)="([^"]{12})', page)
    assert sources == ["data:image/p"] * 7  # confusion matrix; two box plots; reliability; best, median and worst case
    assert "http" not in page and "<script" not in page
    for text in ("best: case", "median: case", "worst: case", "left out of its mean", "medpy", "HD95 in voxel"):
        assert text in page
    assert "encoder: mlla_test" in page  # the configuration
    assert shareable(str(checkpoint)) in page
    assert str(checkpoint.parent) not in page
    assert page.count("<tr") > 4 * 8


def test_one_case_and_no_spacing_and_no_class_are_no_trouble(cli, options, checkpoint):
    cli("test", *options, "--ckpt_path", checkpoint, "--trainer.limit_test_batches=0.25")
    page = Path("runs/demo/version_0/report.html").read_text()
    assert "median: case0013" in page
    assert "best:" not in page
    assert len(read_csv(Path("runs/demo/version_0/per_case.csv"))) == 9


def test_maps_are_scored_at_boundaries_and_without_distances(cli, capsys, tmp_path):
    layouts.geotiff_pairs(tmp_path / "scenes")
    options = ["--config", ROOT / "configs/geotiff_pairs.yaml", f"--data.root={tmp_path / 'scenes'}", *TINY]
    options += ["--data.crop=[32,32]", "--trainer.max_epochs=1", "--trainer.precision=32-true"]
    cli("fit", *options)
    capsys.readouterr()
    cli("test", *options, "--ckpt_path=last")
    printed = capsys.readouterr().out
    summary = json.loads(Path("runs/geotiff_pairs/version_1/summary.json").read_text())
    assert (summary["unit"], summary["nsd_tolerance"]) == (None, None)
    assert not any(score in name for score in ("hd95", "assd", "nsd") for name in summary if name.startswith("test/"))
    assert "boundary IoU" in printed
    assert "Distances" not in printed
    boundary_iou = summary["pooled"]["boundary_iou_with_all"]
    assert f"{boundary_iou:.4f}" in next(line for line in printed.splitlines() if line.startswith("mean of all"))
    rows = read_csv(Path("runs/geotiff_pairs/version_1/per_case.csv"))
    assert "iou" in rows[0]
    assert "hd95" not in rows[0]
    assert "hd95" not in Path("runs/geotiff_pairs/version_1/report.html").read_text().lower().split("configuration")[0]
    cli("test", *options, "--ckpt_path=last", "--boundary_width=100", "--distances=true")
    summary = json.loads(Path("runs/geotiff_pairs/version_2/summary.json").read_text())
    assert summary["pooled"]["boundary_iou_with_all"] == pytest.approx(summary["pooled"]["iou_with_all"])  # all is edge
    assert summary["pooled"]["boundary_iou_with_all"] != pytest.approx(boundary_iou)
    assert summary["unit"] == "voxel"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distances": False, "evaluation": "transunet"}, "--evaluation transunet needs distances"),
        ({"distances": False, "surface_area": True}, "--surface_area needs distances"),
        ({"boundary_width": 0}, "must be 1 pixel or more, got 0"),
        ({"nsd_tolerance": -1}, "must be 0 or more, got -1"),
    ],
)
def test_scoring_that_cannot_be_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        Scoring(**changes)


@pytest.mark.slow
def test_two_processes_score_as_one(tmp_path, phantom_root, checkpoint):
    """Three cases over two processes: one case goes to both."""
    root = shutil.copytree(phantom_root, tmp_path / "phantom")
    (root / "test_vol_h5/case0016.npy.h5").unlink()
    written = []
    for devices, batch_size in ((1, 16), (2, 3)):
        folder = tmp_path / str(devices)
        folder.mkdir()
        command = ["test", "--config", ROOT / "configs/demo.yaml", "--data.crop=[32,32]"]
        command += [f"--data.root={root}", *TINY, "--ckpt_path", checkpoint, "--evaluation=transunet"]
        command += [f"--trainer.devices={devices}", "--trainer.strategy=ddp", f"--model.eval_batch_size={batch_size}"]
        done = run_apart(*command, ranks=devices, folder=folder)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("per_case.csv") == 2  # one line, from one process
        run = folder / "runs/demo/version_0"
        written.append([read_csv(run / "per_case.csv"), json.loads((run / "summary.json").read_text())])
    assert len(written[0][0]) == 3 * 9
    one, two = [summary.pop("calibration") for _, summary in written]
    for name, found in one["classes"].items():  # probabilities depend a little on the batch size, labels do not
        for key in ("all", "predicted"):
            assert (found[key] or 0) == pytest.approx(two["classes"][name][key] or 0, abs=1e-5)
        assert sum(found["reliability"]["pixels"]) == sum(two["classes"][name]["reliability"]["pixels"])
    for rows, _ in written:
        for row in rows:
            row |= {key: f"{float(row[key] or 'nan'):.4f}" for key in ("ece", "ece_predicted")}
    assert written[0] == written[1]


def changed(checkpoint, output, noise=0.0, **spec):
    """A copy of a checkpoint with a changed data description or changed predictions."""
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"]["spec"] |= spec
    torch.manual_seed(0)
    head = content["state_dict"]["network.head.weight"]
    head += noise * head.std() * torch.randn_like(head)
    torch.save(content, output)
    return output


def test_ensembles_are_scored_with_the_mean_of_their_probabilities(cli, options, trained, phantom_root, tmp_path):
    (path, *_) = trained.rglob("last.ckpt")
    both = [changed(path, tmp_path / f"{noise}.ckpt", noise, mirrored=True) for noise in (0.0, 3.0)]
    cli("test", *options, "--ckpt_path", *both, "--tta=true")
    summary = json.loads(Path("runs/demo/version_0/summary.json").read_text())
    assert summary["ensemble with"] == both[1].name
    assert summary["test-time augmentation"] is True
    cli("predict", "--ckpt_path", *both, "--tta=true", "--input", phantom_root / "test_vol_h5", "--output=masks")
    rows = read_csv(Path("runs/demo/version_0/per_case.csv"))
    for case in ("case0013", "case0014", "case0015", "case0016"):
        predicted = read_mask(Path(f"masks/{case}.npy.h5")).array
        voxels = [int(row["tp"]) + int(row["fp"]) for row in rows if row["case"] == case]
        assert voxels == [(predicted == k).sum() for k in range(9)]
    cli("predict", "--ckpt_path", both[0], "--tta=true", "--input", phantom_root / "test_vol_h5", "--output=alone")
    alone = read_mask(Path("alone/case0013.npy.h5")).array
    assert (alone != read_mask(Path("masks/case0013.npy.h5")).array).any()


def test_mirror_images_are_refused_where_training_showed_none(cli, capsys, options, checkpoint):
    for command in (["test", *options], ["predict", "--input=x", "--output=y"]):
        with pytest.raises(SystemExit):
            cli(*command, "--ckpt_path", checkpoint, "--tta=true")
        assert "was trained without flips, so --tta would degrade its results" in capsys.readouterr().err


def test_members_must_have_learned_the_same(cli, capsys, options, checkpoint, tmp_path):
    for spec, message in (
        ({"context": 1}, "do not fit this network"),  # a network for three slices has another stem
        ({"plane": "coronal"}, "was trained with plane coronal"),
        ({"patch_size": [8, 8]}, "must share their data options"),
        ({"normalisation": {"per_case": True}}, "was trained with per_case True, "),
    ):
        other = changed(checkpoint, tmp_path / "other.ckpt", **spec)
        with pytest.raises(SystemExit):
            cli("test", *options, "--ckpt_path", checkpoint, other)
        assert message in capsys.readouterr().err


def test_a_checkpoint_of_another_version_is_answered_in_a_line(cli, capsys, options, checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["network.old_name"] = content["state_dict"].pop("network.head.weight")
    content["mlla_seg_version"] = "0.0.1"
    torch.save(content, tmp_path / "old.ckpt")
    for command in (["test", *options], ["predict", "--input=x", "--output=y"]):
        with pytest.raises(SystemExit):
            cli(*command, "--ckpt_path", tmp_path / "old.ckpt")
        assert "2 of its weights do not fit this network, such as head.weight" in capsys.readouterr().err


def test_every_option_of_scoring_is_read_back_above():
    """A new option fails until a test observes its effect through the command line."""
    seen = {
        "evaluation": test_scores_of_both_protocols_are_those_of_the_files,
        "distances": test_maps_are_scored_at_boundaries_and_without_distances,
        "surface_area": test_calibration_and_scores_by_area_are_options,
        "nsd_tolerance": test_every_file_is_there_and_every_case_once,
        "calibration": test_calibration_and_scores_by_area_are_options,
        "boundary_width": test_maps_are_scored_at_boundaries_and_without_distances,
        "tta": test_ensembles_are_scored_with_the_mean_of_their_probabilities,
        "members": test_ensembles_are_scored_with_the_mean_of_their_probabilities,
        "postprocessing": "tests/training/test_postprocessing.py",
        "choose_postprocessing": "tests/training/test_postprocessing.py",
    }
    assert list(seen) == [field.name for field in fields(Scoring)]
