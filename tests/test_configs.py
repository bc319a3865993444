"""Every shipped config trains, tests and predicts on tiny files in the layout of the public download."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

import layouts
from conftest import ROOT, TINY
from forks import run_apart
from mlla_seg import Predictor, SegmentationDataModule, SegmentationModule
from mlla_seg.data.boxes import Box
from mlla_seg.data.card_sections import CardNormalisation
from mlla_seg.data.shipped import is_pretraining, is_study, read_config
from mlla_seg.inference.cases import predict_case

CONTENTS = {path: yaml.safe_load(path.read_text()) for path in sorted((ROOT / "configs").glob("*.yaml"))}
CONFIGS = [path for path, content in CONTENTS.items() if not (is_study(content) or is_pretraining(content))]
SCENES = ("kampala", "sentinel2_india", "wildfire", "potsdam", "potsdam_rgbir", "vaihingen", "loveda")
SCENES += ("image_folder", "geotiff_pairs", "new_brunswick")


def run_all(cli, config: Path, root: Path, *options: str) -> None:
    name = config.stem
    small = [f"--data.root={root}", *TINY, "--trainer.precision=32-true", *options]
    if name in SCENES:
        small.append("--data.crop=[32,32]")  # the tiny scenes have room for a batch of these
    if len(read_config(str(config))["data"].get("crop") or ()) == 3:
        small.append("--data.batch_size=2")  # of whole volumes
    cli("fit", "--config", config, "--trainer.max_epochs=1", "--trainer.limit_train_batches=2", *small)
    run = Path("runs", name, "version_0")
    checkpoint = run / "checkpoints/last.ckpt"
    assert torch.load(checkpoint, weights_only=True)["global_step"] > 0
    assert (run / "training.png").stat().st_size > 5000
    cli("test", "--config", config, "--ckpt_path", "last", "--trainer.limit_test_batches=1", *small)
    with Path("runs", name, "version_1", "per_case.csv").open() as file:
        rows = list(csv.DictReader(file))
    classes = Predictor.from_checkpoint(checkpoint).spec.class_names
    assert [row["class"] for row in rows[: len(classes)]] == classes
    summary = json.loads(Path("runs", name, "version_1", "summary.json").read_text())
    assert 0 <= summary["test/dice"] <= 1
    assert Path("runs", name, "version_1", "overlay.png").stat().st_size > 5000


class Encoder(torch.nn.Module):
    """Stores its inputs."""

    seen: list[torch.Tensor]

    def forward(self, x):
        self.seen.append(x)
        return []


class Decoder(torch.nn.Module):
    """Returns zeros of the right size."""

    def decode(self, x, features):
        return torch.zeros(len(x), 1, *x.shape[2:])


@pytest.mark.parametrize("per_case", [False, True])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_training_sees_what_prediction_sees(config, per_case, tmp_path, monkeypatch):
    """Without augmentation, a sample equals the encoder's input for its slice or window in prediction."""
    monkeypatch.chdir(tmp_path)
    content = read_config(str(config))["data"]
    root = tmp_path / "data"
    layouts.WRITERS[layouts.root_of(config).name](root)
    options = {**content, "root": str(root), "augment": "none", "intensity": 0.0, "balance": 0.0, "batch_size": 1}
    for drawing in ("dataset", "patches"):  # the first of the windows, where an image has several
        monkeypatch.setattr(
            f"mlla_seg.data.{drawing}.draw_box",
            lambda size, crop, *_: Box((0,) * len(size), tuple(map(min, size, crop))),
        )
    data = SegmentationDataModule(**options)
    if per_case:
        data.card = replace(data.card, normalisation=CardNormalisation(per_case=True))
    data.prepare_data()
    data.setup("fit")
    assert bool(data.spec.view.per_case) == (per_case or data.spec.axes == 3)  # volumes have no images of their own
    network = SegmentationModule("mlla_test", spec=data.spec).network.eval()
    encoder = Encoder()
    network.encoder, network.classify = encoder, lambda x: x
    network.decoder = Decoder()
    for case, start in zip(data.train_set.cases[:2], data.train_set.first[:2].tolist(), strict=False):
        encoder.seen = []
        image = torch.from_numpy(case.image())
        predict_case(network, image, data.spec.view, case.spacing_mm)
        predicted = torch.cat(encoder.seen)
        sample = data.train_set[start]["image"][None]
        encoder.seen = []
        network.segment(sample)
        given = encoder.seen[0]
        assert given.shape[1:] == predicted.shape[1:]
        assert (predicted[0] - given).abs().max() < 1e-4 * given.abs().max()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_published_protocols_are_trained_as_they_are_scored(config):
    content = read_config(str(config))
    if content.get("evaluation") == "transunet":
        assert content["data"]["resize"] == [224, 224]
        assert "crop" not in content["data"]


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_config_runs_on_its_layout(cli, config, tmp_path):
    root = tmp_path / layouts.root_of(config)
    layouts.WRITERS[root.name](root)
    run_all(cli, config, root)


@pytest.mark.slow
def test_a_folder_without_a_card_is_measured_alike_in_two_processes(tmp_path):
    root = tmp_path / "nnunet"
    layouts.WRITERS["nnunet"](root)
    command = ["fit", "--config", ROOT / "configs/nnunet.yaml", f"--data.root={root}"]
    command += [*TINY, "--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.precision=32-true"]
    command += ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]
    result = run_apart(*command, ranks=2, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Run folder:") == 1
    saved = torch.load(tmp_path / "runs/nnunet/version_0/checkpoints/last.ckpt", weights_only=True)
    steps = saved["hyper_parameters"]["spec"]["spacing_mm"]
    assert steps[0] is None
    assert all(step > 0 for step in steps[1:])


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("acdc", layouts.acdc_transunet),
        ("acdc", lambda root: layouts.acdc_ssl4mis(root, slices_only=True)),
        ("hippocampus", lambda root: layouts.hippocampus(root, version=2)),
    ],
    ids=["acdc as npz", "acdc slices only", "hippocampus as nnU-Net v2"],
)
def test_other_layouts_of_the_same_data(cli, tmp_path, name, write):
    write(tmp_path / "data")
    run_all(cli, ROOT / f"configs/{name}.yaml", tmp_path / "data")


@pytest.mark.parametrize("config", [path for path in CONFIGS if path.stem != "nnunet"], ids=lambda path: path.stem)
def test_missing_data_are_answered_with_where_to_get_them(cli, capsys, config):
    with pytest.raises(SystemExit) as stop:
        cli("fit", "--config", config, *TINY)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    for part in ("does not exist", "Get it from:", "Licence:", "--data.root", str(layouts.root_of(config))):
        assert part in message
    assert "Traceback" not in message


def test_without_a_card_the_description_is_asked_for(cli, capsys):
    with pytest.raises(SystemExit):
        cli("fit", "--config", ROOT / "configs/nnunet.yaml", *TINY)
    message = capsys.readouterr().err
    assert "data/nnunet/dataset.json, which does not exist" in message
    assert "Give the name of a card" in message


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("acdc", "acdc"),
        ("hippocampus", "hippocampus"),
        ("wildfire", "wildfire_s2"),
        ("kampala", "kampala_buildings"),
    ],
)
def test_config_runs_on_real_data(cli, real_data, name, folder, tmp_path):
    root = real_data / folder
    if name == "hippocampus":  # a dozen of the 260 volumes, to be quick
        root = tmp_path / name
        for folder in ("imagesTr", "labelsTr"):
            (root / folder).mkdir(parents=True)
            for path in sorted((real_data / name / folder).iterdir())[:12]:
                shutil.copy(path, root / folder)
        shutil.copy(real_data / name / "dataset.json", root)
    run_all(cli, ROOT / f"configs/{name}.yaml", root, "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=2")
