"""Python and the packages: installed versions against the requirements of this package."""

import os
import platform
from collections.abc import Iterable, Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from pcam_lightning.doctor.finding import Finding, green, red, yellow
from pcam_lightning.doctor.probe import TorchFacts

PACKAGE = "pcam-lightning"
FOREIGN_LIBRARIES = ("LD_PRELOAD", "LD_LIBRARY_PATH")
"""Variables that replace a process's libraries, such as that of the GPU driver."""


def examine(torch: TorchFacts) -> Iterator[Finding]:
    """Yield findings about Python, the required packages, and whether torch can be imported."""
    try:
        package = metadata.metadata(PACKAGE)
    except metadata.PackageNotFoundError:
        yield yellow("requirements", f"{PACKAGE} is not installed", "pip install -e .")
    else:
        version, wanted = platform.python_version(), package["Requires-Python"] or ""
        fits = SpecifierSet(wanted).contains(version, prereleases=True)
        yield (
            green("Python", f"{version}, required {wanted}") if fits
            else red("Python", f"{version}, required {wanted}", "python3.11 -m venv .venv")
        )  # fmt: skip
        yield from examine_requirements(metadata.requires(PACKAGE) or [])
    yield from _examine_torch(torch)


def examine_requirements(requirements: Iterable[str]) -> Iterator[Finding]:
    """Yield a finding for each unmet requirement of the package itself, one if all are met."""
    count = faults = 0
    for requirement in map(Requirement, requirements):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        count += 1
        wanted = f"{requirement.name}{requirement.specifier}"
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            fact = f"missing, required {requirement.specifier}"
        else:
            if requirement.specifier.contains(version, prereleases=True):
                continue
            fact = f"{version}, required {requirement.specifier}"
        faults += 1
        yield red(requirement.name, fact, f"pip install '{wanted}'")
    if not faults:
        yield green("requirements", f"all {count} packages are installed in the required versions")


def _examine_torch(torch: TorchFacts) -> Iterator[Finding]:
    version = torch.get("torch")
    pair = f"pip install --force-reinstall torch=={str(version).partition('+')[0]} torchvision"
    if version is None:
        mend = "pip install --force-reinstall torch torchvision"
        if "killed" in str(torch.fault) and any(map(os.environ.get, FOREIGN_LIBRARIES)):
            mend = f"unset {' '.join(FOREIGN_LIBRARIES)}   # a library there crashes"
        yield red("torch", f"cannot be imported: {torch.fault}", mend)
    elif error := torch.get("torchvision_error"):
        yield red("torchvision", f"cannot be imported beside torch {version}: {error}", pair)
    elif torch.stage == "torchvision":
        yield red("torchvision", f"import beside torch {version}: {torch.fault}", pair)
    else:
        yield green("torch", f"{version} with torchvision {torch.get('torchvision')}")
