"""``explain``: pictures and page of a trained network, chosen pixels, one-line errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from layouts import write_scene
from mlla_seg.data.formats.registry import read_channels
from mlla_seg.models.checkpoint import load_segmenter


@pytest.fixture
def volume(phantom_root):
    return sorted(phantom_root.rglob("*.h5"))[0]


def test_a_network_is_explained(cli, checkpoint, volume, capsys):
    cli("explain", "--ckpt_path", checkpoint, "--input", volume, "--output=out", "--pixel", "2", "11", "20")
    printed = capsys.readouterr().out
    assert "slice 2, row 11, column 20, segmented as " in printed
    assert "Written: out/attention.png, out/receptive_field.png, out/explain.html" in printed
    blocks = [line.split("  ")[0] for line in printed.splitlines() if line.startswith(("encoder", "decoder"))]
    assert (len(blocks), blocks[0]) == (7, "encoder 1/4, block 1")
    with Image.open("out/attention.png") as picture:
        assert picture.size[0] > 800
        assert len(np.unique(np.asarray(picture)[..., :3].reshape(-1, 3), axis=0)) > 500  # colours: not empty panels
    page = Path("out/explain.html").read_text()
    assert page.count("data:image/png;base64") == 2
    assert "decoder 1/4, block 1" in page


def test_the_default_pixel_lies_in_the_foreground_or_amid_the_image(cli, checkpoint, volume, capsys):
    cli("explain", "--ckpt_path", checkpoint, "--input", volume)
    printed = capsys.readouterr().out
    slices = len(read_channels((volume,), load_segmenter(checkpoint).spec.plane).array)
    assert "segmented as background" not in printed or f"slice {slices // 2}, row 16, column 16" in printed


def test_a_network_without_blocks_has_a_field_but_no_attention(cli, checkpoint, volume, tmp_path, capsys):
    from mlla_seg import create_model

    spec = load_segmenter(checkpoint).spec
    network = create_model("smp/resnet18", "unet", len(spec.classes), 1)
    network.spec = spec
    network.save_pretrained(tmp_path / "resnet")
    cli("explain", "--ckpt_path", tmp_path / "resnet", "--input", volume, "--output=out")
    printed = capsys.readouterr().out
    assert "note: no attention is drawn for this network: it has no MLLA blocks." in printed
    assert "Written: out/receptive_field.png, out/explain.html" in printed


def test_pixels_without_data_are_filled_as_in_prediction(cli, checkpoint, tmp_path, capsys):
    scene = np.random.default_rng(0).uniform(1, 250, (1, 40, 50)).astype(np.float32)
    scene[0, :5] = np.nan
    write_scene(tmp_path / "scene.tif", scene)
    cli("explain", "--ckpt_path", checkpoint, "--input", tmp_path / "scene.tif", "--pixel", "20", "30")
    assert "Written: explained/attention.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pixel", "1", "2"], "--pixel takes slice, row and column within (4, 32, 32), counted from 0, got [1, 2]"),
        (["--pixel", "1", "2", "32"], "--pixel takes slice, row and column within (4, 32, 32)"),
        (["--input=missing.h5"], "missing.h5: no such file"),
        (["--ckpt_path=missing.ckpt"], "missing.ckpt"),
    ],
)
def test_mistakes_are_said_in_a_line(cli, checkpoint, volume, capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        cli("explain", "--ckpt_path", checkpoint, "--input", volume, *options)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_explaining_changes_no_weights(checkpoint):
    from mlla_seg.explain.receptive_field import receptive_field

    network = load_segmenter(checkpoint)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    receptive_field(network, torch.zeros(1, network.in_channels, 32, 32), 5, 5)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
