"""Files of `torch.export`, which PyTorch runs without this package."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pcam_lightning.export.comparison import Predict
from pcam_lightning.models.served import Served


def write_pt2(served: Served, path: Path) -> None:
    """Export a network as `torch.export` does, for any number of patches.

    Arguments as in `write_onnx`.
    """
    example = torch.zeros(2, 96, 96, 3, dtype=torch.uint8)
    shapes = ({0: torch.export.Dim("N", min=1)},)
    program = torch.export.export(served, (example,), dynamic_shapes=shapes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # contains folders of this machine
    with _without_storage_warning():
        torch.export.save(program, path)


def load_pt2(path: Path) -> Predict:
    """Return a function that runs a file of `write_pt2` on the CPU."""
    with _without_storage_warning():
        module = torch.export.load(path).module()

    def predict(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return module(torch.from_numpy(image)).numpy()

    return predict


@contextmanager
def _without_storage_warning() -> Iterator[None]:
    """Hide a warning of torch (2.14) that concerns weights on other devices than the CPU."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No complete tensor found in the group")
        yield
