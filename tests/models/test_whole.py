"""Complete MONAI networks: sizes, depth by patch size, valid combinations, and equality with MONAI's own build."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import DynUNet, SegResNet

from mlla_seg import create_model
from mlla_seg.models.segmenter import Segmenter
from mlla_seg.models.whole import WHOLE


def of_monai(name, levels):
    """The same network, built directly with MONAI."""
    if name == "monai/segresnet":
        return SegResNet(2, 32, 2, 3)
    strides = [1] + [2] * (levels - 1)
    filters = [32, 64, 128, 256, 512, 512][:levels]
    return DynUNet(2, 2, 3, [3] * levels, strides, strides[1:], filters=filters)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize(("frame", "levels"), [((64, 96), 5), ((32, 32), 4), ((512, 512), 6)])
def test_they_are_monais_up_to_the_head(name, frame, levels):
    ours = create_model(name, "none", num_classes=3, in_channels=2, frame=frame)
    theirs = sum(parameter.numel() for parameter in of_monai(name, levels).parameters())
    assert theirs - sum(parameter.numel() for parameter in ours.parameters()) == 3  # the bias of the last layer
    assert ours.eval()(torch.randn(1, 2, 45, 51)).shape == (1, 3, 45, 51)


def test_a_saved_one_is_built_again(tmp_path):
    network = create_model("monai/dynunet", "none", num_classes=3, in_channels=1, frame=(64, 64)).eval()
    network.save_pretrained(tmp_path)
    image = torch.randn(1, 1, 40, 70)
    torch.testing.assert_close(Segmenter.from_pretrained(tmp_path)(image), network(image), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("encoder", "decoder", "message"),
    [
        ("monai/dynunet", "mlla_unet", "monai/dynunet is a whole network: set --model.decoder none, got mlla_unet"),
        ("mlla_test", "none", "decoder none works only with whole networks: monai/dynunet, monai/segresnet"),
        ("monai/dynunett", "none", "Unknown whole network 'monai/dynunett'. Did you mean monai/dynunet"),
    ],
)
def test_what_does_not_go_together_is_named(encoder, decoder, message):
    with pytest.raises(ValueError, match=message):
        create_model(encoder, decoder)


@pytest.mark.parametrize("option", [{"drop_path_rate": 0.1}, {"mixer": "identity"}])
def test_options_of_mlla_are_refused(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} applies to MLLA blocks, which monai/dynunet with none"):
        create_model("monai/dynunet", "none", **option)
