"""``python cli.py benchmark``: every row of the table, and one-line errors."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from conftest import ROOT
from jobs import Pixelwise
from mlla_seg.benchmark import command, networks
from mlla_seg.benchmark.command import MALLOC, benchmark
from mlla_seg.benchmark.networks import PEERS
from mlla_seg.errors import InputError


@pytest.fixture
def fixed(monkeypatch):
    for name, value in MALLOC.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(command, "PIXELS_PER_BATCH", 2 * 64**2)  # two images at once, or one


def rows_of(folder):
    with (folder / "benchmark.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_inference_beside_all_others(fixed, tmp_path, capsys):
    benchmark("mlla_test", sizes=[64], precision=["fp32", "bf16"], repeats=1, device="cpu", output=str(tmp_path))
    rows = rows_of(tmp_path)
    names = ["definition", "plain", "ours", *PEERS]
    expected = [("64", name, kind) for kind in ("fp32", "bf16") for name in names]
    assert [(row["size"], row["network"], row["precision"]) for row in rows] == expected
    assert all(float(row["ms"]) > 0 and float(row["kMAC/pixel"]) > 0 and float(row["bytes/pixel"]) > 0 for row in rows)
    assert rows[0]["times"] == "1.0"
    content = json.loads((tmp_path / "benchmark.json").read_text())
    assert content["malloc"] == MALLOC
    assert "threads, torch" in content["machine"]
    with Image.open(tmp_path / "benchmark.png") as picture:
        assert picture.width > 600
    assert "smp Unet-ResNet34" in capsys.readouterr().out


def test_training_keeps_less_the_more_is_computed_again(fixed, tmp_path):
    kinds = dict(sizes=[64], precision=["fp32"], repeats=1, peers=False, backward=True, device="cpu")
    benchmark("mlla_test", **kinds, output=str(tmp_path))
    kept = {row["network"]: float(row["bytes/pixel"]) for row in rows_of(tmp_path)}
    assert list(kept) == ["definition", "ours", "ours, blocks again", "ours, all again"]
    assert kept["ours, all again"] < kept["ours, blocks again"] < kept["ours"]


@pytest.mark.slow
def test_engines_and_compiled_code(fixed, tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "our_network", lambda encoder, decoder: Pixelwise(3))  # whose export takes a moment
    monkeypatch.setattr(networks, "CLASSES", 3)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # where compiled code is kept
    kinds = dict(sizes=[64], precision=["fp32"], repeats=1, peers=False, engines=True, compile=True, device="cpu")
    benchmark(**kinds, output=str(tmp_path))
    rows = rows_of(tmp_path)
    assert [row["network"] for row in rows] == [
        "definition",
        "plain",
        "ours",
        "ours, compiled",
        "onnxruntime",
        "OpenVINO",
    ]
    assert rows[-1]["bytes/pixel"] == ""


def test_the_command_starts_anew_with_fixed_thresholds(tmp_path):
    words = ["--encoder", "mlla_test", "--sizes", "96", "64", "--precision", "fp32", "--peers", "false"]
    words += ["--repeats", "1", "--device", "cpu"]
    line = [sys.executable, str(ROOT / "cli.py"), "benchmark", *words, "--output", str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if name not in MALLOC}
    result = subprocess.run(line, capture_output=True, text=True, env=environment, check=True)
    assert result.stdout.count("threads, torch") == 1
    rows = rows_of(tmp_path)
    assert [row["size"] for row in rows] == sorted(["64", "96"] * (len(rows) // 2))
    assert [row["times"] for row in rows if row["network"] == "definition"] == ["1.0"] * 2


def test_mistakes_are_answered(fixed):
    with pytest.raises(InputError, match="Unknown precision 'fp8'"):
        benchmark(precision=["fp8"])
    with pytest.raises(InputError, match="must be 64 pixels or more"):
        benchmark(sizes=[8])
    with pytest.raises(InputError, match="Unknown encoder 'mlla_huge'"):
        benchmark("mlla_huge", device="cpu")
    with pytest.raises(InputError, match="Device 'tpu' cannot be used here"):
        benchmark(device="tpu")
    with pytest.raises(InputError, match="--engines supports only inference on CPU"):
        benchmark(engines=True, backward=True)
