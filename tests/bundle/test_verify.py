"""`verify.py` of an unpacked bundle, run as a file of its own."""

import os
import py_compile
import runpy
import shutil
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
from bundle_files import bundle_files

from pcam_lightning.bundle.archive import TRAVEL, write_archive


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_archive(tmp_path / "a.zip", "model", bundle_files())
    zipfile.ZipFile(tmp_path / "a.zip").extractall(tmp_path)
    return tmp_path / "model"


@pytest.fixture
def verify(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd):
    """Run the bundle's script in this process; returns exit code, stdout and stderr."""

    def run() -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "path", [str(folder), *sys.path])  # as Python does for a script
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(folder / "verify.py"), run_name="__main__")
        return int(stop.value.code or 0), *capfd.readouterr()

    return run


def test_a_complete_bundle_passes(folder: Path, verify) -> None:
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__/verify.pyc").write_bytes(b"")
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/python").symlink_to(sys.executable)
    (folder / "model.sig").write_bytes(b"signature")
    code, out, err = verify()
    assert (code, err) == (0, "")
    for row in (folder / "golden/expected.csv").read_text().splitlines()[1:]:
        name, expected = row.split(",")
        (line,) = [each.split() for each in out.splitlines() if each.startswith(name)]
        assert float(line[1]) == pytest.approx(float(expected), abs=1e-6)
        assert float(line[2]) == pytest.approx(float(expected), abs=1e-4)
    assert "largest difference" in out


def test_a_changed_byte_in_any_file_is_named(folder: Path, verify) -> None:
    files = [each for each in folder.rglob("*") if each.is_file()]
    assert {"SHA256SUMS", "verify.py", "predict.py", "a-1-py3-none-any.whl"} <= {
        each.name for each in files
    }
    for path in files:
        content = path.read_bytes()
        # Any other byte of the running script may keep Python from running it.
        places = [10] if path.name == "verify.py" else {0, len(content) // 2, len(content) - 1}
        for place in places:
            changed = bytearray(content)
            changed[place] ^= 1
            path.write_bytes(changed)
            code, out, err = verify()
            assert code == 1 and err.count("\n") == 1 and path.name in err, (path, place, err)
            assert out == ""
        path.write_bytes(content)
    assert verify()[0] == 0


def test_missing_and_additional_files_are_named(folder: Path, verify) -> None:
    for name in bundle_files().keys() - {"verify.py"} | {"SHA256SUMS"}:
        (folder / name).rename(folder.parent / "moved")
        code, out, err = verify()
        assert code == 1 and err.count("\n") == 1 and name in err and out == ""
        (folder.parent / "moved").rename(folder / name)
    for name in ("numpy.py", "docs/.hidden", "wheels/b\n.whl", "é"):
        (folder / name).write_bytes(b"raise SystemExit(0)\n")
        code, _, err = verify()
        assert (
            code == 1
            and err.count("\n") == 1
            and name[:3].encode("ascii", "ignore").decode() in err
        )
        (folder / name).unlink()
    (folder / "link").symlink_to(folder / "docs")
    assert verify()[0] == 1


def test_a_link_in_place_of_a_file_is_named(folder: Path, verify) -> None:
    (folder / "LICENSE").rename(folder.parent / "moved")
    (folder / "LICENSE").symlink_to(folder.parent / "moved")
    code, _, err = verify()
    assert code == 1 and "LICENSE" in err


@pytest.mark.parametrize(
    ("value", "code"), [("0.5", 1), ("nan", 1), ("inf", 1), (None, 0), (5e-5, 0), (2e-4, 1)]
)
def test_a_model_that_disagrees_fails(tmp_path: Path, value, code: int, capfd, monkeypatch) -> None:
    files = bundle_files()
    content = files["golden/expected.csv"]
    assert isinstance(content, bytes)
    header, row, *rest = content.decode().splitlines()
    name, expected = row.split(",")
    if isinstance(value, float):
        value = float(expected) + value
    files["golden/expected.csv"] = "\n".join(
        [header, f"{name},{value or expected}", *rest]
    ).encode()
    write_archive(tmp_path / "a.zip", "model", files)
    zipfile.ZipFile(tmp_path / "a.zip").extractall(tmp_path)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(tmp_path / "model/verify.py"), run_name="__main__")
    err = capfd.readouterr().err
    assert stop.value.code == code
    assert (name in err and err.count("\n") == 1) if code else err == ""


def test_a_broken_model_is_one_line(tmp_path: Path, capfd) -> None:
    write_archive(tmp_path / "a.zip", "model", {**bundle_files(), "models/model.onnx": b"no model"})
    zipfile.ZipFile(tmp_path / "a.zip").extractall(tmp_path)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(tmp_path / "model/verify.py"), run_name="__main__")
    err = capfd.readouterr().err
    assert stop.value.code == 1 and "models/model.onnx" in err and err.count("\n") == 1


@pytest.mark.parametrize("package", ["numpy", "onnxruntime", "PIL"])
@pytest.mark.parametrize("script", ["verify.py", "predict.py"])
def test_a_missing_package_is_one_line(
    folder: Path, package: str, script: str, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(folder / script), run_name="__main__")
    err = capfd.readouterr().err
    assert stop.value.code == 2 and err.count("\n") == 1 and package in err
    assert "pip install --no-index --find-links wheels" in err and "requirements.lock" in err
    shutil.rmtree(folder / "wheels")
    if script == "predict.py":
        with pytest.raises(SystemExit):
            runpy.run_path(str(folder / script), run_name="__main__")
        assert "pip install -r requirements.txt" in capfd.readouterr().err


def test_a_process_without_network_verifies(folder: Path) -> None:
    command = [sys.executable, str(folder / "verify.py")]
    prefix = ["unshare", "--net", "--map-root-user"]
    isolated = shutil.which("unshare") and not subprocess.run([*prefix, "true"]).returncode
    # Nothing in the folder is imported before the digests are known to be right.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*(prefix if isolated else []), *command],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )

    answer = run()
    assert (answer.returncode, answer.stderr) == (0, ""), answer
    for module in ("csv", "hashlib", "re", "numpy"):
        planted = folder / f"{module}.py"
        planted.write_text("print('executed')\n")
        answer = run()
        assert answer.returncode == 1 and planted.name in answer.stderr and answer.stdout == ""
        planted.unlink()


@pytest.mark.parametrize("script", ["verify.py", "predict.py"])
def test_the_scripts_know_nothing_of_this_package(script: str, tmp_path: Path) -> None:
    source = (TRAVEL / script).read_text()
    assert "pcam_lightning" not in source
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        py_compile.compile(str(TRAVEL / script), cfile=str(tmp_path / "compiled"), doraise=True)
    if python := shutil.which("python3.10"):
        command = [python, "-W", "error", "-m", "py_compile", script]
        shutil.copy(TRAVEL / script, tmp_path)
        answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        # A shim may exist without the interpreter.
        assert answer.returncode == 0 or "command not found" in answer.stderr, answer.stderr
