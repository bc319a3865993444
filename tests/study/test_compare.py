"""The command compare: its numbers, its sentences, and what it refuses."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from mlla_seg.errors import InputError
from mlla_seg.study.scores import METRICS, find_scored, read_scored, usual_metric
from samples import write_scored

CASES = [f"case{k:02}" for k in range(20)]


def write_design(folder, offset, seeds=3, spread=0.002, start=0, **how):
    """Runs with Dice around ``0.8 + offset``; patients differ, seeds by ``spread``."""
    rng = np.random.default_rng(start)
    easy = np.random.default_rng(9).normal(0, 0.03, len(CASES))
    for seed in range(seeds):
        own = rng.normal(0, spread)
        values = 0.8 + offset + easy + own + rng.normal(0, 0.005, len(CASES))
        scores = {case: {"liver": float(value)} for case, value in zip(CASES, values, strict=True)}
        write_scored(folder / f"seed-{seed}" / "scored", scores, **how)
    return folder


def test_a_shown_difference_an_unshown_one_and_a_single_seed(cli, capsys, tmp_path):
    folders = [
        write_design(tmp_path / "mlla", 0.0),
        write_design(tmp_path / "worse", -0.05, start=10),
        write_design(tmp_path / "alike", 0.0, start=20),
        write_design(tmp_path / "single", 0.05, seeds=1, start=30),
    ]
    cli("compare", "--runs", *folders, "--output", "plot.png")
    printed = capsys.readouterr().out
    lines = {line.split()[0]: line for line in printed.splitlines() if " / " in line}
    assert lines["worse"].split()[1:4] == ["3", "/", "3"]
    assert float(lines["worse"].split()[4]) == pytest.approx(-0.05, abs=0.01)
    assert "Paired differences on the same 20 patients; intervals by bootstrap over patients and over the" in printed
    assert "\nworse is worse than mlla: Dice -0.0" in printed
    assert "No difference between alike and mlla is shown (the interval includes 0): Dice" in printed
    assert "anything within the interval remains possible." in printed
    last = next(line for line in printed.splitlines() if line.startswith("single and mlla: Dice +0.0"))
    assert "with one seed of single the seeds were not sampled: no claim about the designs follows." in last
    assert lines["single"].endswith(" -")
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"


def test_lower_distances_are_better(cli, capsys, tmp_path):
    folders = [
        write_design(tmp_path / name, by, start=k, metric="hd95", spread=0.001)
        for k, (name, by) in enumerate({"a": 0.0, "b": -0.1}.items())
    ]
    cli("compare", "--runs", *folders, "--metric=hd95")
    assert "b is better than a: HD95 -0.1" in capsys.readouterr().out


def test_scores_are_those_of_the_summary(tmp_path):
    scores = {
        "a": {"liver": 0.5, "spleen": math.nan},
        "b": {"liver": 0.7, "spleen": 0.2},
        "c": {"liver": 0.9, "spleen": 0.4},
    }
    run = read_scored(write_scored(tmp_path / "x", scores), "dice")
    assert run.score("dice", np.ones((1, 3))) == pytest.approx([(0.7 + 0.3) / 2])
    assert run.score("dice", np.array([[2.0, 0, 1], [3.0, 0, 0]])) == pytest.approx([(1.9 / 3 + 0.4) / 2, 0.5])
    assert run.classes == ("liver", "spleen")


@pytest.mark.parametrize(
    ("metric", "first", "both"),
    [
        ("pooled_iou", 1 / 5, 31 / 50),
        ("pooled_f1", 2 / 6, 62 / 81),
        ("pooled_precision", 1 / 2, 31 / 46),
        ("pooled_recall", 1 / 4, 31 / 35),
    ],
)
def test_images_are_pooled_over_the_drawn_images(tmp_path, metric, first, both):
    counts = {("a", "water"): (1, 1, 3), ("b", "water"): (30, 14, 1)}
    folder = write_scored(tmp_path / "x", {"a": {"water": 0.3}, "b": {"water": 0.8}}, counts=counts, single=True)
    assert usual_metric(folder) == "pooled_iou"
    run = read_scored(folder, metric)
    assert run.score(metric, np.array([[1.0, 0], [1.0, 1]])) == pytest.approx([first, both])


def test_real_scores_are_read_back(cli, checkpoint, trained):
    """Every metric of a real summary is computed again from its ``per_case.csv``."""
    config = trained / "runs/demo/version_0/config.yaml"
    options = ["--trainer.logger.init_args.version=scored", "--surface_area=true"]
    cli("test", "--config", config, "--ckpt_path", checkpoint, *options)
    (folder,) = Path().glob("**/scored")
    summary = json.loads((folder / "summary.json").read_text())
    assert usual_metric(folder) == "dice"
    with (folder / "per_case.csv").open() as file:
        assert {row["patient"] for row in csv.DictReader(file)} == {"0013", "0014", "0015", "0016"}
    for metric in METRICS:
        if not metric.startswith("transunet"):
            run = read_scored(folder, metric)
            pooled = metric.startswith("pooled_")
            wanted = summary["pooled"][metric.removeprefix("pooled_")] if pooled else summary[f"test/{metric}"]
            assert run.score(metric, np.ones((1, 4))) == pytest.approx([wanted], abs=1e-6)


def test_cases_of_one_patient_are_resampled_by_case(cli, capsys, tmp_path):
    one = dict.fromkeys(CASES, "scene")
    folders = [write_design(tmp_path / name, 0.0, start=k, patients=one) for k, name in enumerate("ab")]
    cli("compare", "--runs", *folders)
    assert "on the same 20 cases" in capsys.readouterr().out
    pairs = {case: case[:-1] for case in CASES}
    folders = [write_design(tmp_path / name, 0.0, start=k, patients=pairs) for k, name in enumerate("cd")]
    cli("compare", "--runs", *folders)
    assert "on the same 2 patients" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({"split": "test"}, "split is val in the first and test in the second. Score both alike"),
        ({"test-time augmentation": True}, "test-time augmentation is False in the first and True"),
        (
            {"protocols": {"native": "...", "transunet": "..."}},
            "protocols is native in the first and native, transunet in",
        ),
        ({"card": "y"}, "card is x in the first and y"),
        ({"masks": "labels_2"}, "masks is labels in the first and labels_2"),
    ],
)
def test_runs_scored_in_another_way_are_refused(cli, capsys, tmp_path, change, answer):
    folders = [write_design(tmp_path / "a", 0.0), write_design(tmp_path / "b", 0.0, **change)]
    with pytest.raises(SystemExit):
        cli("compare", "--runs", *folders)
    said = capsys.readouterr().err
    assert answer in said
    assert f"error: {tmp_path / 'a/seed-0/scored'} and {tmp_path / 'b/seed-0/scored'} cannot be compared: " in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("scores", "counts", "answer"),
    [
        ({"a": {"liver": 0.5}, "c": {"liver": 0.5}}, None, "case b is only in the first"),
        ({"a": {"liver": 0.5}, "b": {"liver": 0.5}, "c": {"liver": 0.5}}, None, "case c is only in the second"),
        ({"b": {"liver": 0.5}, "a": {"liver": 0.5}}, None, "the order of their case names differs"),
        ({"a": {"organ": 0.5}, "b": {"organ": 0.5}}, None, "class liver is only in the first"),
        ({"a": {"liver": 0.5}, "b": {"liver": 0.5}}, {("b", "liver"): (10, 5, 6)}, "the masks of b have other voxels"),
    ],
)
def test_runs_scored_on_other_cases_are_refused(cli, capsys, tmp_path, scores, counts, answer):
    first = write_scored(tmp_path / "a", {"a": {"liver": 0.5}, "b": {"liver": 0.6}})
    with pytest.raises(SystemExit):
        cli("compare", "--runs", first, write_scored(tmp_path / "b", scores, counts=counts))
    said = capsys.readouterr().err
    assert f"{tmp_path / 'a'} and {tmp_path / 'b'} cannot be compared: {answer}" in said
    assert said.count("\n") == 1


def test_what_cannot_be_read_is_named(cli, capsys, tmp_path):
    one = write_design(tmp_path / "a", 0.0)
    for words, answer in (
        (["--runs", one], "compare needs two folders or more"),
        (["--runs", one, one], "--runs names a folder twice"),
        (["--runs", one, tmp_path / "none"], "none: no scored run is here"),
        (
            ["--runs", one, write_design(tmp_path / "b", 0.0), "--metric=hd95"],
            "per_case.csv has no hd95: score the run",
        ),
        (["--runs", one, tmp_path / "b", "--metric=dise"], "Unknown metric 'dise'. Did you mean dice?"),
    ):
        with pytest.raises(SystemExit):
            cli("compare", *words)
        said = capsys.readouterr().err
        assert answer in said
        assert said.count("\n") == 1


def test_runs_are_found_wherever_they_are(tmp_path):
    write_design(tmp_path / "a", 0.0, seeds=2)
    assert [path.parent.name for path in find_scored(tmp_path / "a")] == ["seed-0", "seed-1"]
    assert find_scored(tmp_path / "a/seed-1") == [tmp_path / "a/seed-1/scored"]
    assert find_scored(tmp_path / "a/seed-1/scored") == [tmp_path / "a/seed-1/scored"]
    again = {"a": {"liver": 0.5}}
    for version in ("version_1", "version_2"):
        write_scored(tmp_path / "b" / version, again, checkpoint="runs/last.ckpt")
    with pytest.raises(
        InputError, match=r"version_1 and .*version_2 are scores of the same checkpoint runs/last\.ckpt"
    ):
        find_scored(tmp_path / "b")


def test_seven_comparisons_are_corrected(cli, capsys, tmp_path):
    """An interval may exclude 0 where the number of comparisons does not allow a claim."""
    folders = [write_design(tmp_path / "base", 0.0, spread=0.004)]
    folders += [write_design(tmp_path / f"d{k}", -0.009, spread=0.004, start=k) for k in range(1, 8)]
    cli("compare", "--runs", *folders)
    printed = capsys.readouterr().out
    for line in (line for line in printed.splitlines() if "No difference" in line or "is worse" in line):
        low, high = (float(word.rstrip(",")) for word in line.split("95 % interval ")[1].split()[:3:2])
        corrected = float(line.split("p = ")[1].split()[0])
        assert ("is worse" in line) == (corrected < 0.05)
        assert ("(the interval includes 0)" in line) == (low <= 0 <= high)
    assert "(not after correction for their number)" in printed
