"""Encoders of users: the contract, class paths on the command line, and checkpoints that name code."""

from __future__ import annotations

import os
import sys

import pytest
import torch
from torch import nn

import mlla_seg
from conftest import ROOT, TINY
from mlla_seg.errors import InputError
from mlla_seg.models import ENCODERS, create_model
from mlla_seg.models.own import ALLOWED, OwnEncoder

CODE = """
from pathlib import Path
from torch import nn

Path("imported").touch()

class MyEncoder(nn.Module):
    def __init__(self, in_channels):
        super().__init__()
        widths = [in_channels, 4, 6, 8, 10, 12]
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in zip(widths, widths[1:]))

    def forward(self, x):
        maps = []
        for layer in self.layers:
            maps.append(x := layer(x).relu())
        return maps
"""


class Pyramid(nn.Module):
    def __init__(self, in_channels, strides=(2, 4, 8, 16, 32)):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(in_channels, 2 + k, s, s) for k, s in enumerate(strides))

    def forward(self, x):
        return [layer(x) for layer in self.layers]


class WithImage(Pyramid):
    def forward(self, x):
        return [x, *super().forward(x)]


class WithoutFirst(Pyramid):
    def __init__(self, in_channels):
        super().__init__(in_channels, (4, 8, 16, 32))


class Shallow(Pyramid):
    def __init__(self, in_channels):
        super().__init__(in_channels, (2, 4, 8))


@pytest.mark.parametrize("build", [Pyramid, WithImage, WithoutFirst])
@pytest.mark.parametrize("decoder", ["unet", "fpn"])
def test_an_entry_of_encoders_is_used_by_name(monkeypatch, build, decoder):
    monkeypatch.setitem(ENCODERS, "mine", build)
    network = create_model("mine", decoder, num_classes=3, in_channels=2).eval()
    assert network(torch.zeros(1, 2, 50, 70)).shape == (1, 3, 50, 70)
    assert len(network.encoder.out_channels) == 5


def test_what_keeps_no_contract_is_refused():
    with pytest.raises(InputError, match="expected feature maps at the strides 2, 4, 8, 16, 32"):
        OwnEncoder("mine", Shallow)
    with pytest.raises(InputError, match=r"mine cannot be used as an encoder: TypeError: .*in_channels"):
        OwnEncoder("mine", nn.ReLU)
    with pytest.raises(InputError, match="the decoder needs stride 16"):
        OwnEncoder("mine", Pyramid, output_stride=16)
    with pytest.raises(InputError, match=r"no class loads that is a torch.nn.Module"):
        create_model("json.loads", "unet")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A module ``my_encoders`` in the current folder that leaves a file when it is imported."""
    (tmp_path / "my_encoders.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("my_encoders", None)


def test_a_class_path_trains_and_its_checkpoint_imports_nothing_unasked(
    package, cli, capsys, monkeypatch, phantom_root
):
    options = ["--config", ROOT / "configs/demo.yaml", f"--data.root={phantom_root}", "--data.crop=[32,32]", *TINY[2:]]
    options += ["--model.encoder=my_encoders.MyEncoder", "--model.decoder=unet", "--model.decoder_depths=null"]
    cli("fit", *options, "--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1")
    path = "runs/demo/version_0/checkpoints/last.ckpt"
    sys.modules.pop("my_encoders")
    os.remove("imported")
    with pytest.raises(SystemExit):
        cli("predict", "--ckpt_path", path, "--input", phantom_root / "test_vol_h5", "--output", "masks")
    error = capsys.readouterr().err
    assert "code that is not imported because a file names it" in error
    assert "Traceback" not in error
    with pytest.raises(InputError, match=ALLOWED):
        mlla_seg.SegmentationModule.load_from_checkpoint(path)
    assert not os.path.exists("imported")
    monkeypatch.setenv(ALLOWED, "my_encoders")
    assert mlla_seg.Predictor.from_checkpoint(path).network.encoder.name == "my_encoders.MyEncoder"
    cli("test", *options, "--ckpt_path=last", "--trainer.limit_test_batches=1")


def test_a_module_that_is_not_there_is_said_in_a_line(cli, capsys, phantom_root):
    options = ["--config", ROOT / "configs/demo.yaml", f"--data.root={phantom_root}"]
    with pytest.raises(SystemExit) as stop:
        cli("fit", *options, "--model.encoder=absent_package.Encoder")
    assert stop.value.code == 2
    assert "absent_package cannot be imported: ModuleNotFoundError" in capsys.readouterr().err
