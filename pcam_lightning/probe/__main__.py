"""Score frozen features: linear probe, nearest neighbors and few-shot curves, in seconds.

python -m pcam_lightning.probe model=timm model.name=NAME data.root=FOLDER
"""

from pathlib import Path

from pcam_lightning.cli.command import Config, command
from pcam_lightning.probe.run import probe


@command("probe")
def main(config: Config) -> Path:
    return probe(config)


if __name__ == "__main__":
    main()
