"""GPUs: what the driver lists, and what torch sees."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from pcam_lightning.doctor.finding import Finding, green, red, yellow
from pcam_lightning.doctor.probe import TorchFacts
from pcam_lightning.errors import one_line

SECONDS = 30
HIDE_ALL = ("", "-1", "NoDevFiles")
"""Values of CUDA_VISIBLE_DEVICES without a GPU; the last one is Slurm's."""
CPU_ONLY = "python -m pcam_lightning.train hydra/launcher=slurm_gpu --multirun   # on a cluster"


@dataclass(frozen=True)
class Driver:
    """The answer of nvidia-smi: names of GPUs, the driver's version, or a fault."""

    gpus: tuple[str, ...] = ()
    version: str | None = None
    fault: str | None = None


def read_driver() -> Driver | None:
    """Return the answer of nvidia-smi; None if there is none on this machine."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return Driver(fault=f"no answer in {SECONDS} s")
    except OSError:
        return None
    if done.returncode:
        return Driver(fault=one_line(done.stdout + done.stderr) or f"exit code {done.returncode}")
    cards = [line.rpartition(", ") for line in done.stdout.splitlines() if ", " in line]
    return Driver(tuple(card[0] for card in cards), cards[0][2] if cards else None)


def examine(torch: TorchFacts) -> Iterator[Finding]:
    """Yield findings about the GPUs and the precision of training."""
    driver = read_driver()
    if driver and driver.fault:
        yield red("driver", f"nvidia-smi fails: {driver.fault}", "sudo modprobe nvidia; nvidia-smi")
    yield _compare(driver or Driver(), torch)
    if precision := torch.get("precision"):
        yield green("precision", f"trainer.precision=auto is {precision} on this machine")


def _compare(driver: Driver, torch: TorchFacts) -> Finding:
    """Return the finding about what torch sees, beside what the driver lists."""
    listed = f"the driver {driver.version} lists {len(driver.gpus)} ({_names(driver.gpus)})"
    build, names = torch.get("cuda"), torch.get("gpus")
    if names is None:
        return red("GPU", f"unknown, since torch does not start: {torch.fault}", None)
    if torch.stage == "GPU":
        fact = f"the GPU library breaks torch: {torch.fault}"
        return red("GPU", fact, "ldconfig -p | grep libcuda; echo $LD_LIBRARY_PATH $LD_PRELOAD")
    if error := torch.get("gpu_error"):
        return red("GPU", f"torch for CUDA {build} cannot compute: {error}", "nvidia-smi")
    if names:
        version = f", driver {driver.version}" if driver.version else ""
        return green("GPU", f"{_names(names)}; torch for CUDA {build}{version}")
    if not driver.gpus:
        return yellow("GPU", "none: training uses the CPU", CPU_ONLY)
    reason = torch.get("gpu_warning") or "no reason given"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible in HIDE_ALL or (visible is not None and "No CUDA GPUs" in reason):
        fact = f"CUDA_VISIBLE_DEVICES='{visible}' hides all: {listed}"
        return red("GPU", fact, "unset CUDA_VISIBLE_DEVICES")
    if build is None:
        mend = "pip install --force-reinstall torch torchvision"
        return red("GPU", f"this torch is built for CPUs only, but {listed}", mend)
    fact = f"torch for CUDA {build} sees none, but {listed}: {reason}"
    mend = "nvidia-smi   # shows the newest CUDA of the driver; install a torch built for it"
    return red("GPU", fact, mend)


def _names(names: tuple[str, ...] | list[str]) -> str:
    """Return `2 x NAME, 1 x OTHER`."""
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
