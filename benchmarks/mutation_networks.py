"""Small valid files of weights, checkpoints and exported networks, for mutations.py."""

from __future__ import annotations

import io
import json
from functools import cache
from inspect import signature
from pathlib import Path

import numpy as np
import segmentation_models_pytorch  # noqa: F401 - here, as messages list its encoders, and importing it takes seconds
import timm  # noqa: F401 - likewise
import torch
from mutation_kind import Kind
from mutation_packing import WEIGHTS, packed_pickle, unpacked_pickle
from safetensors.torch import save_file

from mlla_seg import create_model
from mlla_seg.data.dataspec import DataSpec
from mlla_seg.models.checkpoint import CHECKPOINT_KEY, NETWORK, build_network, load_segmenter
from mlla_seg.models.weight_files import read_state_dict
from mlla_seg.runtime.engines import open_engine

SPEC = {
    **{"name": "small", "modality": "CT", "channels": ["CT"], "classes": ["background", {"name": "liver", "id": 2}]},
    **{"background": 0, "normalisation": {"mean": 40.0, "std": 20.0}, "spacing_mm": [None, 1.0, 1.0], "context": 0},
}
FACTS = {
    key: json.dumps(value)
    for key, value in {**DataSpec.from_dict(SPEC).to_dict(), "mlla_seg_version": "0.2", "outputs": "logits"}.items()
}
"""Metadata of an exported network."""


def write_segmenter(folder: Path) -> None:
    network = create_model("mlla_test", "mlla_unet", 2, 1, decoder_depths=(1, 1, 1))
    network.spec = DataSpec.from_dict(SPEC)
    network.save_pretrained(folder)


def without_checksums(content: bytes) -> bytes:
    """Return a ``config.json`` in which a change does not only fail its checksum."""
    config = json.loads(content)
    del config["checksums"]
    return json.dumps(config, indent=1).encode()


@cache
def checkpoint() -> bytes:
    """Return the content of a ``.ckpt``."""
    usual = {key: signature(create_model).parameters[key].default for key in NETWORK}
    options = {**usual, "encoder": "mlla_test", "decoder_depths": [1, 1, 1], "spec": SPEC}
    weights = {f"network.{name}": value for name, value in build_network(options).state_dict().items()}
    made = io.BytesIO()
    torch.save({"state_dict": weights, "hyper_parameters": options, CHECKPOINT_KEY: "0.2.0"}, made)
    return made.getvalue()


def write_onnx(folder: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2, 8, 8])
    weight = numpy_helper.from_array(np.ones((2, 1, 1, 1), np.float32), "weight")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "weight"], ["logits"])], "g", [image], [logits], [weight]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, FACTS)
    onnx.save(model, folder / "model.onnx")


def write_openvino(folder: Path) -> None:
    import openvino

    write_onnx(folder)
    model = openvino.convert_model(folder / "model.onnx")
    for key, value in FACTS.items():
        model.set_rt_info(value, ["mlla_seg", key])
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)


def run_exported(path: Path) -> None:
    run, spec = open_engine(path, threads=1)
    run(np.zeros((1, spec.in_channels, 8, 8), np.float32))


NETWORKS = (
    Kind(
        "weights",
        "a.pth",
        lambda folder: torch.save(WEIGHTS, folder / "a.pth"),
        lambda folder: read_state_dict(folder / "a.pth"),
        unpacked_pickle,
        packed_pickle,
    ),
    Kind(
        "safetensors",
        "a.safetensors",
        lambda folder: save_file(WEIGHTS, folder / "a.safetensors"),
        lambda folder: read_state_dict(folder / "a.safetensors"),
    ),
    Kind(
        "ckpt",
        "a.ckpt",
        lambda folder: (folder / "a.ckpt").write_bytes(checkpoint()),
        lambda folder: load_segmenter(folder / "a.ckpt"),
        unpacked_pickle,
        lambda content: packed_pickle(content, checkpoint()),
    ),
    Kind("config.json", "config.json", write_segmenter, load_segmenter, without_checksums),
    Kind("onnx", "model.onnx", write_onnx, lambda folder: run_exported(folder / "model.onnx")),
    *(
        Kind(f"openvino {name}", f"model.{name}", write_openvino, lambda folder: run_exported(folder / "model.xml"))
        for name in ("xml", "bin")
    ),
)
