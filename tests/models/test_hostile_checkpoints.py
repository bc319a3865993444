"""Checkpoints and weights that were made to harm: nothing in them runs, and each is refused in one line."""

from __future__ import annotations

import argparse
import io
import json
import pickle
import tarfile
import zipfile

import pytest
import torch

from mlla_seg.errors import InputError
from mlla_seg.models.checkpoint import read_checkpoint
from mlla_seg.models.segmenter import Segmenter
from mlla_seg.models.weight_files import read_state_dict

FORMATS = {"zip": True, "legacy": False}


class Evil:
    """Runs code as it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def nested(content, place, evil):
    """The content with an object at a place, such as ``("callbacks", "x", 0)``."""
    if not place:
        return evil
    key, *rest = place
    if isinstance(key, int):
        return [nested(None, rest, evil)]
    return {**(content or {}), key: nested((content or {}).get(key), rest, evil)}


def refused(read, path, marker):
    with pytest.raises(InputError) as caught:
        read(path)
    assert path.name in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 600
    assert not marker.exists()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "place",
    [
        ("evil",),
        ("state_dict", "network.head.weight"),
        ("hyper_parameters", "spec", "classes", 0),
        ("optimizer_states", 0, "state", "exp_avg"),
        ("callbacks", "x", 0),
        ("loops", "fit_loop", "state_dict"),
    ],
)
def test_objects_are_not_made_wherever_they_lie(tmp_path, place, format):
    content = {"mlla_seg_version": "0.2.0", "hyper_parameters": {"spec": {}}, "state_dict": {}}
    marker, path = tmp_path / "ran", tmp_path / "evil.ckpt"
    torch.save(nested(content, place, Evil(marker)), path, _use_new_zipfile_serialization=FORMATS[format])
    for read in (read_checkpoint, read_state_dict):
        refused(read, path, marker)


def as_script(path, marker):
    class Small(torch.nn.Module):
        def forward(self, x):
            return x

    torch.jit.save(torch.jit.script(Small()), path)


def as_pickle(path, marker):
    path.write_bytes(pickle.dumps(Evil(marker)))


def as_tar(path, marker):
    """The format of torch before 0.1.10, which unpickles a member."""
    content = pickle.dumps(Evil(marker))
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as file:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))


def as_second_pickle(path, marker):
    """A valid archive with further members: an object, names that lead elsewhere, and code."""
    torch.save({"a": argparse.Namespace()}, path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("archive/constants.pkl", pickle.dumps(Evil(marker)))
        file.writestr("../../../tmp/escaped", b"x")
        file.writestr("archive/code/__torch__.py", b"open('ran', 'w')")


def as_bomb(path, marker):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        with file.open("archive/data.pkl", "w", force_zip64=True) as member:
            for _ in range(64):
                member.write(bytes(2**20))
        file.writestr("archive/version", b"3")


def as_deep(path, marker):
    path.write_bytes(b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".")


def as_link_to_itself(path, marker):
    path.symlink_to(path.name)


OTHERS = (as_script, as_pickle, as_tar, as_second_pickle, as_bomb, as_deep, as_link_to_itself)


@pytest.mark.parametrize("write", OTHERS, ids=lambda write: write.__name__)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*", "ignore:.*TorchScript archive.*", "ignore:Duplicate name")
def test_other_files_of_the_name_are_refused(tmp_path, write):
    marker, path = tmp_path / "ran", tmp_path / "evil.ckpt"
    write(path, marker)
    for read in (read_checkpoint, read_state_dict):
        refused(read, path, marker)


@pytest.mark.parametrize(
    "encoder", ["evil_module.Encoder", "os.system", "timm/hf_hub:user/model", "timm/local-dir:evil", "../evil", "/evil"]
)
def test_a_config_names_no_code_and_no_place(tmp_path, monkeypatch, encoder):
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    arguments = {"encoder": encoder, "decoder": "unet", "num_classes": 2, "in_channels": 1}
    (tmp_path / "net").mkdir()
    (tmp_path / "net/config.json").write_text(json.dumps({"build": "create_model", "arguments": arguments}))
    with pytest.raises(InputError) as caught:
        Segmenter.from_pretrained(tmp_path / "net")
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "ran").exists()


NO_CONFIGS = ("[" * 100_000, "{", '{"build": "eval", "arguments": {}}', '{"build": [], "arguments": 1}')


@pytest.mark.parametrize("text", NO_CONFIGS, ids=len)
def test_a_config_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError) as caught:
        Segmenter.from_pretrained(tmp_path)
    assert len(str(caught.value).splitlines()) == 1
