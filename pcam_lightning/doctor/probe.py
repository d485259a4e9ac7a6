"""Facts about torch and its GPUs, found by a process of its own: their libraries may crash.

`python -m pcam_lightning.doctor.probe` prints JSON objects, one a line. The first key of a stage
is `stage`, so that the last line tells where a process crashed.
"""

import json
import os
import signal
import subprocess
import sys
import warnings
from dataclasses import dataclass
from typing import Any

from pcam_lightning.errors import one_line

SECONDS = 180
"""Time limit; the first import of torch from a network disk may take a minute."""


@dataclass(frozen=True)
class TorchFacts:
    """The output of the probe.

    Attributes:
        values: facts by name; those after a crash are missing.
        stage: the stage at the end: "import", "torchvision", "GPU" or "end".
        fault: why the process ended early; None if it did not.
    """

    values: dict[str, Any]
    stage: str
    fault: str | None = None

    def get(self, name: str) -> Any:
        """Return a fact; None if unknown."""
        return self.values.get(name)


def probe_torch(seconds: float = SECONDS) -> TorchFacts:
    """Run the probe and return its facts; neither a crash nor a hang of it reaches this process."""
    command = [sys.executable, "-m", __name__]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as late:
        return read_facts(_text(late.stdout), f"no answer in {seconds:g} s")
    except OSError as error:
        return TorchFacts({}, "import", f"{sys.executable} does not start: {error.strerror}")
    return read_facts(done.stdout, _describe_end(done.returncode, done.stderr))


def read_facts(output: str, fault: str | None = None) -> TorchFacts:
    """Return the facts in the lines of a probe; other lines are ignored."""
    values: dict[str, Any] = {"stage": "import"}
    for line in output.splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            values |= found
    if fault is None and values["stage"] != "end":
        fault = "it ended early"
    return TorchFacts(values, values["stage"], fault)


def _describe_end(code: int, stderr: str) -> str | None:
    if code == 0:
        return None
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    lines = [line for line in stderr.splitlines() if line.strip()]
    return one_line(lines[-1]) if lines else f"exit code {code}"


def _text(output: Any) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def _report(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def main() -> None:
    _report(stage="import")
    import torch

    _report(
        torch=torch.__version__,
        cuda=torch.version.cuda,
        threads=torch.get_num_threads(),
        weights=os.path.join(torch.hub.get_dir(), "checkpoints"),
    )
    _report(stage="torchvision")
    try:
        import torchvision

        _report(torchvision=torchvision.__version__)
    except Exception as error:
        _report(torchvision_error=one_line(error))
    _report(stage="GPU", gpus=[])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            _report(gpus=_gpus(), gpu_warning=" ".join(one_line(w.message) for w in caught))
            torch.cuda.init()  # raises an error with the reason if there is no GPU
        except RuntimeError as error:
            known = torch.cuda.is_available()  # a GPU for which this torch has no kernels
            _report(**{"gpu_error" if known else "gpu_warning": one_line(error)})
        except AssertionError:  # a torch for CPUs only has no init
            pass
    from pcam_lightning.config.precision import choose_precision

    _report(precision=choose_precision({"precision": "auto", "accelerator": "auto"}), stage="end")


def _gpus() -> list[str]:
    """Return the names of the GPUs that torch sees, after a sum on each."""
    import torch

    names = []
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        if (total := torch.ones(8, device=f"cuda:{number}").sum().item()) != 8:
            raise RuntimeError(f"GPU {number} adds eight ones to {total}")
        names.append(torch.cuda.get_device_name(number))
    return names


if __name__ == "__main__":
    main()
