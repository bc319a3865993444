"""Loading foreign weights: what fits is loaded, the rest is reported, and no code in a file is executed."""

from __future__ import annotations

import argparse
import pickle

import pytest
import torch
from safetensors.torch import save_file

from mlla_seg import MLLA, MLLAEncoder, MLLAUNet, create_model, load_pretrained
from mlla_seg.models.mlla import SIZES

SIZE = {key: SIZES["mlla_test"][key] for key in ("embed_dim", "depths", "num_heads")}


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    return MLLA(**SIZE, num_classes=7)


def test_decoder_blocks_start_as_copies_of_encoder_blocks(classifier):
    model = MLLAUNet(**SIZE, decoder_depths=(2, 1, 1), num_classes=3)
    before = model.decoder.levels[0].stage.blocks[1].mixer.qk.weight.clone()
    report = load_pretrained(model, classifier.state_dict())
    stages, levels = classifier.encoder.stages, model.decoder.levels
    for level, stage in ((0, 2), (1, 1), (2, 0)):
        torch.testing.assert_close(levels[level].stage.blocks[0].mlp[0].weight, stages[stage].blocks[0].mlp[0].weight)
    torch.testing.assert_close(levels[0].stage.blocks[1].mixer.qk.weight, before)  # the encoder has one block there
    assert "decoder.levels.0.stage.blocks.0.mixer.qk.weight" in report.adapted
    assert "decoder.levels.0.stage.blocks.1.mixer.qk.weight" in report.missing
    assert report.left_out == ["head.weight", "head.bias"]


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_first_convolution_is_adapted(classifier, channels):
    model = MLLAEncoder(in_channels=channels, **SIZE)
    report = load_pretrained(model, classifier.state_dict())
    assert report.adapted == ["stem.conv1.0.weight"]
    ours, theirs = model.stem.conv1[0].weight, classifier.encoder.stem.conv1[0].weight
    if channels in (1, 6):  # the same response to an image that is equal in all channels
        torch.testing.assert_close(ours.sum(dim=1), theirs.sum(dim=1))
    else:
        torch.testing.assert_close(ours[:, channels - 1], theirs[:, (channels - 1) % 3] * 3 / channels)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_load(classifier, tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"model": classifier.state_dict(), "epoch": 3}, path)
    else:
        save_file(classifier.state_dict(), path)
    model = MLLA(**SIZE, num_classes=7)
    assert not load_pretrained(model, path).missing
    torch.testing.assert_close(model.head.weight, classifier.head.weight)


def test_checkpoints_of_timm_load_and_their_average_comes_first(classifier, tmp_path, monkeypatch):
    saver = pytest.importorskip("timm.utils").CheckpointSaver
    averaged = MLLA(**SIZE, num_classes=7)
    optimizer = torch.optim.AdamW(classifier.parameters())
    options = argparse.Namespace(model="mlla_test", lr=1e-3, mean=(0.5, 0.5))
    for ema, key, expected in ((None, "state_dict", classifier), (averaged, "state_dict_ema", averaged)):
        saver(classifier, optimizer, options, ema, checkpoint_dir=tmp_path).save_checkpoint(0, 0.5)
        model = MLLA(**SIZE, num_classes=7)
        report = load_pretrained(model, tmp_path / "last.pth.tar")
        assert f"parameters loaded from '{key}'" in str(report)
        torch.testing.assert_close(model.head.weight, expected.head.weight)
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save({"model_ema": averaged.state_dict()}, tmp_path / "ema.pth")
    assert load_pretrained(MLLA(**SIZE, num_classes=7), "~/ema.pth").file_key == "model_ema"


def test_another_depth_is_another_size(classifier):
    deeper = {**SIZE, "depths": (1, 1, 3, 1)}
    for model, source in ((MLLA(**deeper), classifier), (classifier, MLLA(**deeper))):
        with pytest.raises(ValueError, match=r"Stage 2 .* has \d blocks, .* another size"):
            load_pretrained(model, source.state_dict())
    short = MLLAEncoder(embed_dim=8, depths=(1, 1), num_heads=(1, 1))
    assert not load_pretrained(short, classifier.state_dict()).missing
    missing = load_pretrained(MLLAEncoder(**SIZE), short.state_dict()).missing
    assert {name.rsplit(".", 1)[0][:8] for name in missing} == {"stages.2", "stages.3", "downsamp"}


def test_another_number_of_classes_leaves_the_head_out(classifier):
    model = MLLA(**SIZE, num_classes=2)
    before = model.head.weight.clone()
    report = load_pretrained(model, classifier.state_dict())
    assert report.left_out == ["head.weight", "head.bias"]
    torch.testing.assert_close(model.head.weight, before)
    assert "left out: head.weight, head.bias" in str(report)


def test_wrong_files_are_refused_with_their_name(classifier, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    cases = {
        "old_evil.pth": pickle.dumps({"model": Evil()}),
        "text.pth": b"hello",
        "cut.safetensors": b"\x10\x00\x00\x00\x00\x00\x00\x00{",
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    for name in (*cases, "evil.pth"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as weights: ") as answer:
            load_pretrained(classifier, tmp_path / name)
        expected = "its io.open would execute code" if name == "evil.pth" else "damaged or not a weights file"
        assert expected in str(answer.value)
        assert len(str(answer.value).splitlines()) == 1
        assert "weights_only" not in str(answer.value)
    assert not (tmp_path / "executed").exists()
    with pytest.raises(ValueError, match=r"No weights at .*absent\.pth"):
        load_pretrained(classifier, tmp_path / "absent.pth")
    with pytest.raises(ValueError, match=r"No encoder parameter of the state dict fits MLLA: it holds conv\.weight"):
        load_pretrained(classifier, {"conv.weight": torch.zeros(1)})
    torch.save({"model": {}}, tmp_path / "empty.pth")
    with pytest.raises(ValueError, match=r"empty\.pth holds no state dict"):
        load_pretrained(classifier, tmp_path / "empty.pth")
    with pytest.raises(ValueError, match=r"fits MLLA: it holds nothing\."):
        load_pretrained(classifier, {})
    with pytest.raises(ValueError, match="another size"):
        load_pretrained(MLLA(embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)), classifier.state_dict())
    with pytest.raises(ValueError, match="fits Linear"):
        load_pretrained(torch.nn.Linear(1, 1), classifier.state_dict())


def test_normalisation_of_other_data_stays_behind():
    scans = create_model("mlla_test", num_classes=2, in_channels=1, normalisation={"mean": 75, "std": 100})
    network = create_model("mlla_test", num_classes=2, in_channels=1)
    report = load_pretrained(network, scans.state_dict())
    assert network.normalise.mean.item() == 0
    assert set(report.left_out) == {"normalise.mean", "normalise.std", "normalise.window"}
    assert not report.missing
    torch.testing.assert_close(network.head.weight, scans.head.weight)


def test_a_lightning_checkpoint_gives_its_network(checkpoint):
    network = create_model("mlla_test", num_classes=9, in_channels=1, decoder_depths=(1, 1, 1))
    report = load_pretrained(network, checkpoint)
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert not report.missing
    torch.testing.assert_close(network.encoder.stem.conv1[0].weight, weights["network.encoder.stem.conv1.0.weight"])
    torch.testing.assert_close(network.head.weight, weights["network.head.weight"])


def test_another_decoder_is_left_out(classifier):
    source = create_model("mlla_test", "unet", num_classes=7)
    target = create_model("mlla_test", "fpn", num_classes=7)
    report = load_pretrained(target, source.state_dict())
    assert all(name.startswith("encoder.") for name in report.loaded)
    assert {name.split(".")[0] for name in report.left_out} >= {"decoder"}
    assert {name.split(".")[0] for name in report.missing} <= {"decoder", "head"}
