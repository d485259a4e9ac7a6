"""The notebook in the docs runs as it stands, without Hydra, and is committed without outputs."""

import re
from pathlib import Path

import pytest

PATH = Path(__file__).parents[1] / "docs" / "notebook.ipynb"
nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")


def test_the_notebook_has_no_outputs() -> None:
    notebook = nbformat.read(PATH, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(PATH.parents[1]))
    notebook = nbformat.read(PATH, as_version=4)
    notebook.cells.append(
        nbformat.v4.new_code_cell(
            "import sys\n"
            "from sklearn.metrics import roc_auc_score\n"
            "print('hydra' in sys.modules, roc_auc_score(label, probability))"
        )
    )
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=120, resources=resources).execute()
    text = "".join(
        output.text
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "stream" and output.name == "stdout"
    )
    shown = re.search(r"^auroc +([\d.]+) \[([\d.]+), ([\d.]+)\]$", text, re.M)
    assert shown is not None
    auroc, low, high = map(float, shown.groups())
    has_hydra, expected = text.split()[-2:]
    assert has_hydra == "False"
    assert auroc == pytest.approx(float(expected), abs=1e-3) and low <= auroc <= high
    assert auroc > 0.7  # two epochs learn more than nothing
    assert {"best.ckpt", "roc.png", "worst.png"} <= {
        path.name for path in (tmp_path / "outputs" / "notebook").iterdir()
    }
