"""Every command reads a run folder of version 0.1.0."""

import json
import shutil
from pathlib import Path

import pytest

from pcam_lightning.runs import Run
from pcam_lightning.runs.legacy import translate


@pytest.fixture
def old(tmp_path: Path) -> Run:
    return Run(shutil.copytree(Path(__file__).parent / "run_v0", tmp_path / "old"))


def test_the_config_has_current_names(old: Run) -> None:
    raw = json.loads((old.path / "manifest.json").read_text())["config"]
    for config in (old.config, old.manifest["config"], translate(raw)):
        assert config["data"]["sampler"] == "balanced"
        assert config["data"]["normalize"] == "symmetric"
        assert config["data"]["cache"] is True and config["resume"] is True
        assert "nan" not in config["data"]["exclude_kinds"]
        assert config["augment"]["_target_"] == "pcam_lightning.engine.augment.StainJitter"
        assert config["model"]["center_max"] is False
        assert "compilation" not in config["callbacks"] and config["compile"] is False
        assert translate(config) == config


@pytest.mark.parametrize("package", ["pcam_lightning.callbacks", "pcam_lightning.engine.callbacks"])
def test_the_callback_that_compiled_becomes_the_key(package: str) -> None:
    target = f"{package}.Compilation"
    part = {"_target_": target, "enabled": True}
    old = {"compile": False, "callbacks": {"compilation": part, "progress": None}}
    assert translate(old) == {"compile": True, "callbacks": {"progress": None}}
    other = {"callbacks": {"compilation": {"_target_": "mine.Compilation", "enabled": True}}}
    assert translate(other) == other


def test_reproduce_trains_the_same_weights_as_its_command(
    command, old: Run, tmp_path: Path
) -> None:
    # Pixels of the demo set and weights differ between kinds of processors, so a new run with the
    # old run's overrides is the reference, not its recorded digests.
    path = old.path / "manifest.json"
    manifest = json.loads(path.read_text())
    overrides = [each for each in manifest["command"][3:] if "hydra.run.dir" not in each]
    overrides += ["optimizer=adam", "model.center_max=false"]  # the defaults at its time
    code, _, err = command(*overrides, "hydra.run.dir=now")
    assert code == 0, err
    manifest["dataset"]["fingerprint"] = Run("now").manifest["dataset"]["fingerprint"]
    path.write_text(json.dumps(manifest))
    code, out, err = command(f"run={old.path}", "hydra.run.dir=again", name="reproduce")
    assert code in (0, 1), out + err
    twin = Run(tmp_path / "again" / "twin")
    assert twin.summary["weights_digest"] == Run("now").summary["weights_digest"]


def test_evaluate_and_collect_read_it(command, old: Run) -> None:
    code, _, err = command(f"run={old.path}", "hydra.run.dir=evaluated", name="evaluate")
    assert code == 0, err
    code, _, err = command(f"runs={old.path}", "hydra.run.dir=collected", name="collect")
    assert code == 0, err
    summary = json.loads(Path("collected/summary.json").read_text())
    assert summary["states"] == "1 finished"
