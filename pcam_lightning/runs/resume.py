"""Resuming a run: the checkpoint to start from, and the config that must not change."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pcam_lightning.errors import InputError
from pcam_lightning.runs.contents import read_manifest, read_status
from pcam_lightning.runs.folder import move_folder
from pcam_lightning.runs.process import is_first_rank

HISTORY = ("metrics.csv", "gradients.parquet")
FREE = (
    # place, start and machines of the run
    "ckpt_path",
    "resume",
    "run_dir",
    "experiment_name",
    "preflight",
    "cluster",
    # place and reading of the data, whose fingerprint is checked
    "data.root",
    "data.default_root",
    "data.on_missing",
    "data.keys",
    "data.num_workers",
    "data.cache",
    "data.cache_dir",
    "data.device_resident",
    "data.demo.parent",
    # output, logs and measurements
    "logger",
    "trainer.log_every_n_steps",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "trainer.enable_autolog_hparams",
    "trainer.default_root_dir",
    "trainer.profiler",
    "trainer.detect_anomaly",
)
"""Keys and groups of a config that change no weights. `trainer.enable_checkpointing` and
`trainer.limit_val_batches` are not listed, because the best checkpoint depends on them."""

OBSERVERS = (
    "pcam_lightning.engine.callbacks.GradientNorm",
    "pcam_lightning.engine.callbacks.PreemptionCheckpoint",
    "pcam_lightning.engine.callbacks.Throughput",
    "pcam_lightning.engine.callbacks.progress",
    "lightning.pytorch.callbacks.DeviceStatsMonitor",
    "lightning.pytorch.callbacks.LearningRateMonitor",
    "lightning.pytorch.callbacks.ModelSummary",
    "lightning.pytorch.callbacks.OnExceptionCheckpoint",
    "lightning.pytorch.callbacks.RichModelSummary",
    "lightning.pytorch.callbacks.RichProgressBar",
    "lightning.pytorch.callbacks.TQDMProgressBar",
)
"""Targets of callbacks that log, display or save, and change no weights."""

STILL_TO_COME = ("trainer.max_epochs", "trainer.limit_test_batches")
"""Keys that affect only the remaining part of an unfinished run."""


def weight_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a config that can change the result of a run, with their values.

    Paths into the run's own folder begin with `${run_dir}`, so that they are equal in every run.
    """
    callbacks = {
        name: part
        for name, part in (config.get("callbacks") or {}).items()
        if part and not (isinstance(part, Mapping) and part.get("_target_") in OBSERVERS)
    }
    settings = dict(config) | {"callbacks": callbacks} | _normalization(config)
    if isinstance(folder := config.get("run_dir"), str) and folder:
        settings = move_folder(settings, folder, "${run_dir}")
    return {
        key: value
        for key, value in flatten(settings)
        if not any(f"{key}.".startswith(f"{name}.") for name in FREE)
    }


def _normalization(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section `data` with the statistics that `normalize: auto` stands for.

    Without published weights these are "symmetric", the default of earlier versions.
    """
    data, model = config.get("data") or {}, config.get("model") or {}
    if data.get("normalize") == "auto" and not model.get("weights") and "name" not in model:
        return {"data": dict(data) | {"normalize": "symmetric"}}
    return {}


def finished_summary(config: Mapping[str, Any], folder: Path) -> Path | None:
    """Return the `summary.json` of a finished run of this config in a folder.

    Returns None if the folder holds no finished run, or if the config asks for a new start: with
    `resume=false` or with another initial checkpoint than the run's.

    Raises:
        InputError: the folder holds a finished run of another config or of other data.
    """
    paths = [folder / name for name in ("manifest.json", "status.json", "summary.json")]
    if not config.get("resume") or not all(path.is_file() for path in paths):
        return None
    # In this order, because a rank that restarts the run writes the status first.
    manifest, status = read_manifest(paths[0]), read_status(paths[1])
    before = manifest.get("config")
    if status.get("state") != "finished" or not before or _begins_elsewhere(config, before):
        return None
    if config["trainer"]["precision"] == "auto":
        before = before | {"trainer": before["trainer"] | {"precision": "auto"}}
    if difference := _first_difference(before, config):
        raise InputError(
            f"{folder}: holds a run that finished with {difference}; expected the same value or "
            f"another folder (to train longer, with ckpt_path={folder}/checkpoints/last.ckpt)"
        )
    _check_data(config["data"], before["data"], manifest.get("dataset") or {}, folder)
    return paths[2]


def check_resumable(config: dict[str, Any], folder: Path) -> str | None:
    """Prepare a config to continue the run of a folder, and return the fingerprint of its data.

    `trainer.precision=auto` becomes the precision of the earlier start. Returns None if a start
    with this config does not continue a run.

    Raises:
        InputError: the folder's run has another config; names the first key that differs.
    """
    if not _continues(config, folder):
        return None
    path = folder / "manifest.json"
    manifest = read_manifest(path) if path.is_file() else {}
    if before := manifest.get("config"):
        if config["trainer"]["precision"] == "auto":
            config["trainer"]["precision"] = before["trainer"]["precision"]
        if difference := _first_difference(before, config, STILL_TO_COME):
            raise InputError(
                f"{folder}: begun with {difference}; expected the same value to continue, or "
                "resume=false, or another folder"
            )
    return manifest.get("dataset", {}).get("fingerprint")


def choose_checkpoint(config: Mapping[str, Any], folder: Path) -> str | None:
    """Return the checkpoint to start from, or None for new weights.

    A run that continues starts from its own last checkpoint, even if it was begun from the
    checkpoint that the config names.
    """
    if _continues(config, folder):
        return str(folder / "checkpoints" / "last.ckpt")
    return config["ckpt_path"]


def remove_leftovers(folder: Path, checkpoint: str | None) -> None:
    """Remove drafts of checkpoints and, if a run starts anew, the logs of an earlier start."""
    if not is_first_rank():
        return
    for draft in (folder / "checkpoints").glob(".*.tmp"):
        draft.unlink()
    for name in HISTORY if checkpoint is None else ():
        (folder / name).unlink(missing_ok=True)


def flatten(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every key of a config with its value, as `optimizer.lr` and 0.001."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield from flatten(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, config


def _continues(config: Mapping[str, Any], folder: Path) -> bool:
    """Return True if a start with this config continues from the folder's own `last.ckpt`."""
    if not config["resume"] or not (folder / "checkpoints" / "last.ckpt").is_file():
        return False
    path = folder / "manifest.json"
    before = read_manifest(path).get("config") if path.is_file() else None
    return not _begins_elsewhere(config, before or {})


def _begins_elsewhere(config: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Return True if a config names another initial checkpoint than the config `before`."""
    return config["ckpt_path"] not in (None, before.get("ckpt_path"))


def _first_difference(
    before: Mapping[str, Any], now: Mapping[str, Any], free: tuple[str, ...] = ()
) -> str | None:
    """Describe the alphabetically first key that differs and can change weights, if any."""
    begun, given = weight_settings(before), weight_settings(now)
    for key in sorted((begun.keys() | given.keys()) - set(free)):
        if begun.get(key) != given.get(key):
            return f"{key}={begun.get(key)}, now {given.get(key)}"
    return None


def _check_data(
    data: Mapping[str, Any], before: Mapping[str, Any], dataset: Mapping[str, Any], folder: Path
) -> None:
    """Raise `InputError` if a config would read other data than a finished run did.

    If the files no longer exist, there is nothing to compare.
    """
    from pcam_lightning.data.files import split_files
    from pcam_lightning.data.identity import file_digests, fingerprint, is_fingerprint

    root, expected = data["root"] or data["default_root"], dataset.get("fingerprint")
    splits = {} if root is None else split_files(root, data.get("keys"), data.get("cache_dir"))
    if splits and all(files.has(part) for files in splits.values() for part in ("x", "y")):
        same = expected is not None and is_fingerprint(splits, expected)
        found = expected if same else fingerprint(file_digests(splits))
    elif data["root"] is None and dataset.get("name") == "demo":
        found = expected  # its keys have been compared already
    else:
        gone = root == (before.get("root") or before.get("default_root"))
        found = expected if gone else "of no files"
    if found != expected:
        raise InputError(
            f"data.root={root}: fingerprint {found}, but the run in {folder} used data with "
            f"fingerprint {expected}; expected the same data or another folder"
        )
