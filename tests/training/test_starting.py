"""Starting from pretrained weights says how their images were normalised, compared with the training's own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from timm import create_model as timm_model

from mlla_seg.data.dataspec import DataSpec, Normalisation
from mlla_seg.models import create_model
from mlla_seg.models.checkpoint import CHECKPOINT_KEY, PRETRAINING_KEY
from mlla_seg.models.mlla import MLLA, SIZES
from mlla_seg.training.starting import IMAGENET, alike, note_seen, start_from

SPEC = DataSpec.of(
    {
        "channels": ["red", "green", "blue"],
        "classes": ["background", "roof"],
        "normalisation": {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]},
    }
)


@pytest.fixture
def classifier(tmp_path):
    """Saves weights of a classifier under keys of a checkpoint, and returns the path."""

    def save(**further):
        weights = MLLA(**SIZES["mlla_test"], num_classes=4).state_dict()
        path = tmp_path / "best.ckpt"
        torch.save({"state_dict": {f"network.{key}": value for key, value in weights.items()}, **further}, path)
        return str(path)

    return save


def said(path, spec=SPEC, encoder="mlla_test"):
    decoder = "mlla_unet" if encoder.startswith("mlla") else "fpn"
    return start_from(create_model(encoder, decoder, in_channels=len(spec.channels)), path, spec)


def test_a_checkpoint_of_pretraining_is_compared(classifier):
    numbers = {"mean": list(IMAGENET.mean), "std": list(IMAGENET.std)}
    path = classifier(**{CHECKPOINT_KEY: "0", PRETRAINING_KEY: {"kind": "classification", **numbers}})
    loaded, compared = said(path)
    assert "left out: head.weight, head.bias (2 in all)" in loaded
    assert compared == (
        f"{path}: its images were normalised as those of this training: mean 123.7, 116.3, 103.5, standard deviation "
        "58.4, 57.12, 57.38."
    )
    other = replace(SPEC, normalisation=Normalisation(100.0, 50.0))
    assert said(path, other)[1] == (
        f"note: the images of {path} were normalised by mean 123.7, 116.3, 103.5, standard deviation 58.4, 57.12, "
        "57.38; this training: mean 100, standard deviation 50. The card's normalisation decides."
    )


def test_a_file_that_does_not_say_is_compared_with_imagenet(classifier):
    path = classifier()
    assert len(said(path)) == 1
    per_image = replace(SPEC, normalisation=Normalisation(per_image=True))
    assert f"note: {path} does not say how its images were normalised. ImageNet classifiers: mean" in said(
        path, per_image
    )[1]  # fmt: skip


def test_a_folder_says_its_numbers_but_not_its_patients(tmp_path, capfd):
    network = create_model("mlla_test", num_classes=2)
    network.spec = replace(SPEC, normalisation=Normalisation(100.0, 50.0))
    network.save_pretrained(tmp_path / "roofs")
    path = str(tmp_path / "roofs")
    assert said(path)[1].startswith(f"note: the images of {path} were normalised by mean 100, standard deviation 50;")
    note_seen(path, [])
    assert f"note: {path} does not say on which patients it was trained" in "".join(capfd.readouterr())
    (tmp_path / "roofs/config.json").unlink()  # as folders of other libraries
    assert len(said(path)) == 1


def test_timm_knows_the_numbers_of_its_networks(tmp_path):
    torch.save(timm_model("resnet10t").state_dict(), tmp_path / "resnet10t.pth")
    path = str(tmp_path / "resnet10t.pth")
    assert "as those of this training" in said(path, encoder="timm/resnet10t")[1]
    scans = replace(SPEC, channels=("scan",), normalisation=Normalisation(100.0, 50.0))
    loaded, compared = said(path, scans, "timm/resnet10t")
    assert "adapted: encoder.encoder.model.conv1.0.weight (1 in all)" in loaded
    assert "left out: fc.weight, fc.bias (2 in all)" in loaded
    assert "this training: mean 100, standard deviation 50" in compared


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (Normalisation((123.0, 116.0, 104.0), (58.0, 57.0, 57.0)), True),
        (Normalisation((123.0, 116.0, 110.0), (58.0, 57.0, 57.0)), False),
        (Normalisation((123.0, 116.0), (58.0, 57.0)), False),
        (replace(IMAGENET, window=(0.0, 255.0)), False),
        (Normalisation(per_case=True), False),
    ],
)
def test_alike(other, expected):
    assert alike(IMAGENET, other) is expected
