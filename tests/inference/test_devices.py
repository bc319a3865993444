"""Real processes, as torchrun and ``--devices`` start them, make the files of one process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from PIL import Image

from conftest import ROOT
from layouts import write_scene
from maps import noise, spec_of
from mlla_seg.errors import InputError
from mlla_seg.inference.devices import several
from mlla_seg.inference.optimize import device_named
from mlla_seg.inference.predictor import predict
from mlla_seg.models import create_model

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A network, photos and a scene, and the files that one process makes of them."""
    folder = tmp_path_factory.mktemp("shared")
    torch.manual_seed(0)
    network = create_model("mlla_test", "unet", num_classes=3, in_channels=3, normalisation={"mean": 120, "std": 60})
    network.spec = spec_of(3)
    network.save_pretrained(folder / "network")
    (folder / "in").mkdir()
    write_scene(folder / "in/scene.tif", noise(3, 150, 70))
    for name in "ab":
        Image.fromarray(noise(60, 70, 3)).save(folder / f"in/{name}.png")
    predict(str(folder / "network"), str(folder / "in"), str(folder / "one"), device="cpu", statistics=True)
    return folder


def files(folder):
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}


@pytest.mark.parametrize("starter", ["torchrun", pytest.param("devices", marks=pytest.mark.slow)])
def test_two_processes_make_the_files_of_one(work, starter):
    options = ["--ckpt_path=network", "--input=in", f"--output={starter}", "--device=cpu", "--statistics=true"]
    begin = TORCHRUN if starter == "torchrun" else ()
    options += [] if starter == "torchrun" else ["--devices=2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, *begin, str(ROOT / "cli.py"), "predict", *options]
    run = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert files(work / starter) == files(work / "one")
    assert run.stdout.count("3 of 3 masks written") == 1
    assert run.stderr.count("note: 2 processes share the 3 images.") == 1


def test_processes_that_cannot_be_started_are_refused(monkeypatch):
    def start(count, device="cpu"):
        with several(count, device, predict, {}):
            pass

    with pytest.raises(InputError, match=r"^--devices must be 1 or more processes, got 0\.$"):
        start(0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("mlla_seg.inference.devices.device_named", lambda name: name)
    with pytest.raises(InputError, match=r"^--devices 3: this machine has 2 GPUs\. Use as many"):
        start(3, "cuda")
    with pytest.raises(InputError, match=r"^--devices 2: --device cuda:1 is one GPU\. Use as many"):
        start(2, "cuda:1")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(InputError, match=r"^--devices 2: 4 processes were already started by torchrun or srun\."):
        start(2)


def test_processes_of_a_machine_take_its_gpus_in_turn(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "empty", lambda *shape, device: device)
    assert [device_named("cuda", local) for local in (0, 1, 2)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert device_named("cuda") == "cuda"
    assert device_named("cuda:1", 0) == "cuda:1"
    assert device_named("cpu", 1) == "cpu"
