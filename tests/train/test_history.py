from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pcam_files import random_split, write_split

from pcam_lightning.data import PCamDataModule
from pcam_lightning.train import history


def test_the_largest_spikes_show_their_patches(pcam_root: Path, tmp_path: Path, monkeypatch):
    images, labels = random_split(48, 0)
    images[:10] = 0  # left out, so that positions in the data set are not rows of the file
    write_split(pcam_root, "train", images, labels)
    datamodule = PCamDataModule(pcam_root, filter="blank")
    datamodule.setup()
    assert len(datamodule.datasets["train"]) == 38

    steps = {3: (4.0, [40, 11, 12]), 7: (np.inf, [20, 47, 13]), 8: (5.0, [14, 15, 16])}
    steps |= {9: (3.5, [17, 18, 19]), 10: (1.0, None)}
    table = pd.DataFrame(
        {
            "step": list(steps),
            "norm": [2 * times for times, _ in steps.values()],
            "median": 2.0,
            "rows": [rows for _, rows in steps.values()],
            "losses": [None if rows is None else [3.0, 2.0, 1.0] for _, rows in steps.values()],
        }
    )
    (tmp_path / "status.json").write_text("{}")
    table.to_parquet(tmp_path / "gradients.parquet")
    drawn = []
    monkeypatch.setattr(history, "plot_gallery", lambda *args: drawn.append(args))
    history.plot_spikes(tmp_path, datamodule, "title", patches=2)
    ((_, pixels, captions, _, columns),) = drawn
    rows = [20, 47, 14, 15, 40, 11]
    np.testing.assert_array_equal(pixels, images[rows])
    assert columns == 2
    assert captions[0] == f"step 7: inf x median\nrow 20: {_name(labels[20])}\nloss 3.00"
    assert [caption.split("\n")[1] for caption in captions] == [
        f"row {row}: {_name(labels[row])}" for row in rows
    ]
    assert captions[3].startswith("step 8: 5.0 x median") and captions[3].endswith("loss 2.00")


@pytest.mark.parametrize("columns", [["step"], ["step", "rows"]])
def test_without_a_spike_there_is_no_gallery(pcam_root, tmp_path, monkeypatch, columns):
    table = pd.DataFrame({"step": [0, 1], "rows": [None, None]})[columns]
    (tmp_path / "status.json").write_text("{}")
    datamodule = PCamDataModule(pcam_root)
    history.plot_spikes(tmp_path, datamodule, "title")
    table.to_parquet(tmp_path / "gradients.parquet")
    history.plot_spikes(tmp_path, datamodule, "title")
    assert not (tmp_path / "plots").exists()


def _name(label: int) -> str:
    return "tumour" if label else "normal"
