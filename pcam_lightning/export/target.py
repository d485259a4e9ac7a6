"""The model to export, and the validation patches that it is compared on."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pcam_lightning.config.compose import Config
from pcam_lightning.config.network import constructor_arguments
from pcam_lightning.config.override_text import override
from pcam_lightning.config.trained import load_trained
from pcam_lightning.data.patch_features import Patches
from pcam_lightning.errors import InputError
from pcam_lightning.evaluate.patches import PatchSource
from pcam_lightning.metrics.calibration import calibrated
from pcam_lightning.metrics.predictions import read_predictions
from pcam_lightning.models.served import Served
from pcam_lightning.runs import Run
from pcam_lightning.runs.threshold import Threshold
from pcam_lightning.weights.license import license_facts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportTarget:
    """A trained model with its run, its predictions and its validation patches."""

    run: Run
    served: Served
    """On the CPU, in evaluation mode."""
    threshold: Threshold | None
    """The run's stored threshold."""
    tables: Mapping[str, pd.DataFrame]
    """Split, "val" and as far as known "test", to its predictions with slides and features."""
    source: PatchSource
    prevalence: float
    """Share of tumour among the training labels."""

    @property
    def decision_threshold(self) -> float:
        """The *calibrated* probability from which a patch is tumour."""
        value = 0.5 if self.threshold is None else self.threshold.value
        if not 0 < value < 1:
            return value
        logit = math.log(value / (1 - value))
        return float(calibrated(logit, self.served.temperature, self.served.prior_offset))

    @property
    def model_name(self) -> str:
        """Name of timm's architecture, or of the network's class, in lower case."""
        network = self.network
        return str(network.get("name") or network["_target_"].rpartition(".")[2]).lower()

    @property
    def backbone(self) -> dict[str, Any] | None:
        """`name`, `license` and `digest` of the pretrained weights; None if there are none."""
        return license_facts(self.run.manifest.get("backbone"))

    @property
    def network(self) -> Mapping[str, Any]:
        """The section `model` that builds the network, without the place of pretrained weights."""
        manifest = self.run.manifest
        backbone = manifest.get("backbone") or {"network": manifest["config"]["model"]}
        return constructor_arguments(backbone["network"])

    @property
    def weights_digest(self) -> str | None:
        """Digest of the weights, as in the run's summary."""
        return self.run.summary.get("weights_digest")

    @property
    def validation(self) -> tuple[Patches, NDArray[np.int64]]:
        """The validation patches [N, 96, 96, 3], mapped from disk, and their labels [N]."""
        table = self.tables["val"].sort_values("row")
        image = self.source.patches("val")
        # A run predicts every row of a split, unless it was limited to some batches.
        row = table["row"].to_numpy()
        every = len(row) == len(image)
        return image if every else image[row], table["label"].to_numpy()


def resolve_target(config: Config) -> ExportTarget:
    """Load the model, the predictions and the data that `run=` names.

    Args:
        config: with `run` and `data.root`.

    Raises:
        InputError: the run is missing, damaged or unfinished, its threshold belongs to test-time
            augmentation or to other weights, or its data is not there.
    """
    trained = load_trained({"run": config["run"]})
    run = trained.run
    assert run is not None
    if run.threshold is not None and trained.threshold is None:
        raise InputError(
            f"{run.path}/threshold.json: chosen with tta={run.threshold.tta}, which is not "
            "exported; expected a threshold from python -m pcam_lightning.evaluate "
            f"{override('run', config['run'])} evaluate.tta=none"
        )
    if trained.threshold is None:
        log.warning(
            "no threshold is stored for this model: 0.5 decides, without calibration; "
            "`python -m pcam_lightning.evaluate run=FOLDER` chooses both on validation"
        )
    manifest, summary = run.manifest, run.summary
    _check_weights(run, trained.threshold, summary)
    root = config["data"]["root"] or manifest.get("dataset", {}).get("root")
    data = manifest["config"].get("data") or {}
    settings = {"scale": data.get("scale", "auto"), "keys": data.get("keys")}
    settings |= {"cache": True, "cache_dir": None}
    splits = [name for name in ("val", "test") if name in summary]
    tables: dict[str, Any] = {
        split: read_predictions(run.path / "predictions" / f"{split}.parquet") for split in splits
    }
    source = PatchSource(root, settings, tables)
    if source.missing:
        raise InputError(source.missing)
    return ExportTarget(
        run,
        Served(trained.network, trained.temperature or 1.0, trained.prior_offset).eval(),
        trained.threshold,
        source.with_features(None),
        source,
        source.prevalence(None)[0],
    )


def _check_weights(run: Run, threshold: Threshold | None, summary: Mapping[str, Any]) -> None:
    known = summary.get("weights_digest")
    if threshold is not None and threshold.weights_digest not in (None, known):
        raise InputError(
            f"{run.path}/threshold.json: chosen for other weights than best.ckpt; expected one "
            f"from python -m pcam_lightning.evaluate {override('run', str(run.path))}"
        )
