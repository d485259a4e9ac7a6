"""Wheelhouse of a bundle: wheels for this platform, locked by their digests.

pip finds the wheels where the user has configured it to look.
"""

import hashlib
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pcam_lightning.errors import InputError, one_line
from pcam_lightning.runs.checkout import PACKAGE

RUNTIME = ("numpy>=1.26", "onnxruntime>=1.20", "pillow>=10.1")
"""Requirements of the scripts in a bundle."""
SOURCE_ONLY = ("antlr4-python3-runtime",)
"""Dependencies without a wheel of their own: Hydra 1.3 needs version 4.9."""
PLATFORM = (
    f"{platform.python_implementation()} {'.'.join(platform.python_version_tuple()[:2])}, "
    f"{platform.system()} {platform.machine()}"
)
"""The interpreter and system that the wheels are for."""

Kind = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Wheelhouse:
    """Wheels and the lock files that list them, by their names in a bundle."""

    wheels: dict[str, Path]
    """`wheels/NAME.whl` -> the file."""
    locks: dict[str, bytes]
    """`requirements.lock` for the scripts, `requirements-full.lock` for this package."""


def requirements_txt() -> bytes:
    """Return the `requirements.txt` of a bundle: lower bounds for its scripts."""
    return "".join(f"{each}\n" for each in RUNTIME).encode()


def collect_wheels(kind: Kind, folder: Path) -> Wheelhouse:
    """Collect the wheels of this package, its dependencies and the scripts of a bundle.

    The wheel of this package is built from its checkout.

    Args:
        kind: "cpu" takes the newest CPU build of torch, "cuda" the default build.
        folder: an empty or new folder to download into; "cpu" takes about 0.5 GB, "cuda" several.

    Raises:
        InputError: pip is missing or fails, it offers no such build of torch, this package was
            installed without its checkout, or the folder is not empty.
    """
    checkout = find_checkout()
    if any(folder.glob("*")):
        raise InputError(f"bundle.wheels: {folder} holds files, expected an empty folder")
    torch = [f"torch=={cpu_build(_run_pip('index', 'versions', 'torch'))}"] if kind == "cpu" else []
    download(folder, [str(checkout), *torch])
    digests = digest_wheels(folder)
    if kind == "cuda" and any(name.startswith("torch-") and "+cpu" in name for name in digests):
        raise InputError("bundle.wheels=cuda: pip offers a CPU build of torch alone, expected cpu")
    runtime = resolve(folder, RUNTIME)
    return Wheelhouse(
        {f"wheels/{name}": folder / name for name in digests},
        {
            "requirements.lock": lock_file(digests, runtime),
            "requirements-full.lock": lock_file(digests),
        },
    )


def find_checkout() -> Path:
    """Return the folder that this package can be built from.

    Raises:
        InputError: this package was installed from a wheel.
    """
    root = PACKAGE.parent
    if (root / "pyproject.toml").is_file() and (root / "conf").is_dir():
        return root
    raise InputError(
        f"bundle.wheels: {PACKAGE} was installed from a wheel, expected a checkout, "
        "from which the package's own wheel is built"
    )


def cpu_build(versions: str) -> str:
    """Return the newest CPU build in the output of `pip index versions torch`, newest first.

    Raises:
        InputError: there is none.
    """
    listed = re.search(r"^Available versions: (.*)$", versions, re.MULTILINE)
    for version in listed[1].split(", ") if listed else []:
        if version.endswith("+cpu"):
            return version
    raise InputError(
        "bundle.wheels=cpu: pip offers no CPU build of torch (a version that ends with +cpu); "
        "expected such a build among pip's indexes or find-links, or bundle.wheels=cuda"
    )


def download(folder: Path, requirements: Iterable[str]) -> None:
    """Put wheels of requirements and of all their dependencies into a folder.

    Raises:
        InputError: pip cannot find or build one.
    """
    _run_pip(
        "wheel", "--quiet", "--wheel-dir", str(folder), "--only-binary", ":all:",
        "--no-binary", ",".join(SOURCE_ONLY), *requirements,
    )  # fmt: skip


def resolve(folder: Path, requirements: Iterable[str]) -> set[str]:
    """Return the normalized names of the wheels in a folder that requirements need.

    Raises:
        InputError: the folder lacks one.
    """
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "report.json")
        _run_pip(
            "install", "--quiet", "--dry-run", "--ignore-installed", "--no-index",
            "--find-links", str(folder), "--report", str(report), *requirements,
        )  # fmt: skip
        installed = json.loads(report.read_bytes())["install"]
    return {normalize(each["metadata"]["name"]) for each in installed}


def digest_wheels(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each wheel in a folder by its file name, sorted."""
    digests = {}
    for path in sorted(folder.glob("*.whl")):
        with path.open("rb") as stream:
            digests[path.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return digests


def lock_file(digests: dict[str, str], names: Collection[str] | None = None) -> bytes:
    """Return a requirements file that pins wheels by version and digest.

    Args:
        digests: SHA-256 of wheels by their file names.
        names: normalized names of the packages to list; None lists all.
    """
    lines = []
    for wheel, digest in digests.items():
        name, version = wheel.split("-")[:2]  # a wheel's name has no dash within these
        if names is None or normalize(name) in names:
            lines.append(f"{normalize(name)}=={version} --hash=sha256:{digest}\n")
    return f"# Wheels for {PLATFORM}\n{''.join(sorted(lines))}".encode()


def normalize(name: str) -> str:
    """Return the name of a package as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _run_pip(*words: str) -> str:
    if importlib.util.find_spec("pip") is None:
        raise InputError(f"bundle.wheels: {sys.executable} has no pip, expected one (ensurepip)")
    answer = subprocess.run(
        [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", *words],
        # The wheels that pip builds get the same bytes every time.
        env={**os.environ, "SOURCE_DATE_EPOCH": "315532800", "PYTHONHASHSEED": "0"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if answer.returncode:
        errors = [line for line in answer.stderr.splitlines() if line.startswith("ERROR: ")]
        reason = (errors or answer.stderr.splitlines() or ["no reason given"])[-1]
        raise InputError(f"bundle.wheels: pip {words[0]} failed: {one_line(reason)}")
    return answer.stdout
