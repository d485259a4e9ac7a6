"""Public names of `pcam_lightning.metrics`, imported on demand."""

import subprocess
import sys

import pytest

from pcam_lightning import metrics


@pytest.mark.parametrize("name", metrics.__all__)
def test_a_public_name_is_there(name: str) -> None:
    assert getattr(metrics, name).__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'recall'"):
        metrics.recall  # type: ignore[attr-defined]  # noqa: B018


def test_the_package_alone_imports_no_heavy_library() -> None:
    heavy = "{'numpy', 'pandas', 'scipy', 'sklearn'}"
    code = f"import sys, pcam_lightning.metrics; print({heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
