from math import isnan
from pathlib import Path

import torch

from pcam_lightning.benchmark.naive_loop import NaiveLoop, _of_floats
from pcam_lightning.data import PCamDataModule
from pcam_lightning.models import CNN, MLP


def test_it_trains_and_validates_in_a_process_of_its_own(pcam_root: Path) -> None:
    files = PCamDataModule(pcam_root).files
    model = MLP((8,))
    loop = NaiveLoop(files("train"), files("valid"), model, 16, 1e-3, "cpu")
    epochs = loop.epochs()
    for _ in range(2):
        work = next(epochs)
        assert (work.patches, work.steps) == (48 + 20, 3) and isnan(work.waiting)
    epochs.close()


def test_its_networks_compute_what_ours_compute() -> None:
    image = torch.randint(0, 256, (2, 96, 96, 3), dtype=torch.uint8)
    floats = image.permute(0, 3, 1, 2).contiguous() / 127.5 - 1
    for model in (CNN(), MLP()):
        model.eval()
        expected = model(image).detach()
        usual = _of_floats(model)
        if isinstance(model, MLP):  # whose weights are in another order
            assert usual(floats).shape == expected.shape
        else:
            torch.testing.assert_close(usual(floats).detach(), expected, rtol=1e-4, atol=1e-4)
