"""The notebooks run from their first cell to their last."""

from __future__ import annotations

import pytest

from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="pip install 'mlla_seg[examples]'")
    nbclient = pytest.importorskip("nbclient", reason="pip install 'mlla_seg[examples]'")
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "outputs are not committed"
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    made = {path.name for path in tmp_path.iterdir()}
    assert {"volumes": "overlay.png", "smp": "model.onnx"}[path.stem] in made
