"""Architecture rules: allowed imports between subpackages, cost of a plain import, contents of the wheel."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
import zipfile
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from mlla_seg.cli import COMMANDS

ROOT = Path(__file__).parents[1]
FLOORS = (
    {"errors", "visible", "places", "_version"},
    {"bounded_yaml", "disk_space", "progress"},
    {"texts"},
    {"locks", "checksums"},
    {"atomic", "finite"},
    {"data"},
    {"models", "evaluation"},
    {"inference", "plugins"},
    {"runtime"},
    {"training", "export", "explain"},
    {"pretraining"},
    {"cli", "benchmark"},
    {"study", "planning", "checking"},
    {"__main__"},
)
"""Layers, lowest first: a subpackage imports only from itself and from lower layers, not from its own layer."""
DOORS = {"mlla_seg", "mlla_seg.averaging"}
"""Modules that re-export names of other subpackages: the public API, and old names used in saved configs."""
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


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted((ROOT / "mlla_seg").rglob("*.py"))}


def imports_of(name, top_level=False):
    """Imports anywhere in a module; ``from mlla_seg.training import losses`` counts as an import of the module."""
    tree = ast.parse(MODULES[name].read_text())
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else str(node.module)


def own(name, top_level=False):
    return {imported for imported in imports_of(name, top_level) if imported.split(".")[0] == "mlla_seg"} - {name}


def floor_of(name):
    room = name.split(".")[1]
    return next((floor for floor, rooms in enumerate(FLOORS) if room in rooms), None)


@pytest.mark.parametrize("name", sorted(MODULES.keys() - DOORS))
def test_rooms_know_themselves_and_lower_floors(name):
    assert floor_of(name) is not None, f"a new room: give {name} a floor"
    for imported in own(name):
        assert imported != "mlla_seg", f"{name} imports the package: name the module"
        same = imported.split(".")[1] == name.split(".")[1]
        assert same or floor_of(imported) < floor_of(name), f"{name} imports {imported}"


def test_no_module_knows_itself_through_others():
    graph = {name: own(name) for name in MODULES.keys() - DOORS}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"imports go round: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("mlla_seg.data.formats")])
def test_formats_know_no_card(name):
    for imported in own(name):
        inside = imported.startswith("mlla_seg.data.formats")
        assert inside or floor_of(imported) <= floor_of("mlla_seg.finite"), f"{name} imports {imported}"


@pytest.mark.parametrize("name", MODULES)
def test_lightning_stays_in_training_pretraining_and_the_data_module(name):
    if not name.startswith(("mlla_seg.training", "mlla_seg.pretraining")) and name != "mlla_seg.data.datamodule":
        assert "lightning" not in {imported.split(".")[0] for imported in imports_of(name)}


def test_the_runtime_and_all_it_imports_know_no_torch():
    seen, left = set(), {name for name in MODULES if name.startswith("mlla_seg.runtime")}
    while left:
        name = left.pop()
        seen.add(name)
        assert "torch" not in {imported.split(".")[0] for imported in imports_of(name, top_level=True)}, name
        left |= own(name, top_level=True) - seen


@pytest.mark.parametrize("name", MODULES)
def test_optional_packages_are_imported_where_they_are_used(name):
    if not name.startswith("mlla_seg.plugins."):  # importing one is asking for its library
        assert not {imported.split(".")[0] for imported in imports_of(name, top_level=True)} & OPTIONAL


@pytest.mark.parametrize("name", MODULES)
def test_files_are_no_longer_than_a_reader_can_hold(name):
    assert len(MODULES[name].read_text().splitlines()) <= 350


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


def test_the_wheel_lists_every_package():
    tomllib = pytest.importorskip("tomllib", reason="reads pyproject.toml from Python 3.11 on")
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert listed == folders | {"mlla_seg.configs", "mlla_seg.datasets"}


@pytest.mark.slow
def test_wheel_works_alone(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", tmp_path, ROOT]
    subprocess.run(list(map(str, command)), check=True, capture_output=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
        entry_points = archive.read(next(n for n in archive.namelist() if n.endswith("entry_points.txt"))).decode()
        archive.extractall(tmp_path / "installed")
    assert {top for top in tops if not top.endswith(".dist-info")} == {"mlla_seg"}
    assert "mlla-seg = mlla_seg.cli:main" in entry_points
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    code = "from mlla_seg.data.card import load_card; print(load_card('potsdam_rgbir').splits.files)"
    for arguments, expected in (
        (["-c", code], "potsdam/splits/train.txt"),
        (["-m", "mlla_seg", "configs"], "vaihingen"),
    ):
        run = subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, text=True, cwd=tmp_path
        )
        assert expected in run.stdout, run.stderr
    assert (tmp_path / "installed/mlla_seg/py.typed").is_file()
    for kind in ("configs", "datasets"):
        installed, source = (
            {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
            for folder in (tmp_path / "installed/mlla_seg" / kind, ROOT / kind)
        )
        assert installed == source


@pytest.mark.parametrize("name", [name for name, path in MODULES.items() if "def forward(" in path.read_text()])
def test_annotations_of_networks_are_types(name):
    """torch.fx copies annotations into its graphs, and TorchScript compiles no graph whose annotations are strings."""
    assert "from __future__ import annotations" not in MODULES[name].read_text()


@pytest.mark.parametrize("name", [name for name in MODULES if name != "mlla_seg.progress"])
def test_only_one_module_prints(name):
    """It spells out what a terminal would obey, such as escape codes in the name of a file."""
    calls = [node.func for node in ast.walk(ast.parse(MODULES[name].read_text())) if isinstance(node, ast.Call)]
    assert "print" not in {call.id for call in calls if isinstance(call, ast.Name)}, "call say, note or complain"
