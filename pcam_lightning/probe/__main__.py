"""Score frozen features: linear probe, nearest neighbors and few-shot curves, in seconds.

python -m pcam_lightning.probe model=timm model.name=NAME data.root=FOLDER
"""

import os
from pathlib import Path

from pcam_lightning.cli.command import Config, command
from pcam_lightning.probe.run import probe


@command("probe")
def main(config: Config) -> Path:
    # The fits are thousands of short parallel steps. Threads that spin between them slow each other
    # down if other processes use the cores, by a factor of 4. OpenMP reads this when torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return probe(config)


if __name__ == "__main__":
    main()
