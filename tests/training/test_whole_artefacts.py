"""Whatever a run leaves names neither the folders of its machine nor, where it is shared, its patients.

All bytes are searched, also those of the members of archives. The run's folder is below pytest's, whose name tells.
"""

from __future__ import annotations

import sys
import zipfile

import pytest

from conftest import ROOT, TINY
from jobs import small_job
from mlla_seg.export import FORMATS

FOLDERS = (b"pytest-of-", str(ROOT).encode(), sys.prefix.encode())
PATIENTS = (b"case00", b"case_00")
EXCEPTIONS = {"config.yaml", "hparams.yaml"}
"""Files of the run folder itself that keep ``data.root``."""


def contents(path):
    """The bytes of a file and of the members of an archive."""
    content = path.read_bytes()
    yield path.name, content
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            for member in file.namelist():
                yield f"{path.name}:{member}", member.encode() + file.read(member)


def found_in(folder, needles, but=()):
    files = [folder] if folder.is_file() else [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return {
        (name, needle)
        for path in files
        if path.name not in but
        for name, content in contents(path)
        for needle in needles
        if needle in content
    }


def test_the_search_finds_what_is_there(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.ckpt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", f"{ROOT} case0001")
    assert len(found_in(tmp_path, FOLDERS + PATIENTS)) == 2


def test_checkpoints_and_scores_name_no_folder(cli, trained, checkpoint, phantom_root, tmp_path):
    options = ["--config", ROOT / "configs/demo.yaml", f"--data.root={phantom_root}", "--data.crop=[32,32]", *TINY]
    cli("test", *options, "--ckpt_path", checkpoint)
    (scored,) = (path.parent for path in tmp_path.rglob("report.html"))
    assert not found_in(scored, FOLDERS, EXCEPTIONS)
    run = checkpoint.parent.parent
    assert not found_in(run, FOLDERS, EXCEPTIONS)
    assert not found_in(checkpoint.parent, PATIENTS)
    cli("export", "--ckpt_path", checkpoint, "--format=safetensors", f"--output={tmp_path / 'net'}")
    cli("export", "--ckpt_path", checkpoint, "--format=torchscript", f"--output={tmp_path / 'm.ts'}")
    for made in ("net", "net.parity.json", "m.ts", "m.ts.parity.json"):
        assert not found_in(tmp_path / made, FOLDERS + PATIENTS)


@pytest.mark.parametrize("format", ["onnx", "openvino", "torch_export", "torchscript", "deepness"])
@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_graphs_name_no_folder(tmp_path, format):
    how = FORMATS[format]
    for package in how.packages:
        pytest.importorskip(package)
    more = {"tile": 64} if format == "deepness" else {}
    (tmp_path / "out").mkdir()
    how.write(small_job(outputs=how.outputs[0], **more), tmp_path / f"out/m{how.suffix}")
    assert not found_in(tmp_path / "out", FOLDERS)
