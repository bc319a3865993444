"""Whatever stands in the spec or options of a file, it loads or is refused in one line; never another exception."""

from __future__ import annotations

import json
import os
from functools import partial

import onnx
import pytest
import torch

from jobs import REGIONS, small_job, spec_of
from mlla_seg import Predictor, Segmenter
from mlla_seg.data.dataspec import DataSpec
from mlla_seg.errors import InputError
from mlla_seg.export.onnx import write_onnx
from mlla_seg.models import MLLAUNet
from mlla_seg.models.checkpoint import CHECKPOINT_KEY, build_network
from mlla_seg.runtime import Segmenter as Exported
from spec_mutations import mutated, places

MORE = int(os.environ.get("MLLA_SEG_MUTATIONS", "1"))
"""Factor for the number of mutations."""
FULL = {
    "name": "abdomen",
    "modality": "CT",
    "bands": ["CT", "PET", "dose"],
    "channels": ["CT", "PET"],
    "classes": [
        {"name": "background", "colour": [0, 0, 0], "id": 0},
        {"name": "liver", "colour": [150, 80, 60], "id": 6, "code": {"value": "10200004", "meaning": "Liver"}},
        {"name": "spleen", "colour": [130, 90, 200], "id": 300},
    ],
    "background": 0,
    "normalisation": {"mean": [40.0, 3.0], "std": [20.0, 1.5], "window": [[-125.0, 275.0], None]},
    "plane": "coronal",
    "array_units": {"scale": 400, "offset": -125},
    "spacing_mm": [None, 0.8, 0.7],
    "resize": [64, 64],
    "patch_size": [32, 32],
    "context": 1,
    "mirrored": True,
    "nodata": -1024,
    "nodata_rule": "all",
    "grid": "PET",
    "postprocessing": [
        {"operation": "keep_largest", "classes": ["liver"]},
        {"operation": "minimum_size", "classes": ["liver", "spleen"], "size": 50, "unit": "mm3"},
    ],
}
OF_REGIONS = {"channels": ["MR"], **REGIONS}
OPTIONS = {
    "encoder": "mlla_test",
    "decoder": "mlla_unet",
    "drop_path_rate": 0.1,
    "decoder_depths": [1, 1, 1],
    "mixer": "linear_attention",
    "norm_outputs": True,
    "block": "mlla",
}


def loads_or_is_refused(load, what):
    """Return whether a file loads; an ``InputError`` has one line."""
    refusal = None
    try:
        load()
    except InputError as error:
        refusal = str(error)
    except Exception as error:
        pytest.fail(f"{what}: {type(error).__name__}: {error}")
    assert refusal is None or ("\n" not in refusal and len(refusal) < 1500), what
    return refusal is None


@pytest.mark.parametrize("content", [FULL, OF_REGIONS], ids=["classes", "regions"])
def test_specs(content):
    plain = DataSpec.from_dict(content).to_dict()
    count = len(list(places(plain)))
    loaded = []
    for seed in range(10 * count * MORE):
        changed, what = mutated(plain, seed)
        loaded.append(loads_or_is_refused(partial(DataSpec.from_dict, changed, "x.ckpt"), what))
    assert 0.1 < sum(loaded) / len(loaded) < 0.5


def test_checkpoints(tmp_path):
    spec = DataSpec.from_dict(FULL).to_dict()
    network = build_network({**OPTIONS, "spec": spec})
    weights = {f"network.{name}": value for name, value in network.state_dict().items()}
    path = tmp_path / "a.ckpt"
    for seed in range(90 * MORE):
        saved, what = mutated({**OPTIONS, "spec": spec}, seed)
        torch.save({"state_dict": weights, "hyper_parameters": saved, CHECKPOINT_KEY: "0.2.0"}, path)
        loads_or_is_refused(lambda: Predictor.from_checkpoint(path, device="cpu"), what)


@pytest.mark.parametrize("kind", ["create_model", "MLLAUNet"])
def test_folders(tmp_path, kind):
    spec = DataSpec.from_dict({**FULL, "context": 0})
    if kind == "create_model":
        network = build_network({**OPTIONS, "spec": spec})
    else:
        small = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "decoder_depths": (1, 1, 1)}
        network = MLLAUNet(**small, num_classes=3, in_channels=2, normalisation=spec.normalisation.for_network())
        network.spec = spec
    network.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["checksums"]
    assert Segmenter.from_pretrained(tmp_path).spec == spec
    for seed in range(90 * MORE):
        changed, what = mutated(config, seed)
        (tmp_path / "config.json").write_text(json.dumps(changed))
        loads_or_is_refused(lambda: Segmenter.from_pretrained(tmp_path), what)


@pytest.mark.parametrize("more", [{**FULL, "context": 0}, OF_REGIONS], ids=["classes", "regions"])
def test_exported_files(tmp_path, more):
    job = small_job(2)
    write_onnx(job, tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    facts = {"mlla_seg_version": "0.2.0", "outputs": "logits", **DataSpec.from_dict(more).to_dict()}
    for seed in range(100 * MORE):
        changed, what = mutated(facts, seed)
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in changed.items()})
        onnx.save(model, tmp_path / "changed.onnx")
        loads_or_is_refused(lambda: Exported(tmp_path / "changed.onnx", threads=1), what)


def test_a_spec_that_contradicts_the_network_is_refused(tmp_path):
    job = small_job(1)
    write_onnx(job, tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    for change, message in (
        (
            {"channels": ["a", "b"], "bands": ["a", "b"], "normalisation": {}},
            "its spec has 2 input channels .* takes 1",
        ),
        ({"classes": ["a", "b"]}, "its spec has 2 classes or regions, but its network gives 3"),
    ):
        facts = {"mlla_seg_version": "0.2.0", "outputs": "logits", **spec_of(1).to_dict(), **change}
        onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in facts.items()})
        onnx.save(model, tmp_path / "changed.onnx")
        with pytest.raises(InputError, match=rf"changed\.onnx: {message}.*export it again"):
            Exported(tmp_path / "changed.onnx")
    network = build_network({**OPTIONS, "spec": spec_of(1)})
    with pytest.raises(InputError, match="Predictor: its spec has 2 classes or regions, but its network gives 3"):
        Predictor(network, {"channels": ["CT"], "classes": ["a", "b"]})
