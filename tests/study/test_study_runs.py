"""The command study: runs are kept, cut runs are repeated, failures are named, and all is gathered."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from conftest import ROOT, TINY
from forks import run_apart
from mlla_seg.study import results, runs
from mlla_seg.study.guard import guarded
from mlla_seg.study.plan import Plan, make_variants
from samples import write_scored

CASES = [f"case{k}" for k in range(8)]
STUDY = {
    "base": "demo",
    "steps": 3,
    "split": "validate",
    "seeds": [0, 1],
    "output": "out",
    "variants": {
        "mlla": {"title": "MLLA"},
        "lepe": {"title": "LePE <only>", "options": {"model.mixer": "lepe"}, "paper": 82.1},
    },
}


def write_study(**changes):
    Path("s.yaml").write_text(yaml.safe_dump({**STUDY, **changes}, sort_keys=False))
    return "s.yaml"


class Trainer:
    """Stands for the processes of training and scoring: writes their files at once."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.broken: set[str] = set()

    def __call__(self, plan, log, arguments, processes):
        variant, seed = log.parts[-3], int(log.parts[-2].removeprefix("seed-"))
        self.calls.append(f"{arguments[0]} {variant}/{seed}")
        log.write_text("")
        if f"{variant}/{seed}" in self.broken:
            return "fit ended with status 2: error: no such thing"
        if arguments[0] == "fit":
            (log.parent / "trained/checkpoints").mkdir(parents=True)
            state = {"optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(250_000)}}}], "global_step": plan.steps}
            torch.save(state, log.parent / "trained/checkpoints/last.ckpt")
        else:
            rng = np.random.default_rng(seed + 10 * (variant == "lepe"))
            offset = -0.2 if variant == "lepe" else 0.0
            values = np.clip(0.8 + offset + rng.normal(0, 0.01, len(CASES)), 0, 1)
            scores = {case: {"liver": float(value)} for case, value in zip(CASES, values, strict=True)}
            write_scored(log.parent / "scored", scores)
        return ""


@pytest.fixture
def trainer(monkeypatch):
    trainer = Trainer()
    monkeypatch.setattr(runs, "_call", trainer)
    monkeypatch.setattr("mlla_seg.models.checkpoint.read_checkpoint", lambda path: torch.load(path, weights_only=True))
    return trainer


def read_csv(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_study_from_nothing_to_its_page(cli, capsys, trainer):
    cli("study", "--config", write_study())
    assert trainer.calls == [
        f"{command} {run}" for run in ("mlla/0", "lepe/0", "mlla/1", "lepe/1") for command in ("fit", "validate")
    ]
    rows = read_csv("out/study.csv")
    assert [(row["variant"], row["seed"], row["steps"], row["parameters_m"]) for row in rows] == [
        (variant, seed, "3", "0.25") for variant in ("mlla", "lepe") for seed in "01"
    ]
    said = capsys.readouterr()
    printed = said.out
    assert "note: the page has no pictures of the networks: " in said.err  # the data are not here
    line = next(line for line in printed.splitlines() if line.startswith("LePE <only>")).split()
    scores = [float(row["score"]) for row in rows if row["variant"] == "lepe"]
    assert line[2:] == ["2", f"{np.mean(scores):.4f}", f"{np.std(scores, ddof=1):.4f}", "3", "0.25", "82.1"]
    assert "\nLePE <only> is worse than MLLA: Dice -0.2" in printed
    assert "4 of 4 runs are done.\n" in printed
    page = Path("out/study.html").read_text()
    assert page.count("data:image/png;base64,") == 1
    assert "LePE &lt;only&gt; is worse than MLLA" in page
    assert "http" not in page.replace("http-equiv", "")
    assert json.loads(Path("out/lepe/seed-1/asked.json").read_text())["model.mixer"] == "lepe"


def test_done_runs_are_kept_and_cut_ones_start_anew(cli, capsys, trainer):
    cli("study", "--config", write_study(), "--only", "mlla", "lepe/0")
    assert "3 of 4 runs are done; missing: lepe/1." in capsys.readouterr().out
    Path("out/mlla/seed-1/done.json").unlink()  # cut before its end
    Path("out/mlla/seed-1/trained/left").touch()
    trainer.calls.clear()
    cli("study", "--config", write_study(seeds=[0, 1, 2]))
    assert {call.split()[1] for call in trainer.calls} == {"mlla/1", "lepe/1", "mlla/2", "lepe/2"}
    assert not Path("out/mlla/seed-1/trained/left").exists()
    assert len(read_csv("out/study.csv")) == 6
    trainer.calls.clear()
    cli("study", "--config", write_study(), "--gather")
    assert trainer.calls == []
    assert len(read_csv("out/study.csv")) == 4


def test_done_runs_with_other_options_are_refused(cli, capsys, trainer):
    cli("study", "--config", write_study(), "--only", "mlla/0")
    trainer.calls.clear()
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        cli("study", "--config", write_study(steps=4, options={"model.lr": 1.0}))
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "out/mlla/seed-0 was run with other options: steps was 3, now 4; model.lr was 3e-3, now 1.0. Use" in said
    assert trainer.calls == []


def test_a_failed_run_stops_no_other_and_is_named(cli, capsys, trainer):
    trainer.broken = {"lepe/0"}
    with pytest.raises(SystemExit) as caught:
        cli("study", "--config", write_study(), "--jobs", "2")
    assert caught.value.code == 2
    said = capsys.readouterr()
    assert (
        "1 of 4 runs failed; the same command tries them again.\n  lepe/0: fit ended with status 2: error: no such"
        in said.err
    )
    assert "3 of 4 runs are done; missing: lepe/0." in said.out
    assert "with one seed of LePE <only> the seeds were not sampled: no claim about the designs follows." in said.out
    trainer.broken = set()
    cli("study", "--config", write_study())
    assert trainer.calls.count("fit mlla/0") == 1
    assert "4 of 4 runs are done." in capsys.readouterr().out


def test_jobs_of_a_cluster_are_printed(cli, capsys, trainer):
    config = write_study()
    cli("study", "--config", config, "--only", "mlla/0")
    capsys.readouterr()
    cli("study", "--config", config, "--print_jobs", "--jobs", "2")
    assert capsys.readouterr().out.splitlines() == [
        f"python cli.py study --config s.yaml --jobs 2 --only {run}" for run in ("lepe/0", "mlla/1", "lepe/1")
    ]
    cli("study", "--config", config, "--only", "lepe", "--print_jobs")
    printed = capsys.readouterr().out.splitlines()
    assert printed == [f"python cli.py study --config s.yaml --only lepe/{seed}" for seed in (0, 1)]
    assert trainer.calls == ["fit mlla/0", "validate mlla/0"]
    cli("study", "--config", config, "--gather")
    assert "1 of 4 runs are done; missing: lepe/0, mlla/1, lepe/1." in capsys.readouterr().out


def test_nothing_done_is_no_error(cli, capsys):
    cli("study", "--config", write_study(), "--gather")
    assert capsys.readouterr().out == "0 of 4 runs are done; missing: mlla/0, lepe/0, mlla/1, lepe/1.\n"
    assert not Path("out").exists()


def test_a_run_of_another_process_is_left_alone(cli, capsys, trainer):
    from filelock import FileLock

    Path("out/mlla/seed-0").mkdir(parents=True)
    with FileLock("out/mlla/seed-0/.lock"), pytest.raises(SystemExit):
        cli("study", "--config", write_study())
    assert "mlla/0: another process is at it" in capsys.readouterr().err
    assert "fit mlla/0" not in trainer.calls


def test_further_sections_of_the_page(cli, trainer):
    cli("study", "--config", write_study())
    plan = Plan("demo", {}, make_variants(STUDY["variants"], [0, 1]), 3, None, "validate", "", 1, Path("out"))
    found = results.gather(plan)
    results.write_study(plan, found, [("Gates & norms", "By depth.", b"png"), ("Field", "Its width.", "<svg/>")])
    page = Path("out/study.html").read_text()
    assert page.index("What follows") < page.index("<h2>Gates &amp; norms</h2>") < page.index("<h2>Field</h2>")
    assert 'src="data:image/png;base64,cG5n"' in page
    assert 'src="data:image/svg+xml;base64,PHN2Zy8+"' in page


@pytest.mark.parametrize(
    ("known", "busy", "left", "expected"),
    [
        ([], [30.0], 4, ""),
        ([600.0, 600.0], [300.0], 4, "about 35 min left"),
        ([6000.0], [900.0], 4, "about 6 h 25 min left"),
        ([60.0], [300.0], 1, "about 0 min left"),
    ],
)
def test_time_left_of_the_whole(cli, known, busy, left, expected):
    plan = Plan("demo", {}, (), 3, None, "validate", "", 1, Path("out"))
    assert runs._left(plan, known, busy, left) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux tells a process that its parent died")
def test_trainings_end_with_a_study_that_is_killed(tmp_path):
    sleeper = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"]
    code = f"import subprocess; from mlla_seg.study.guard import guarded; subprocess.run(guarded({sleeper!r}))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment, text=True)
    child = int(parent.stdout.readline())
    os.kill(child, 0)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    for _ in range(100):
        stat = Path(f"/proc/{child}/stat")
        if not stat.exists() or stat.read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("the training goes on")
    parent.stdout.close()
    assert subprocess.run(guarded([sys.executable, "-c", "raise SystemExit(3)"]), env=environment).returncode == 3


def test_the_last_line_of_a_failed_run_is_why_it_failed(tmp_path):
    plan = Plan("demo", {}, (), 3, None, "validate", "", 1, tmp_path)
    said = runs._call(plan, tmp_path / "x.log", ["configs", "--copy", "demoo"], set())
    assert said.startswith("configs ended with status 2: error: ")
    assert said.endswith(f" (see {tmp_path / 'x.log'})")


@pytest.mark.slow
def test_a_real_study(cli, capsys, monkeypatch, phantom_root):
    call = runs._call

    def called(plan, log, arguments, processes):
        """Only one variant starts processes from nothing, each of which takes ten seconds."""
        if log.parts[-3] == "mlla":
            return call(plan, log, arguments, processes)
        done = run_apart(*arguments)
        return done.stderr.splitlines()[-1] if done.returncode else ""

    monkeypatch.setattr(runs, "_call", called)
    tiny = dict(option.removeprefix("--").split("=") for option in TINY if "progress" not in option)
    options = {key: yaml.safe_load(value) for key, value in tiny.items()}
    options |= {"data.root": str(phantom_root), "data.crop": [32, 32]}
    variants = {
        "mlla": {},
        "resnet": {"options": {"model.encoder": "smp/resnet18", "model.decoder": "unet", "model.decoder_depths": None}},
        "broken": {"options": {"model.encoder": "mlla_none"}},
    }
    config = write_study(options=options, variants=variants, seeds=[0])
    with pytest.raises(SystemExit):
        cli("study", "--config", config)
    said = capsys.readouterr()
    assert "broken/0: error: Unknown encoder 'mlla_none'" in said.err
    assert "2 of 3 runs are done; missing: broken/0." in said.out
    rows = {row["variant"]: row for row in read_csv("out/study.csv")}
    for name, row in rows.items():
        summary = json.loads(Path(f"out/{name}/seed-0/scored/summary.json").read_text())
        assert float(row["score"]) == pytest.approx(summary["val/dice"], abs=1e-6)
        assert (row["steps"], summary["split"]) == ("3", "val")
    assert float(rows["resnet"]["parameters_m"]) > 11
    page = Path("out/study.html").read_text()
    for title in ("Accuracy and cost", "Effective receptive fields", "Attention of a pixel", "Token norms"):
        assert f"<h2>{title}</h2>" in page
    assert "Forget gates" not in page  # no variant has any
    assert page.count("data:image/png;base64,") == 5  # with the forest plot
    before = Path("out/mlla/seed-0/done.json").stat().st_mtime_ns
    cli("study", "--config", config, "--only", "mlla")
    assert Path("out/mlla/seed-0/done.json").stat().st_mtime_ns == before
