#!/usr/bin/env python3
"""Check that this bundle is unchanged and that its model works on this machine.

    python verify.py

compares each file with SHA256SUMS, then predicts the golden patches and compares the
probabilities. Exit code: 0 if all agree, 1 if not, 2 if a package is missing. The signature
model.sig, if there is one, is checked by the tools of model-signing.
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
# A file of the bundle with the name of a module must not be imported.
sys.path[:] = [each for each in sys.path if os.path.abspath(each or ".") != HERE]

import csv
import hashlib
import re

CHECKSUMS = "SHA256SUMS"
SIGNATURE = "model.sig"
TOLERANCE = 1e-4


def main() -> int:
    """Run all checks and return the exit code."""
    if problem := find_change():
        print(f"verify.py: {problem}", file=sys.stderr)
        return 1
    print("all files agree with SHA256SUMS")
    try:
        import numpy as np
        import onnxruntime
        from PIL import Image
    except ImportError as error:
        options = "-r requirements.txt"
        if os.path.isdir(os.path.join(HERE, "wheels")):
            options = "--no-index --find-links wheels --require-hashes -r requirements.lock"
        command = f"cd {HERE} && {sys.executable} -m pip install {options}"
        print(f"verify.py: {' '.join(str(error).split())}; expected: {command}", file=sys.stderr)
        return 2
    with open(os.path.join(HERE, "golden", "expected.csv"), newline="") as file:
        expected = [(row["file"], float(row["probability"])) for row in csv.DictReader(file)]
    patches = [np.asarray(Image.open(os.path.join(HERE, "golden", name))) for name, _ in expected]
    model = os.path.join(HERE, "models", "model.onnx")
    try:
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        found = np.asarray(session.run(["probability"], {"image": np.stack(patches)})[0])
    except Exception as error:  # onnxruntime raises many types, such as for an old version
        print(f"verify.py: models/model.onnx: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(f"{'file':<16}{'expected':>12}{'found':>12}")
    for (name, wanted), value in zip(expected, found, strict=True):
        print(f"{name:<16}{wanted:>12.6f}{value:>12.6f}")
    differences = np.abs(found - np.array([wanted for _, wanted in expected]))
    print(f"largest difference: {differences.max():.2g}")
    if differences.max() <= TOLERANCE:  # False for NaN
        return 0
    name = expected[int(differences.argmax())][0]
    line = f"golden/{name}: the probability differs by more than {TOLERANCE:g}"
    print(f"verify.py: {line}", file=sys.stderr)
    return 1


def find_change() -> str | None:
    """Return one line about the first file that differs from SHA256SUMS, or None."""
    try:
        with open(os.path.join(HERE, CHECKSUMS), encoding="ascii", newline="") as file:
            lines = file.read().split("\n")
    except (OSError, ValueError) as error:
        return f"{CHECKSUMS} cannot be read: {error}"
    listed = {}
    for number, line in enumerate(lines[:-1], 1):
        match = re.fullmatch(r"([0-9a-f]{64})  ([A-Za-z0-9._+!/-]+)", line)
        if not match or match[2] in listed:
            return f"{CHECKSUMS}, line {number}: expected a digest, two spaces and a file name"
        listed[match[2]] = match[1]
    if lines[-1]:
        return f"{CHECKSUMS}: the last line is not complete"
    present = set(find_files(HERE, "")) - {CHECKSUMS, SIGNATURE}
    for name in sorted(listed.keys() | present):
        if name not in present:
            return f"{name} is listed in {CHECKSUMS} but missing"
        if name not in listed:
            return f"{ascii(name)[1:-1]} is not listed in {CHECKSUMS}"
        try:
            if digest(os.path.join(HERE, *name.split("/"))) != listed[name]:
                return f"{name} differs from its digest in {CHECKSUMS}"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    return None


def find_files(folder: str, prefix: str) -> list[str]:
    """Return the names of all files and links below a folder, relative to the bundle."""
    names = []
    for entry in os.scandir(folder):
        if not entry.is_dir(follow_symlinks=False):
            names.append(prefix + entry.name)
        elif entry.name != "__pycache__" and prefix + entry.name != ".venv":
            names += find_files(entry.path, f"{prefix}{entry.name}/")
    return names


def digest(path: str) -> str:
    """Return the SHA-256 of a file that is not a link."""
    sha256 = hashlib.sha256()
    if os.path.islink(path):
        return "a link"
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            sha256.update(chunk)
    return sha256.hexdigest()


if __name__ == "__main__":
    raise SystemExit(main())
