"""A killed run of each recipe, and of each way to tune a backbone, continues bit-identically.

What stays frozen is not in the checkpoint. The same holds where weights are averaged.
"""

from pathlib import Path

import pandas as pd
import pytest
import torch
from command_processes import CommandProcess, checkpoint_time, wait_for
from pcam_files import SPLITS, random_split, write_split
from weight_files import write_repository

from pcam_lightning.runs import Run

pytestmark = pytest.mark.slow


BACKBONE = ["model=timm", "model.dropout=0.3"]


@pytest.mark.parametrize(
    ("words", "is_frozen"),
    [
        ([*BACKBONE, "model.tune=head", "callbacks=averaged"], True),
        ([*BACKBONE, "model.tune=lora"], True),
        (["experiment=minutes_3", "callbacks=averaged"], False),
        (["experiment=minutes_15", "model.frozen_layers=2", "callbacks=averaged"], False),
    ],
)
def test_a_killed_run_continues_from_its_checkpoint(
    tmp_path: Path, words: list[str], is_frozen: bool
) -> None:
    for seed, (split, rows) in enumerate(zip(SPLITS, (64, 16, 16), strict=True)):
        write_split(tmp_path / "data", split, *random_split(rows, seed))
    write_repository(tmp_path / "weights", "test_efficientnet")
    setting = [
        *words, f"data.root={tmp_path / 'data'}", "data.batch_size=8",
        "trainer=cpu", "trainer.max_epochs=2", "logger=csv", "trainer.log_every_n_steps=1",
        "callbacks.last_checkpoint.every_minutes=0",
    ]  # fmt: skip
    has_backbone = "experiment=minutes_3" not in words
    if has_backbone:
        setting.append(f"model.name=local-dir:{tmp_path / 'weights'}")

    def start(name: str) -> CommandProcess:
        return CommandProcess([*setting, f"hydra.run.dir={tmp_path / name}"])

    def finish(name: str) -> Run:
        process = start(name)
        out, err = process.communicate()
        assert process.returncode == 0, out + err
        return Run(tmp_path / name)

    whole = finish("whole")
    process = start("killed")
    wait_for(lambda: checkpoint_time(tmp_path / "killed") is not None, process)
    process.kill()
    process.communicate()
    assert Run(tmp_path / "killed").state != "finished"
    killed = finish("killed")
    assert killed.status["attempt"] == 2
    assert killed.summary["weights_digest"] == whole.summary["weights_digest"]
    last, expected = (
        torch.load(run.path / "checkpoints" / "last.ckpt", weights_only=True)
        for run in (killed, whole)
    )
    assert last.keys() == expected.keys()
    assert ("backbone" in last) == is_frozen
    assert last.get("backbone") == expected.get("backbone")
    for name in expected.keys() & {"state_dict", "current_model_state"}:
        assert last[name].keys() == expected[name].keys()
        assert all(torch.equal(last[name][k], v) for k, v in expected[name].items())
        stem = [key for key in last[name] if "conv_stem" in key]
        assert bool(stem) == (has_backbone and not is_frozen), "what is frozen is not in the file"
    pd.testing.assert_frame_equal(killed.gradients, whole.gradients, check_exact=True)
    for split in ("val", "test"):
        pd.testing.assert_frame_equal(
            killed.predictions(split), whole.predictions(split), check_exact=True
        )
