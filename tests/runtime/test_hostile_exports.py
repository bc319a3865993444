"""Exported files that were made to harm: the runtime opens no other place, and refuses each in one line."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from mlla_seg.errors import InputError
from mlla_seg.runtime import Segmenter

BOMB = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">{}]><net name="&j;" version="11"/>'.format(
    "".join(f'<!ENTITY {n} "{f"&{m};" * 10}">' for m, n in zip("abcdefghi", "bcdefghij", strict=True))
)
OUTSIDE = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><net name="&a;" version="11"/>'


def write_network(path, node, weights=()):
    """An ONNX file of one operator."""
    given, made = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 8, 8]) for name in "xy")
    made.type.tensor_type.ClearField("shape")
    opset = helper.make_opsetid("", 18)
    model = helper.make_model(
        helper.make_graph([node], "g", [given], [made], weights), opset_imports=[opset], ir_version=9
    )
    path.write_bytes(model.SerializeToString())
    return path


def refused(path):
    with pytest.raises(InputError) as caught:
        Segmenter(path)
    assert path.name in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


PLACES = {
    "beside": "beside",
    "above": "../secret",
    "absolute": "{root}/secret",
    "link": "link",
    "through a folder": "folder/secret",
}


@pytest.mark.parametrize("how", PLACES)
def test_weights_of_an_onnx_file_lie_beside_it(tmp_path, how):
    """Also where another place holds a file of the right size."""
    inner = tmp_path / "in"
    inner.mkdir()
    for path in (tmp_path / "secret", inner / "beside"):
        path.write_bytes(np.ones(9, np.float32).tobytes())
    (inner / "link").symlink_to(tmp_path / "secret")
    (inner / "folder").symlink_to(tmp_path)
    weights = helper.make_tensor("w", TensorProto.FLOAT, [1, 1, 3, 3], [1.0] * 9)
    weights.ClearField("float_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in (("location", PLACES[how].format(root=tmp_path)), ("offset", "0"), ("length", "36")):
        weights.external_data.add(key=key, value=value)
    message = refused(write_network(inner / "m.onnx", helper.make_node("Conv", ["x", "w"], ["y"]), [weights]))
    assert ("was not written by" in message) is (how == "beside")


@pytest.mark.parametrize("text", [BOMB, OUTSIDE, "<net", "<a>" * 100_000])
def test_an_xml_defines_no_entities(tmp_path, text):
    pytest.importorskip("openvino")
    (tmp_path / "m.xml").write_text(text)
    (tmp_path / "m.bin").write_bytes(bytes(64))
    refused(tmp_path / "m.xml")


@pytest.mark.parametrize("suffix", [".ts", ".pt2", ".pth", ".onnx", ".xml"])
@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_programs_of_torch_are_not_run(tmp_path, suffix):
    path = tmp_path / f"m{suffix}"
    torch.jit.save(torch.jit.script(torch.nn.Identity()), path)
    refused(path)


def test_custom_operators_load_no_library(tmp_path):
    refused(write_network(tmp_path / "m.onnx", helper.make_node("Run", ["x"], ["y"], domain="evil")))


def test_a_named_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "m.onnx")
    refused(tmp_path / "m.onnx")
