from math import isnan
from pathlib import Path

import torch

from pcam_lightning.benchmark.naive_loop import NaiveLoop, _float_network, _train
from pcam_lightning.data import PCamDataModule
from pcam_lightning.models import CNN, MLP


def test_an_epoch_trains_full_batches_and_validates_every_patch(pcam_root: Path) -> None:
    files = PCamDataModule(pcam_root).files
    model = MLP((8,))
    before = model.layers[0].weight.detach().clone()  # type: ignore[union-attr]
    # In this process; test_benchmark.py covers the process of its own.
    patches, waiting, steps = next(
        _train(NaiveLoop(files("train"), files("valid"), model, 20, 1e-3, "cpu"))
    )
    assert (patches, steps) == (40 + 20, 2) and isnan(waiting)
    assert not torch.equal(before, model.layers[0].weight)  # type: ignore[arg-type, union-attr]


def test_the_float_network_equals_the_model() -> None:
    image = torch.randint(0, 256, (2, 96, 96, 3), dtype=torch.uint8)
    floats = image.permute(0, 3, 1, 2).contiguous() / 127.5 - 1
    for model in (CNN((4, 4)), MLP((4,))):
        model.eval()
        expected = model(image).detach()
        actual = _float_network(model)(floats).detach()
        if isinstance(model, MLP):  # flattens channels first: its weights have another order
            assert actual.shape == expected.shape
        else:
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
