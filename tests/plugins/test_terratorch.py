"""MLLA in terratorch: a backbone by name in its factory, with its padding and decoders."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml

from mlla_seg import MLLA
from mlla_seg.errors import InputError
from mlla_seg.models.mlla import SIZES

pytestmark = [
    pytest.mark.skipif(find_spec("terratorch") is None, reason="pip install 'mlla_seg[terratorch]'"),
    pytest.mark.filterwarnings("ignore"),  # those of terratorch and what it imports
]


@pytest.fixture(scope="module")
def registry():
    from terratorch.registry import BACKBONE_REGISTRY

    import mlla_seg.plugins.terratorch  # noqa: F401

    return BACKBONE_REGISTRY


def build(decoder, **options):
    from terratorch.models import EncoderDecoderFactory

    return EncoderDecoderFactory().build_model(
        task="segmentation", backbone="mlla_test", decoder=decoder, num_classes=3, **options
    )


def test_every_size_is_known_by_name(registry):
    assert all(name in registry for name in SIZES)
    encoder = registry.build("mlla_test", in_channels=6)
    maps = encoder(torch.rand(1, 6, 64, 96))
    assert [f.shape[1] for f in maps] == encoder.out_channels
    assert [64 // f.shape[2] for f in maps] == [2, 4, 8, 16, 32]


@pytest.mark.parametrize(
    ("decoder", "options"),
    [("UNetDecoder", {"decoder_channels": [32, 16, 8, 8, 8]}), ("UperNetDecoder", {"decoder_channels": 8})],
)
def test_its_factory_builds_networks_that_train_on_any_size(registry, decoder, options):
    model = build(decoder, backbone_in_channels=4, **options)
    assert model.patch_size == 32
    logits = model(torch.rand(2, 4, 70, 90)).output
    assert logits.shape == (2, 3, 70, 90)
    logits.mean().backward()


def test_local_weights_load_and_nothing_is_downloaded(registry, tmp_path):
    classifier = MLLA(**{key: SIZES["mlla_test"][key] for key in ("embed_dim", "depths", "num_heads")})
    torch.save({"model": classifier.state_dict()}, tmp_path / "weights.pth")
    encoder = registry.build("mlla_test", ckpt_path=str(tmp_path / "weights.pth"))
    torch.testing.assert_close(encoder.mlla.stages.state_dict(), classifier.encoder.stages.state_dict())
    registry.build("mlla_test").load_state_dict(classifier.state_dict())
    with pytest.raises(InputError, match="download nothing"):
        registry.build("mlla_test", pretrained=True)


def test_the_config_of_the_page_builds_a_task(registry):
    from terratorch.tasks import SemanticSegmentationTask

    page = (Path(__file__).parents[2] / "docs/plugins.md").read_text()
    (config,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    options = yaml.safe_load(config)["model"]["init_args"]
    task = SemanticSegmentationTask(**options)
    task.configure_models()
    assert task.model.encoder.mlla.stem.conv1[0].in_channels == 6


def test_its_command_line_starts(tmp_path):
    command = [sys.executable, "-W", "ignore", "-m", "mlla_seg.plugins.terratorch", "fit", "--help"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert run.returncode == 0, run.stderr
    assert "--config" in run.stdout
