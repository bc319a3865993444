"""Masked autoencoder: what it draws, what is compared, and that no masked pixel is seen."""

from __future__ import annotations

import pytest
import torch

from mlla_seg.models import create_model
from mlla_seg.models.weights import load_pretrained
from mlla_seg.pretraining.autoencoder import MaskedAutoencoder, padded_size, reconstruction_loss, targets


def autoencoder(**options):
    torch.manual_seed(0)
    return MaskedAutoencoder(create_model("mlla_test", in_channels=2, **options).encoder, width=8)


def visible_of(rows, columns, patch=32):
    places = torch.ones(1, rows // patch, columns // patch, dtype=torch.bool)
    places[:, 0, 1:] = False
    return places


@pytest.mark.parametrize("mixer", ["linear_attention", "softmax"])
@pytest.mark.parametrize("patch", [32, 16])
def test_drawings_do_not_depend_on_masked_pixels(mixer, patch):
    network, image, visible = autoencoder(mixer=mixer).eval(), torch.randn(1, 2, 64, 96), visible_of(64, 96, patch)
    assert (network.why_filled is None) == (mixer == "linear_attention")
    other = image.clone()
    other[..., :patch, patch:] = torch.randn(1, 2, patch, 96 - patch) * 100
    drawn = network(image, visible)
    assert drawn.shape == image.shape
    assert torch.equal(network(other, visible), drawn)
    other[..., patch:, :] += 1
    assert not torch.allclose(network(other, visible), drawn)


def test_sizes_that_are_no_multiples_of_the_stride_are_padded():
    image, visible = torch.randn(1, 2, 50, 70), visible_of(64, 96)
    assert padded_size((50, 70)) == (64, 96)
    assert autoencoder()(image, visible).shape == image.shape
    assert autoencoder()(image).shape == image.shape


def test_the_loss_counts_masked_pixels_with_data_only():
    target, drawn = torch.zeros(1, 2, 64, 96), torch.zeros(1, 2, 64, 96)
    visible, valid = visible_of(64, 96), torch.ones(1, 64, 96, dtype=torch.bool)
    drawn[..., 32:, :] = 5  # visible
    valid[:, :32, 64:] = False
    drawn[..., :32, 64:] = float("nan")  # masked, without data
    assert reconstruction_loss(drawn, target, visible, valid) == 0
    drawn[:, 0, :32, 32:64] = 2  # masked, one channel of two
    assert reconstruction_loss(drawn, target, visible, valid) == pytest.approx(2)
    assert reconstruction_loss(drawn, target, visible, torch.zeros_like(valid)) == 0


def test_targets_have_mean_0_and_deviation_1_in_the_valid_part_of_each_patch():
    image, valid = torch.randn(1, 2, 50, 64) * 7 + 3, torch.rand(1, 50, 64) < 0.7
    hidden = image.masked_fill(~valid[:, None], 1e6)
    result, mean, deviation = targets(hidden, visible_of(64, 64), valid)
    own = result[0, :, :32, :32][:, valid[0, :32, :32]]
    assert own.mean().abs() < 1e-4
    assert own.std(correction=0) == pytest.approx(1, abs=1e-4)
    restored = (result * deviation + mean)[0][:, valid[0]]
    torch.testing.assert_close(restored, image[0][:, valid[0]], rtol=1e-3, atol=1e-3)


def test_all_weights_learn_and_the_encoder_starts_a_segmenter(tmp_path):
    network = autoencoder()
    loss = reconstruction_loss(
        network(torch.randn(2, 2, 64, 96), visible_of(64, 96).expand(2, -1, -1)),
        torch.randn(2, 2, 64, 96),
        visible_of(64, 96).expand(2, -1, -1),
        torch.ones(2, 64, 96, dtype=torch.bool),
    )
    loss.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())  # DDP needs them all
    segmenter = create_model("mlla_test", in_channels=2)
    report = load_pretrained(segmenter, {f"network.{key}": value for key, value in network.state_dict().items()})
    for key, value in network.encoder.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(segmenter.encoder.state_dict()[key], value)
    assert len(report.left_out) == len([key for key in network.decoder.state_dict() if "num_batches" not in key])
