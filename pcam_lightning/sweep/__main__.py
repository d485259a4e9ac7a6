"""Continuation of a sweep: run its jobs that are missing, failed or were stopped, and no other.

python -m pcam_lightning.sweep continue=FOLDER
"""

import shlex
import subprocess
import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from pcam_lightning.cli.command import Config, command
from pcam_lightning.config.schema.launcher import as_list
from pcam_lightning.files import write_json
from pcam_lightning.sweep.words import continuation


@command("sweep")
def main(config: Config) -> Path:
    folder = Path(config["continue"]).absolute()
    typed = [word for word in HydraConfig.get().overrides.hydra if "launcher" in word]
    if config["retry"] is not None:
        typed.append(f"hydra.launcher.retry=[{','.join(as_list(config['retry']))}]")
    words = continuation(folder, typed, trusted=config["trusted"])
    print(f"$ python {shlex.join(words)}", flush=True)
    code = subprocess.run([sys.executable, *words], check=False).returncode
    summary = Path(config["run_dir"]) / "summary.json"
    write_json(summary, {"sweep": folder, "command": words, "exit_code": code})
    if code:
        sys.exit(code if code > 0 else 128 - code)
    return summary


if __name__ == "__main__":
    main()
