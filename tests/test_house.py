"""The rules of the house: who may know whom, what a plain import costs, what the wheel holds."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from mlla_seg.cli import COMMANDS

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "mlla_seg").rglob("*.py"))
LIGHTNING = {
    "mlla_seg.module",
    "mlla_seg.training",
    "mlla_seg.resuming",
    "mlla_seg.horizon",
    "mlla_seg.averaging",
    "mlla_seg.data.datamodule",
}
OPTIONAL = {
    "scipy",
    "nibabel",
    "h5py",
    "PIL",
    "matplotlib",
    "monai",
    "albumentations",
    "segmentation_models_pytorch",
    "cv2",
    "rasterio",
    "pyogrio",
    "shapely",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "openvino",
}
# What each room may import of this package, besides itself.
SHARED = {"mlla_seg.errors", "mlla_seg.framing", "mlla_seg.resampling", "mlla_seg.slices"}
ALLOWED = {
    "mlla_seg.errors": set(),
    "mlla_seg.finite": {"mlla_seg.errors"},
    "mlla_seg.slices": set(),
    "mlla_seg.resampling": set(),
    "mlla_seg.tiling": {"mlla_seg.errors"},
    "mlla_seg.averaging": set(),
    "mlla_seg.distributed": {"mlla_seg.models.ops"},
    "mlla_seg.framing": set(),
    "mlla_seg.models": {"mlla_seg", "mlla_seg.errors", "mlla_seg.framing", "mlla_seg.progress"},
    "mlla_seg.losses": {"mlla_seg.distributed", "mlla_seg.models.ops"},
    "mlla_seg.metrics": set(),
    "mlla_seg.surface": set(),
    "mlla_seg.boundary": set(),
    "mlla_seg.transunet": {"mlla_seg.finite", "mlla_seg.slices", "mlla_seg.surface"},
    "mlla_seg.evaluation": {"mlla_seg", "mlla_seg.metrics"},
    "mlla_seg.optim": {"mlla_seg.errors"},
    "mlla_seg.horizon": {"mlla_seg.errors"},
    "mlla_seg.resuming": {"mlla_seg.checkpoint", "mlla_seg.data", "mlla_seg.errors", "mlla_seg.module"},
    "mlla_seg.windows": {"mlla_seg.resampling", "mlla_seg.tiling"},
    "mlla_seg.inference": {
        "mlla_seg.finite",
        "mlla_seg.resampling",
        "mlla_seg.slices",
        "mlla_seg.tiling",
        "mlla_seg.windows",
    },
    "mlla_seg.scenes": {
        "mlla_seg.data",
        "mlla_seg.errors",
        "mlla_seg.finite",
        "mlla_seg.progress",
        "mlla_seg.slices",
        "mlla_seg.tiling",
    },
    "mlla_seg.data": {"mlla_seg", "mlla_seg.tiling", *SHARED},
    "mlla_seg.report": {"mlla_seg.data"},
    "mlla_seg.webpage": {"mlla_seg.report"},
    "mlla_seg.folds": {"mlla_seg", "mlla_seg.errors"},
    "mlla_seg.plugins": {"mlla_seg.models", "mlla_seg.progress"},
    "mlla_seg.checkpoint": {
        "mlla_seg",
        "mlla_seg.errors",
        "mlla_seg.finite",
        "mlla_seg.framing",
        "mlla_seg.inference",
        "mlla_seg.models",
        "mlla_seg.slices",
    },
    "mlla_seg.module": {
        "mlla_seg",
        "mlla_seg.boundary",
        "mlla_seg.checkpoint",
        "mlla_seg.data.store",
        "mlla_seg.distributed",
        "mlla_seg.errors",
        "mlla_seg.evaluation",
        "mlla_seg.finite",
        "mlla_seg.horizon",
        "mlla_seg.inference",
        "mlla_seg.losses",
        "mlla_seg.metrics",
        "mlla_seg.models",
        "mlla_seg.optim",
        "mlla_seg.slices",
        "mlla_seg.surface",
        "mlla_seg.transunet",
    },
    "mlla_seg.interpolation": set(),
    "mlla_seg.engines": {"mlla_seg.data.picture", "mlla_seg.errors"},
    "mlla_seg.runtime": {
        "mlla_seg.data.picture",
        "mlla_seg.engines",
        "mlla_seg.errors",
        "mlla_seg.finite",
        "mlla_seg.interpolation",
        "mlla_seg.scenes",
        "mlla_seg.segmenting",
        "mlla_seg.slices",
        "mlla_seg.tiling",
    },
    "mlla_seg.benchmark": {
        "mlla_seg",
        "mlla_seg.engines",
        "mlla_seg.errors",
        "mlla_seg.export",
        "mlla_seg.models",
        "mlla_seg.progress",
        "mlla_seg.report",
    },
    "mlla_seg.export": {
        "mlla_seg",
        "mlla_seg.checkpoint",
        "mlla_seg.data",
        "mlla_seg.errors",
        "mlla_seg.inference",
        "mlla_seg.models",
        "mlla_seg.predict",
        "mlla_seg.progress",
        "mlla_seg.scenes",
        "mlla_seg.segmenting",
        "mlla_seg.slices",
    },
    "mlla_seg.progress": set(),
    "mlla_seg.segmenting": {"mlla_seg.data", "mlla_seg.errors", "mlla_seg.progress", "mlla_seg.scenes"},
    "mlla_seg.predict": {
        "mlla_seg.checkpoint",
        "mlla_seg.data",
        "mlla_seg.errors",
        "mlla_seg.inference",
        "mlla_seg.models",
        "mlla_seg.scenes",
        "mlla_seg.segmenting",
        "mlla_seg.slices",
        "mlla_seg.windows",
    },
}


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path, top_level=False):
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_rooms_import_only_what_they_may(path):
    name = name_of(path)
    room = next((room for room in ALLOWED if name == room or name.startswith(room + ".")), None)
    if room is None:
        assert name in {"mlla_seg", "mlla_seg.cli", "mlla_seg.training", "mlla_seg.results", "mlla_seg.preview"}, (
            "a new room: say in ALLOWED what it may know"
        )
        return
    for imported in imports_of(path):
        if imported.split(".")[0] == "mlla_seg":
            own = imported == room or imported.startswith(room + ".")
            allowed = any(imported == a or (a != "mlla_seg" and imported.startswith(a + ".")) for a in ALLOWED[room])
            assert own or allowed, f"{name} imports {imported}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_optional_packages_are_imported_where_they_are_used(path):
    if name_of(path).startswith("mlla_seg.plugins."):
        return  # importing one is asking for its library
    roots = {imported.split(".")[0] for imported in imports_of(path, top_level=True)}
    assert not roots & OPTIONAL
    if "lightning" in roots:
        assert name_of(path) in LIGHTNING


def test_nobody_knows_the_command_line():
    for path in MODULES:
        assert "mlla_seg.cli" not in imports_of(path), path


def test_import_and_help_are_quick_and_load_nothing_heavy():
    code = "import sys, mlla_seg, mlla_seg.cli; print(sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert not {"torch", "lightning", "monai", "timm", "numpy"} & set(ast.literal_eval(loaded))


def test_help_lists_every_command_with_one_line():
    started = time.perf_counter()
    output = subprocess.run(
        [sys.executable, "cli.py", "--help"], capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout
    assert time.perf_counter() - started < 2  # asked for: an answer within two seconds
    for command, (line, _) in COMMANDS.items():
        assert f"{command} " in output
        assert line in output


def test_every_public_name_is_there():
    import mlla_seg

    assert set(mlla_seg.__all__) == set(mlla_seg._PUBLIC)
    for name in mlla_seg.__all__:
        assert getattr(mlla_seg, name).__name__ == name


@pytest.mark.slow
def test_wheel_holds_the_package_alone_and_a_console_script(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", tmp_path, ROOT]
    subprocess.run(list(map(str, command)), check=True, capture_output=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        tops = {name.split("/")[0] for name in names}
        entry_points = archive.read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
    assert {top for top in tops if not top.endswith(".dist-info")} == {"mlla_seg"}
    assert "mlla-seg = mlla_seg.cli:main" in entry_points
