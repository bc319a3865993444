"""benchmarks/gpu.sh, as far as a machine without a GPU goes."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys

import pytest

from conftest import ROOT
from mlla_seg.cli import COMMANDS


def test_without_a_gpu_it_says_what_it_would_run(cli, tmp_path):
    environment = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    command = ["bash", str(ROOT / "benchmarks/gpu.sh"), str(tmp_path / "gpu")]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0] == "No GPU here. On a machine with one this would run:"
    steps = [re.fullmatch(r"(\w+), at most (\d+) min: (.+)", line) for line in said[1:]]
    assert sum(int(step[2]) for step in steps) <= 25
    assert not (tmp_path / "gpu").exists()
    for step in steps:
        words = shlex.split(step[3].replace(" configs/", f" {ROOT}/configs/"))[1:]
        if words[0] == "cli.py":
            assert words[1] in COMMANDS
        if words[:2] == ["cli.py", "fit"]:
            with pytest.raises(SystemExit) as stop:
                cli(*words[1:], "--print_config")
            assert not stop.value.code
