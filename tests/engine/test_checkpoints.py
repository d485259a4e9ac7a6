import errno
import os
from pathlib import Path

import pytest
import torch

from pcam_lightning.engine.checkpoints import AtomicCheckpointIO
from pcam_lightning.errors import InputError
from pcam_lightning.runs import status


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": torch.tensor(1)}, path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(status.os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        AtomicCheckpointIO().save_checkpoint({"step": torch.tensor(2)}, path)
    assert torch.load(path, weights_only=True)["step"] == 1
    assert list(path.parent.iterdir()) == [path]


def test_nothing_is_written_outside_the_folder(tmp_path: Path, monkeypatch) -> None:
    elsewhere = tmp_path / "tmp"
    elsewhere.mkdir()
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    elsewhere.chmod(0o500)
    path = tmp_path / "run" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": torch.tensor(3)}, str(path))
    assert torch.load(path, weights_only=True)["step"] == 3
    assert not list(elsewhere.iterdir())
