"""Flipped bits in exported files and folders are refused in one line; files of other origin are not checked."""

from __future__ import annotations

import json
import random
from pathlib import Path

import onnx
import pytest
import torch

from jobs import small_job
from mlla_seg import Segmenter, create_model
from mlla_seg.checksums import KEY, require_intact_folder, require_sealed, sha256, sums_of
from mlla_seg.errors import InputError
from mlla_seg.export.onnx import write_onnx
from mlla_seg.export.openvino import write_openvino
from mlla_seg.models.weights import load_pretrained
from mlla_seg.runtime import Segmenter as Exported


def flipped(path: Path, at: int, to: Path | None = None) -> Path:
    content = bytearray(path.read_bytes())
    content[at // 8] ^= 1 << at % 8
    to = to or path
    to.write_bytes(content)
    return to


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sealed")
    write_onnx(small_job(), folder / "m.onnx")
    write_openvino(small_job(), folder / "m.xml")
    return folder


def test_every_flipped_bit_of_an_onnx_file_is_found(sealed, tmp_path):
    path = sealed / "m.onnx"
    size = path.stat().st_size
    length = json.loads(path.read_bytes().rpartition(KEY.encode())[2].partition(b"{")[2].join([b"{", b""]))["bytes"]
    assert length < size
    draw = random.Random(0)
    for k in range(200):
        damaged = flipped(path, draw.randrange(8 * length), tmp_path / f"{k}.onnx")
        with pytest.raises(
            InputError,
            match=rf"{k}\.onnx: is damaged, or was changed after its export: its checksum",
        ):
            require_sealed(damaged)
        damaged.unlink()
    require_sealed(path)
    onnx.checker.check_model(path, full_check=True)


def test_the_runtime_refuses_damaged_files(sealed, tmp_path):
    for name in ("m.onnx", "m.xml", "m.bin"):
        (tmp_path / name).write_bytes((sealed / name).read_bytes())
    Exported(tmp_path / "m.onnx"), Exported(tmp_path / "m.xml")
    flipped(tmp_path / "m.bin", 30)
    with pytest.raises(InputError, match=r"m\.bin: is damaged: its checksum is wrong"):
        Exported(tmp_path / "m.xml")
    (tmp_path / "m.bin").write_bytes(b"short")
    with pytest.raises(InputError, match=r"m\.bin: has 5 bytes, expected \d+"):
        Exported(tmp_path / "m.xml")
    flipped(tmp_path / "m.onnx", 4000)
    with pytest.raises(InputError, match=r"m\.onnx: is damaged"):
        Exported(tmp_path / "m.onnx")


def test_what_another_program_wrote_anew_is_not_checked(sealed, tmp_path):
    model = onnx.load(sealed / "m.onnx")
    onnx.helper.set_model_props(model, {**{p.key: p.value for p in model.metadata_props}, "more": "x" * 100})
    onnx.save(model, tmp_path / "m.onnx")
    assert Exported(tmp_path / "m.onnx").spec == Exported(sealed / "m.onnx").spec


def test_folders_check_config_and_weights(tmp_path):
    create_model("mlla_test", "unet").save_pretrained(tmp_path)
    path, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    flipped(weights, 8 * (weights.stat().st_size - 5))
    for load in (Segmenter.from_pretrained, lambda folder: load_pretrained(create_model("mlla_test", "unet"), folder)):
        with pytest.raises(InputError, match=r"model\.safetensors: is damaged: its checksum is wrong"):
            load(tmp_path)
    create_model("mlla_test", "unet").save_pretrained(tmp_path)
    config = json.loads(path.read_text())
    config["arguments"]["norm_outputs"] = False
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"config\.json: differs from its checksum.* If you edited it, remove"):
        require_intact_folder(tmp_path)
    del config["checksums"]
    path.write_text(json.dumps(config))
    require_intact_folder(tmp_path)


def test_weights_of_torch_files_are_checked(tmp_path):
    path = tmp_path / "weights.pth"
    network = create_model("mlla_test", "unet")
    torch.save(network.state_dict(), path)
    flipped(path, 8 * (path.stat().st_size // 2) + 6)
    with pytest.raises(InputError, match=r"weights\.pth: is damaged: the checksum of .* is wrong"):
        load_pretrained(network, path)


def test_sums_are_those_of_sha256sum(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(tmp_path / "a") == known
    assert sums_of([tmp_path / "a"], tmp_path) == {"a": {"bytes": 3, "sha256": known}}
