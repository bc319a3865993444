"""The commands and code of docs/exports.md run as written, with a network that exports quickly."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

import mlla_seg.export
from conftest import ROOT
from jobs import Pixelwise, spec_of
from layouts import write_scene
from mlla_seg.runtime import __main__ as runtime

PAGE = (ROOT / "docs/exports.md").read_text()
BASH = "\n".join(re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL))
CODE = "".join(re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_every_command_runs(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(mlla_seg.export, "load_network", lambda paths, tta: (Pixelwise().eval(), spec_of()))
    (tmp_path / "images").mkdir()
    nib.save(nib.Nifti1Image(np.zeros((20, 30, 4), np.int16), np.eye(4)), tmp_path / "images/ct.nii.gz")
    (tmp_path / "ct.nii.gz").write_bytes((tmp_path / "images/ct.nii.gz").read_bytes())
    write_scene(tmp_path / "scene.tif", np.zeros((1, 40, 50), np.uint8))
    commands = [shlex.split(line) for line in BASH.splitlines() if line]
    for command in commands:
        if command[:3] == ["python", "cli.py", "export"]:
            cli(*command[2:])
        elif command[:3] == ["python", "-m", "mlla_seg.runtime"]:
            runtime.main(command[3:])
        elif command[:3] == ["python", "-m", "monai.bundle"]:
            here = [str(tmp_path / "images") if word == "FOLDER" else word for word in command[1:]]
            environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
            subprocess.run([sys.executable, *here], check=True, cwd=tmp_path / "liver", env=environment)
        else:
            assert command[0] in ("pip", "cd"), command
    for path in ("model.onnx", "liver.nii.gz", "map.gpkg", "liver/masks/ct_seg.nii.gz", "roofs.onnx"):
        assert (tmp_path / path).is_file(), path
    names = {"scan": np.zeros((4, 1, 20, 30), np.float32)}
    exec(CODE, names)  # the page's own code
    assert names["labels"].shape == (4, 20, 30)


def test_every_format_and_option_is_on_the_page():
    for format in mlla_seg.export.FORMATS:
        assert f"| `{format}` |" in PAGE
    for option in ("outputs", "precision", "opset", "calibration", "tile", "pixel_size_m", "tta"):
        assert f"--{option} " in PAGE
