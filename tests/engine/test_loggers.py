import csv
from pathlib import Path

from pcam_lightning.engine.loggers import CSVLogger


def log(folder: Path, **metrics: float) -> None:
    logger = CSVLogger(str(folder))
    logger.log_metrics(
        {key: value for key, value in metrics.items() if key != "step"}, int(metrics["step"])
    )
    logger.save()


def test_metrics_of_an_earlier_start_are_kept(tmp_path: Path) -> None:
    (tmp_path / "status.json").touch()
    log(tmp_path, step=1, loss=0.5)
    log(tmp_path, step=2, loss=0.25)
    log(tmp_path, step=3, loss=0.125, auroc=0.75)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    assert [row["loss"] for row in rows] == ["0.5", "0.25", "0.125"]
    assert [row["auroc"] for row in rows] == ["", "", "0.75"]
