"""The command pretrain on unlabelled images: a run, its pictures, resuming, processes, and what fit makes of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import ROOT
from forks import run_apart
from mlla_seg.data.dataspec import DataSpec
from mlla_seg.errors import InputError
from mlla_seg.models import create_model
from mlla_seg.models.weights import load_pretrained
from mlla_seg.pretraining.images import ImagesDataModule
from mlla_seg.pretraining.masked import MaskedModule
from samples import classes_of

TINY = ("--model.encoder=mlla_test", "--model.decoder_width=8", "--data.crop=[32,32]", "--data.patch=8")
TINY += ("--data.batch_size=2", "--data.num_workers=0", "--data.augment=none", "--trainer.accelerator=cpu")
TINY += ("--trainer.enable_progress_bar=false", "--trainer.logger.init_args.name=masked")


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for k in range(4):
        pixels = np.random.default_rng(k).integers(0, 255, (40, 40, 2), np.uint8).repeat(4, 0).repeat(4, 1)
        Image.fromarray(pixels[:40, :40, [0, 1, 0]]).save(folder / f"photo_{k}.png")
    return folder


def command(images, *options):
    return ("pretrain", "--config", ROOT / "configs/pretrain_masked.yaml", f"--data.root={images}", *TINY, *options)


def weights(folder):
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def test_a_resumed_run_equals_an_uninterrupted_one_and_starts_a_segmenter(cli, tmp_path, images, capsys):
    runs = tmp_path / "runs/masked"
    steady = ("--model.schedule=constant", "--model.warmup=0")  # the rate does not depend on the planned length
    cli(*command(images, *steady, "--trainer.max_epochs=2"))
    said = capsys.readouterr().out
    assert f"{images}: 4 images without labels, such as photo_0" in said
    assert f"--model.pretrained {runs.relative_to(tmp_path)}/version_0/checkpoints/last.ckpt" in said
    pictures = sorted(path.name for path in (runs / "version_0/reconstructions").iterdir())
    assert pictures[-1] == "epoch_0002.png"
    with Image.open(runs / "version_0/reconstructions/epoch_0002.png") as picture:
        assert picture.size[0] > 300
    cli(*command(images, *steady, "--trainer.max_epochs=1"))
    cli(*command(images, *steady, "--trainer.max_epochs=2", "--ckpt_path=last"))
    whole, resumed = weights(runs / "version_0"), weights(runs / "version_1")
    assert all(map(torch.equal, whole.values(), resumed.values()))
    segmenter = create_model("mlla_test")
    report = load_pretrained(segmenter, runs / "version_0/checkpoints/last.ckpt")
    assert torch.equal(segmenter.encoder.stem.conv1[0].weight, whole["network.encoder.stem.conv1.0.weight"])
    assert "left out: decoder." in str(report)


@pytest.mark.slow
def test_the_same_batch_is_one_step_on_any_number_of_processes(tmp_path, images):
    def trained(devices):
        folder = tmp_path / str(devices)
        folder.mkdir()
        words = [*command(images, "--trainer.max_epochs=1", f"--trainer.devices={devices}", "--trainer.strategy=ddp")]
        words += ["--trainer.precision=64-true"]
        result = run_apart(*words, ranks=devices, folder=folder)
        assert result.returncode == 0, result.stdout + result.stderr
        return weights(folder / "runs/masked/version_0")

    one, two = trained(1), trained(2)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-8, rtol=1e-6)


def test_other_encoders_are_filled_and_whole_networks_refused():
    spec = DataSpec(("grey",), tuple(classes_of(["background", "tree"]))).to_dict()
    module = MaskedModule("smp/resnet18", decoder_width=8, spec=spec)
    assert module.network.why_filled == "it is not an MLLA encoder"
    with pytest.raises(InputError, match="apply to MLLA blocks, which smp/resnet18 lacks"):
        MaskedModule("smp/resnet18", mixer="softmax", spec=spec)
    with pytest.raises(InputError, match="monai/dynunet is a whole network: pretrain an encoder"):
        MaskedModule("monai/dynunet", spec=spec)
    with pytest.raises(InputError, match="needs the spec of its data"):
        MaskedModule("mlla_test")


def test_pictures_put_means_back_and_keep_what_is_seen(tmp_path, images):
    data = ImagesDataModule(
        root=str(images), crop=[32, 32], patch=16, augment="none", cache_dir=str(tmp_path / "cache")
    )
    data.setup("fit")
    sample = {key: value[None] for key, value in data.train_set[0].items() if key != "name"}
    module = MaskedModule("mlla_test", decoder_width=8, spec=data.spec.to_dict())
    torch.nn.init.zeros_(module.network.decoder.draw.weight)
    torch.nn.init.zeros_(module.network.decoder.draw.bias)
    shown, image, visible = module.reconstruct(sample)[0], sample["image"][0], sample["visible"][0]
    assert module.network.training
    for row in range(2):
        for column in range(2):
            place = (slice(None), slice(16 * row, 16 * row + 16), slice(16 * column, 16 * column + 16))
            expected = image[place] if visible[row, column] else image[place].mean().expand(3, 16, 16)
            torch.testing.assert_close(shown[place], expected, rtol=1e-4, atol=1e-4)
