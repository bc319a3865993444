"""``preview``: training samples drawn from a config, overridden options, one-line errors."""

from __future__ import annotations

import pytest
import torch
import yaml
from PIL import Image

from conftest import ROOT
from mlla_seg.evaluation import plots
from mlla_seg.training.preview import sections


@pytest.fixture
def config(phantom_root, tmp_path):
    content = yaml.safe_load((ROOT / "configs/demo.yaml").read_text())
    content["data"] |= {"root": str(phantom_root), "crop": [48, 48], "cache_dir": str(tmp_path / "cache")}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_samples_are_drawn_as_the_network_gets_them(cli, config, capsys, monkeypatch):
    drawn = []
    plot = plots.plot_samples
    monkeypatch.setattr("mlla_seg.training.preview.plot_samples", lambda *a, **k: (drawn.append((a, k)), plot(*a, **k)))
    cli("preview", "--config", config, "--samples=5", "--output=sheet.png", "--data.context=1", "--data.augment=none")
    (samples,), options = drawn[0]
    assert len(samples) == 5
    assert {sample["image"].shape for sample in samples} == {(3, 48, 48)}
    assert options["shown"] == [1, 1, 1]  # the slice between its neighbours, in grey
    assert "augment none, intensity 0.5" in options["title"]
    assert abs(float(samples[0]["image"].mean())) < 3  # normalised: in HU it would be far away
    assert len({sample["name"] for sample in samples}) > 3
    with Image.open("sheet.png") as sheet:
        assert sheet.size[0] > 500
    printed = capsys.readouterr().out
    assert "5 of 40 samples" in printed
    assert "56% of all pixels are ignored" in printed  # slices of 32 x 32 in crops of 48 x 48
    assert "Written: sheet.png" in printed


def test_mistakes_are_said_in_a_line(cli, config, capsys):
    config.with_name("model.yaml").write_text("model: {lr: 1}")
    for options, message in (
        (["--config=missing.yaml"], "missing.yaml: no such file"),
        (["--config", config.with_name("model.yaml")], "has no section 'data'"),
        (["--config", config, "--samples=0"], "--samples must be 1 or more, got 0"),
        (["--config", config, "--data.crop=[0,3]"], "--data.crop takes two numbers"),
    ):
        with pytest.raises(SystemExit) as stop:
            cli("preview", *options)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


def test_patches_of_volumes_are_drawn_in_two_sections():
    mask = torch.zeros(3, 5, 4, dtype=torch.int64)
    mask[1, 1:4, 2], mask[2, 3] = 1, 255
    image = torch.arange(60.0).reshape(1, 3, 5, 4)
    shown = sections({"image": image, "mask": mask, "name": "case"}, background=0, thickness=2)
    assert torch.equal(shown["image"][:, :5], image[:, 1])  # the slice with most pixels
    across = image[:, [2, 2, 1, 1, 0, 0], 1]  # the first row with most pixels, the last slice uppermost
    assert torch.equal(shown["image"][:, 5:], across)
    assert shown["mask"].shape == (11, 4)
    assert shown["mask"][5:, 2].tolist() == [0, 0, 1, 1, 0, 0]
    assert shown["name"] == "case\nslice 1 of 3, and all slices at row 1"
