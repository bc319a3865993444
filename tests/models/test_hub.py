"""Hugging Face Hub folders and repositories: networks are restored as saved, and the model card describes them."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from glob import glob
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

from mlla_seg import MLLAUNet, Predictor, Segmenter, create_model
from mlla_seg.models import DECODERS
from mlla_seg.models.segmenter import STRIDE

NORMALISATION = {"mean": [1.0, 2.0], "std": [3.0, 4.0], "window": [-5.0, 5.0]}
SMALL = dict(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2))


def plain_config(folder):
    """The content of config.json without checksums, as earlier versions wrote it."""
    config = json.loads((folder / "config.json").read_text())
    del config["checksums"]
    return config


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_decoder_comes_back(decoder, tmp_path):
    torch.manual_seed(0)
    segmenter = create_model("mlla_test", decoder, num_classes=4, in_channels=2, normalisation=NORMALISATION).eval()
    segmenter.save_pretrained(tmp_path)
    again = Segmenter.from_pretrained(tmp_path)
    assert not again.training
    x = 10 * torch.randn(1, 2, 67, 71)
    torch.testing.assert_close(again(x), segmenter(x))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]


@pytest.mark.parametrize("decoder", ["unet", "mlla_unet"])
def test_a_folder_of_version_0_1_comes_back_without_norms_on_its_maps(decoder, tmp_path):
    torch.manual_seed(0)
    segmenter = create_model("mlla_test", decoder, norm_outputs=False).eval()
    segmenter.save_pretrained(tmp_path)
    config = plain_config(tmp_path)
    for name in ("norm_outputs", "frame"):  # which that version did not write
        del config["arguments"][name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(Segmenter.from_pretrained(tmp_path)(x), segmenter(x))
    spec = {"channels": ["red", "green", "blue"], "classes": ["background", "roof"], "window": [96, 64]}
    (tmp_path / "config.json").write_text(json.dumps({**config, "spec": spec}))
    assert Segmenter.from_pretrained(tmp_path).frame == [96, 64]  # as a checkpoint of that version


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["mlla_tiny", "mlla_micro", "timm/resnet10t", "smp/mit_b0"])
def test_every_encoder_comes_back(encoder, tmp_path):
    segmenter = create_model(encoder, num_classes=2, drop_path_rate=0.1, decoder_depths=(1, 1, 1)).eval()
    segmenter.save_pretrained(tmp_path)
    x = torch.randn(1, 3, STRIDE, STRIDE)
    torch.testing.assert_close(Segmenter.from_pretrained(tmp_path)(x), segmenter(x))


def test_mlla_unet_of_any_size_comes_back_under_either_name(tmp_path):
    network = MLLAUNet(**SMALL, decoder_depths=(2, 1, 1), num_classes=3, in_channels=1).eval()
    network.save_pretrained(tmp_path / "unet")
    x = torch.randn(1, 1, 64, 32)
    for kind in (MLLAUNet, Segmenter):
        again = kind.from_pretrained(tmp_path / "unet")
        assert type(again) is MLLAUNet
        torch.testing.assert_close(again(x), network(x))
    create_model("mlla_test").save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="other: holds a Segmenter, not a MLLAUNet"):
        MLLAUNet.from_pretrained(tmp_path / "other")


def test_a_trained_network_takes_what_it_knows_along(checkpoint, tmp_path, cli, phantom_root):
    trained = Predictor.from_checkpoint(checkpoint)
    trained.network.save_pretrained(tmp_path / "ct", metrics={"dice": 0.86, "iou": 0.75}, dataset="phantom test")
    again = Predictor(Segmenter.from_pretrained(tmp_path / "ct"))
    assert again.spec == trained.spec
    image = np.random.default_rng(0).normal(0, 100, (2, 1, 32, 32)).astype(np.float32)
    np.testing.assert_array_equal(again(image), trained(image))
    text = (tmp_path / "ct/README.md").read_text().replace("\\", "")  # signs of Markdown are escaped
    for entry in trained.spec.classes:
        assert f" | {entry.name} | {list(entry.colour)} |" in text
    assert f"| Channels | {', '.join(trained.spec.channels)} |" in text
    assert "clipped to -125" in text
    card = ModelCard.load(tmp_path / "ct/README.md")
    assert card.data.library_name == "mlla_seg"
    assert {r.metric_type: r.metric_value for r in card.data.eval_results} == {"dice": 0.86, "iou": 0.75}
    assert {r.dataset_name for r in card.data.eval_results} == {"phantom test"}
    cli("predict", "--ckpt_path", tmp_path / "ct", "--input", phantom_root / "test_vol_h5", "--output", "masks")
    assert len(glob("masks/*.h5")) == 4


def test_saving_again_renews_our_card_and_keeps_an_edited_one(tmp_path):
    network = create_model("mlla_test")
    network.save_pretrained(tmp_path, metrics={"dice": 0.5})
    network.save_pretrained(tmp_path, metrics={"dice": 0.7})
    card = tmp_path / "README.md"
    assert "| dice | 0.7 |" in card.read_text()
    assert "0.5" not in card.read_text()
    card.write_text("mine")
    network.save_pretrained(tmp_path, metrics={"dice": 0.9})
    assert card.read_text() == "mine"


def test_a_failed_save_leaves_the_last_one(tmp_path, monkeypatch):
    network = create_model("mlla_test")
    network.save_pretrained(tmp_path / "net")
    before = (tmp_path / "net/model.safetensors").read_bytes()
    torch.nn.init.ones_(network.head.weight)
    monkeypatch.setattr("mlla_seg.models.hub._model_card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        network.save_pretrained(tmp_path / "net")
    assert (tmp_path / "net/model.safetensors").read_bytes() == before
    assert sorted(os.listdir(tmp_path / "net")) == ["README.md", "config.json", "model.safetensors"]


def test_mistakes_are_answered(tmp_path):
    by_hand = Segmenter(create_model("mlla_test").encoder, create_model("mlla_test").decoder, 2)
    with pytest.raises(ValueError, match="assembled by hand"):
        by_hand.save_pretrained(tmp_path / "hand")
    with pytest.raises(ValueError, match="absent: no such folder"):
        Segmenter.from_pretrained(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: has no config\.json written by save_pretrained"):
        Segmenter.from_pretrained(tmp_path / "empty")
    create_model("mlla_test").save_pretrained(tmp_path / "net")
    weights = tmp_path / "net/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"net/model\.safetensors: has 1000 bytes, expected \d+"):
        Segmenter.from_pretrained(tmp_path / "net")
    config = plain_config(tmp_path / "net")
    (tmp_path / "net/config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"net/model\.safetensors cannot be read as weights"):
        Segmenter.from_pretrained(tmp_path / "net")
    config = json.loads((tmp_path / "net/config.json").read_text())
    (tmp_path / "net/config.json").write_text(json.dumps({**config, "build": "os.system"}))
    with pytest.raises(ValueError, match=r"Unknown build in \S+config\.json: 'os\.system'"):
        Segmenter.from_pretrained(tmp_path / "net")
    with pytest.raises(ValueError, match="no spec of its classes"):
        Predictor(create_model("mlla_test"))


def test_a_changed_network_is_not_saved(tmp_path):
    network = create_model("mlla_test", num_classes=2)
    network.head = torch.nn.Conv2d(network.decoder.out_channels, 9, kernel_size=1, bias=False)
    state = torch.get_rng_state()
    with pytest.raises(
        ValueError, match=r"no longer what create_model built.*head\.weight is \(9, 8, 1, 1\), .*\(2, 8"
    ):
        network.save_pretrained(tmp_path / "net")
    assert not (tmp_path / "net").exists()
    assert torch.equal(torch.get_rng_state(), state)


def test_what_does_not_load_is_named(tmp_path):
    create_model("mlla_test", num_classes=2, norm_outputs=False).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no option num_classes, strickt; known: map_location"):
        Segmenter.from_pretrained(tmp_path, num_classes=7, strickt=1)
    assert Segmenter.from_pretrained(tmp_path, map_location="cpu", local_files_only=True).num_classes == 2
    config = plain_config(tmp_path)
    for change, answer in (
        ({"num_classes": 9}, r"config\.json: head\.weight is \(2, 8, 1, 1\), expected \(9, 8, 1, 1\)"),
        ({"decoder": "fpn"}, r"config\.json: decoder\.\S+ is absent, expected \("),
        ({"colour": "blue"}, r"Unknown key of network in \S+config\.json: 'colour'.* another mlla_seg than"),
    ):
        arguments = {**config["arguments"], **change}
        (tmp_path / "config.json").write_text(json.dumps({**config, "arguments": arguments}))
        with pytest.raises(ValueError, match=answer):
            Segmenter.from_pretrained(tmp_path)


def test_numbers_of_numpy_are_saved_and_no_classes_are_made_up(tmp_path):
    network = create_model("mlla_test", normalisation={"mean": np.float32(1), "std": np.array([1.0, 2, 3])})
    network.save_pretrained(tmp_path)
    assert Segmenter.from_pretrained(tmp_path).normalise.std.tolist() == [1, 2, 3]
    card = (tmp_path / "README.md").read_text()
    assert "| Classes | 2 |" in card
    assert "## Classes" not in card


class Hub(BaseHTTPRequestHandler):
    """A local server with as much of the Hub's protocol as one commit and its download need."""

    files: ClassVar[dict[str, bytes]] = {}

    def answer(self, content, **headers):
        self.send_response(200)
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        if self.path == "/api/repos/create":
            self.answer({"url": f"http://{self.headers['Host']}/user/net", "id": "user/net"})
        elif "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            self.answer({"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer({"commitUrl": f"http://{self.headers['Host']}/user/net/commit/1", "commitOid": "1" * 40})
        else:  # the check of the card's header
            self.answer({"errors": [], "warnings": []})

    def do_GET(self):
        name = self.path.rsplit("/", 1)[-1]
        if "/resolve/" in self.path and name in self.files:
            self.answer(self.files[name], ETag=f'"{len(self.files[name])}"', X_Repo_Commit="1" * 40)
        else:
            self.answer({"id": "user/net", "sha": "1" * 40, "siblings": []})

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


PUSH_AND_PULL = """
import torch
from mlla_seg import Segmenter, create_model
network = create_model("mlla_test", num_classes=3).eval()
print(network.push_to_hub("user/net", metrics={"dice": 0.7}, token="hf_x"))
x = torch.randn(1, 3, 64, 64)
torch.testing.assert_close(Segmenter.from_pretrained("user/net")(x), network(x))
"""


def test_pushed_networks_come_back_from_the_hub(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    there = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PUSH_AND_PULL],
        env={**os.environ, **there, "HF_HUB_DISABLE_XET": "1", "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    server.shutdown()
    server.server_close()
    assert result.returncode == 0, result.stderr
    assert "commit/1" in result.stdout
    assert set(Hub.files) == {"README.md", "config.json", "model.safetensors"}
    assert b"| dice | 0.7 |" in Hub.files["README.md"]
