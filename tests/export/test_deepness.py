"""ONNX files for QGIS Deepness, read as the plug-in reads them."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from jobs import REGIONS, segmenter, small_job, spec_of
from mlla_seg.errors import InputError
from mlla_seg.export.deepness import write_deepness
from mlla_seg.export.exportable import Job


class Deepness:
    """The plug-in's use of a model: load it, read its metadata, run it on a batch of uint8 tiles."""

    def __init__(self, path):
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (self.input,) = self.session.get_inputs()
        (self.output,) = self.session.get_outputs()
        self.about = {k: json.loads(v) for k, v in self.session.get_modelmeta().custom_metadata_map.items()}

    def __call__(self, tiles):
        batch = np.float32(tiles[..., : self.input.shape[-3]] * 1.0 / 255.0)
        mean, std = (np.array(self.about[f"standardization_{key}"], np.float32) for key in ("mean", "std"))
        result = self.session.run(None, {self.input.name: np.transpose((batch - mean) / std, (0, 3, 1, 2))})[0]
        result[result < self.about["seg_thresh"]] = 0
        return result


@torch.no_grad()
def test_deepness_gets_the_probabilities_of_the_network(tmp_path):
    network = segmenter("unet", 3)
    job = Job(network, spec_of(3, patch_size=[64, 64]), "probabilities", pixel_size_m=0.3)
    write_deepness(job, tmp_path / "m.onnx")
    onnx.checker.check_model(tmp_path / "m.onnx", full_check=True)
    plugin = Deepness(tmp_path / "m.onnx")
    assert plugin.input.shape == [1, 3, 64, 64]
    assert plugin.output.shape == [1, 3, 64, 64]
    assert plugin.about["model_type"] == "Segmentor"
    assert plugin.about["class_names"] == {"0": "background", "1": "liver", "2": "spleen"}
    assert plugin.about["tile_size"] == plugin.about["tiles_size"] == 64
    assert 0 < plugin.about["tiles_overlap"] < 100
    assert plugin.about["resolution"] == pytest.approx(30)
    tiles = np.random.default_rng(0).integers(0, 120, (1, 64, 64, 3), dtype=np.uint8)
    expected = network(torch.from_numpy(tiles).permute(0, 3, 1, 2).float()).softmax(dim=1)
    np.testing.assert_allclose(plugin(tiles), expected.numpy(), atol=1e-5)


def test_regions_which_overlap_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"gives each pixel its most probable class, but the regions .* overlap"):
        write_deepness(small_job(**REGIONS), tmp_path / "m.onnx")


def test_the_tile_is_the_users_or_that_of_the_training_or_512(tmp_path):
    for name, options, tile in (("a", {"tile": 96}, 96), ("b", {"patch_size": [128, 96]}, 128), ("c", {}, 512)):
        write_deepness(small_job(**options), tmp_path / f"{name}.onnx")
        plugin = Deepness(tmp_path / f"{name}.onnx")
        assert plugin.input.shape == [1, 1, tile, tile]
        assert "resolution" not in plugin.about


def test_what_deepness_cannot_show_is_refused(tmp_path):
    with pytest.raises(InputError, match="this network was trained on neighbouring slices"):
        write_deepness(small_job(context=1), tmp_path / "m.onnx")
    with pytest.raises(InputError, match="this network was trained on resized images"):
        write_deepness(small_job(resize=0.5), tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("normalisation", "values"),
    [
        ({"mean": [3000.0], "std": [900.0]}, "from 3000 to 3900"),
        ({"window": [0.0, 10000.0]}, "from 0 to 10000"),
        ({"window": [-125.0, 275.0]}, "from -125 to 275"),
        ({"mean": [0.3], "std": [0.1]}, "from 0.3 to 0.4"),
        ({"mean": [240.0], "std": [60.0]}, ""),
        ({"window": [0.0, 255.0]}, ""),
        ({"per_image": True}, ""),
        ({}, ""),
    ],
)
def test_a_network_for_other_values_than_bytes_is_said(normalisation, values, tmp_path, capsys):
    write_deepness(small_job(tile=32, normalisation=normalisation), tmp_path / "m.onnx")
    said = capsys.readouterr().err
    assert ("Deepness shows bytes (0 to 255)" in said) == bool(values)
    assert values in said
