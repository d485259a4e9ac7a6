"""Check of exports: equal files, files with 8 bits, and files that were not compared."""

from pathlib import Path
from typing import Any

import check_folders as made
import pytest

from pcam_lightning.checks.handover import equal_export
from pcam_lightning.checks.inputs import Inputs, read_folder

EQUAL = {"patches": 9, "largest_difference": 1e-6, "flipped_decisions": 0, "tolerance": 1e-4}


@pytest.mark.parametrize(
    ("files", "state"),
    [
        ({"model.onnx": EQUAL}, "passed"),
        ({"model.onnx": EQUAL | {"flipped_decisions": 1}}, "issue"),
        ({"model.onnx": EQUAL | {"patches": 0}}, "issue"),
        ({"model.onnx": EQUAL, "model_int8.onnx": EQUAL | {"largest_difference": 0.1}}, "tip"),
    ],
)
def test_exported_files(files: dict[str, Any], state: str, tmp_path: Path) -> None:
    made.write_run(tmp_path / "export", {"files": files, "weights_digest": "w"})
    assert equal_export(read_folder(tmp_path / "export"), Inputs(())).state == state
