"""The exportable network equals the original with batch norms folded, for every output and precision."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from jobs import images, segmenter, small_job, spec_of
from mlla_seg.export.exportable import AnyPool, Exportable, example_image, fold_batch_norms
from mlla_seg.models import DECODERS
from mlla_seg.models.ensemble import Ensemble, Flips


@pytest.mark.parametrize("decoder", DECODERS)
@torch.no_grad()
def test_folded_networks_give_the_same_and_the_original_stays(decoder):
    network = segmenter(decoder, 2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    module = Exportable(network)
    for image in images(2, ((64, 64), (70, 90)), batch=2):
        torch.testing.assert_close(module(image), network(image), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(network.state_dict(), before, atol=0, rtol=0)
    assert not [name for name, part in module.named_modules() if isinstance(part, nn.BatchNorm2d)]


@torch.no_grad()
def test_a_transposed_convolution_takes_its_batch_norm_up():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Sequential(nn.ConvTranspose2d(3, 4, 2, 2)), nn.BatchNorm2d(4), nn.ReLU()).eval()
    layers[1].running_mean.normal_()
    layers[1].running_var.uniform_(0.5, 2)
    x = torch.randn(2, 3, 5, 6)
    expected = layers(x)
    fold_batch_norms(layers)
    assert isinstance(layers[1], nn.Identity)
    torch.testing.assert_close(layers(x), expected)


@pytest.mark.parametrize("bins", [2, 3, 6])
@pytest.mark.parametrize("size", [(2, 2), (7, 9), (5, 1), (12, 18)])
def test_pooling_by_matrices_is_adaptive_pooling(bins, size):
    x = torch.randn(2, 3, *size)
    torch.testing.assert_close(AnyPool((bins, bins))(x), nn.AdaptiveAvgPool2d(bins)(x))


@torch.no_grad()
def test_outputs_and_half_precision():
    network = segmenter("unet")
    (image,) = images(sizes=((70, 90),))
    logits = network(image)
    probabilities = Exportable(network, "probabilities")(image)
    torch.testing.assert_close(probabilities, logits.softmax(dim=1))
    labels = Exportable(network, "labels")(image)
    assert labels.dtype == torch.uint8
    assert torch.equal(labels, logits.argmax(dim=1).to(torch.uint8))
    module = Exportable(network, precision="float16")
    halved = module(image)
    assert halved.dtype == torch.float32
    assert {value.dtype for value in module.network.encoder.parameters()} == {torch.float16}
    assert 0 < (halved - logits).abs().max() < 0.02 * logits.abs().max()
    far = module(image * 1000)  # beyond what float16 holds
    assert torch.isfinite(far).all()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@torch.no_grad()
def test_ensembles_and_mirror_images_are_networks_too():
    members = [segmenter("unet"), segmenter("fpn")]
    (image,) = images(sizes=((64, 96),))
    mean = torch.stack([member(image).softmax(dim=1) for member in members]).mean(dim=0)
    ensemble = Ensemble(members)
    torch.testing.assert_close(ensemble(image).softmax(dim=1), mean)
    flips = Flips(members[0], ["rows", "columns"])
    axes = ((), (-1,), (-2,), (-2, -1))
    expected = torch.stack([members[0](image.flip(a)).flip(a) for a in axes]).mean(dim=0)
    torch.testing.assert_close(flips(image), expected)
    for network in (ensemble, flips):
        module = Exportable(network)
        torch.testing.assert_close(torch.jit.script(module)(image), network(image), atol=2e-5, rtol=1e-5)


def test_examples_look_like_the_data():
    spec = spec_of(2, normalisation={"mean": [100.0, -5.0], "std": [10.0, 2.0]}, context=1)
    image = example_image(spec, (1, 6, 128, 128))
    assert image.shape == (1, 6, 128, 128)
    means, deviations = image.mean(dim=(0, 2, 3)), image.std(dim=(0, 2, 3))
    torch.testing.assert_close(means, torch.tensor([100.0, -5] * 3), atol=12, rtol=0)
    assert (deviations / torch.tensor([10.0, 2] * 3) - 1).abs().max() < 0.5
    assert not torch.equal(image, example_image(spec, (1, 6, 128, 128), seed=1))


def test_facts_are_json_of_all_that_prediction_needs():
    facts = {key: json.loads(value) for key, value in small_job(2, outputs="labels").facts.items()}
    assert facts["outputs"] == "labels"
    assert facts["spec_version"] == 2
    assert facts["channels"] == ["channel 0", "channel 1"]
    assert facts["classes"][2] == {"name": "spleen", "colour": [130, 90, 200], "id": 4}
    assert {"normalisation", "spacing_mm", "resize", "patch_size", "context", "plane", "mlla_seg_version"} <= set(facts)
