"""Files in any layout that people have: the same patches train the same weights."""

import json
from pathlib import Path

import pytest
from pcam_files import SPLITS, random_split, write_split
from pcam_layouts import (
    channels_first,
    compressed_channels_first,
    declared_datasets,
    flat_kaggle,
    kaggle,
    only_datasets,
    packed,
    packed_kaggle,
)

pytestmark = pytest.mark.xdist_group("layouts")  # one process has the fixtures

SETTINGS = (
    "model=mlp", "model.hidden=[8]", "trainer=cpu", "trainer.precision=32-true",
    "trainer.max_epochs=1", "data.batch_size=16",
)  # fmt: skip

# Layout, further overrides, and whether the fingerprint is that of the official files: dtype and
# shape of the datasets count.
LAYOUTS = {
    "torchvision": (None, (), True),
    "kaggle": (kaggle, (), True),
    "kaggle, flat": (flat_kaggle, (), True),
    "packed": (packed, (), True),
    "kaggle, packed": (packed_kaggle, (), True),
    "only datasets": (only_datasets, (), True),
    "declared datasets": (declared_datasets, ("data.keys=[images,targets]",), True),
    "channels first": (channels_first, (), False),
    "channels first, compressed": (compressed_channels_first, (), False),
    "channels first, decoded": (compressed_channels_first, ("data.cache=false",), False),
}


@pytest.fixture
def train(command, tmp_path: Path):
    def run(change, overrides) -> tuple[str, str]:
        """Train on files in a layout; return the digests of the weights and of the data."""
        root = tmp_path / "pcam"
        for seed, (split, rows) in enumerate(zip(SPLITS, (48, 20, 20), strict=True)):
            write_split(root, split, *random_split(rows, seed))
        if change is not None:
            change(root)
        arguments = (f"data.root={root}", *overrides, *SETTINGS, f"hydra.run.dir={tmp_path}/run")
        code, out, err = command(*arguments)
        assert code == 0, out + err
        manifest, summary = (
            json.loads((tmp_path / "run" / f"{name}.json").read_text())
            for name in ("manifest", "summary")
        )
        names = {f"camelyonpatch_level_2_split_{s}_{part}.h5" for s in SPLITS for part in "xy"}
        assert set(manifest["dataset"]["files"]) == names
        return summary["weights_digest"], manifest["dataset"]["fingerprint"]

    return run


@pytest.fixture(scope="module")
def official() -> dict[str, tuple[str, str]]:
    """The digests of a run on the official files, once there was one."""
    return {}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_trains_the_same_weights(train, official, tmp_path: Path, name: str) -> None:
    change, overrides, same_fingerprint = LAYOUTS[name]
    if not official:
        official["digests"] = train(None, ())
        for path in (tmp_path / "pcam", tmp_path / "run"):
            path.rename(f"{path}_official")
    weights, fingerprint = train(change, overrides)
    assert weights == official["digests"][0]
    assert (fingerprint == official["digests"][1]) == same_fingerprint
