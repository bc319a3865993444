"""The notebooks run from their first cell to their last: one as Jupyter runs it, the others without its start."""

from __future__ import annotations

import pytest

from conftest import ROOT
from forks import apart

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def run_cells(notebook):
    names = {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            exec(cell.source, names)  # the notebook's own code


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="pip install 'mlla_seg[examples]'")
    nbclient = pytest.importorskip("nbclient", reason="pip install 'mlla_seg[examples]'")
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "outputs are not committed"
    if path == NOTEBOOKS[0]:
        nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    else:
        done = apart(lambda: run_cells(notebook), tmp_path)
        assert done.returncode == 0, done.stderr
    made = {path.name for path in tmp_path.iterdir()}
    assert {"volumes": "overlay.png", "smp": "model.onnx"}[path.stem] in made
