"""Fit a classifier, score its best checkpoint on validation and test, and write the run folder.

python -m pcam_lightning.train model=cnn optimizer=adam
"""

from pathlib import Path

from pcam_lightning.cli.command import Config, command
from pcam_lightning.train.fit import train


@command("train")
def main(config: Config) -> Path:
    return train(config)


if __name__ == "__main__":
    main()
