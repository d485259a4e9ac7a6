"""The copy of the code from which the jobs of a sweep run."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pcam_lightning.config.compose import CONF
from pcam_lightning.errors import InputError
from pcam_lightning.provenance.record import Provenance, differences
from pcam_lightning.runs import snapshot
from pcam_lightning.runs.checkout import PACKAGE, Checkout
from pcam_lightning.runs.snapshot import read_snapshot, take_snapshot

WHERE = "import pcam_lightning, mine; print(pcam_lightning.__file__); print(mine.__file__)"
TAKE = """
import sys; from pathlib import Path; from pcam_lightning.runs.snapshot import take_snapshot
print(take_snapshot(Path(sys.argv[1]), Path(sys.argv[2])).folder)
"""
STATE = """
import json; from pcam_lightning.runs.snapshot import code_state, read_snapshot
found = vars(code_state()); found["patch"] = (found["patch"] or b"").decode()
print(json.dumps({"state": found, "snapshot": read_snapshot()}))
"""


@pytest.fixture(autouse=True)
def no_git(request, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the state of this checkout out, which takes long to read."""
    if "clone" not in request.fixturenames:
        monkeypatch.setattr(snapshot, "code_state", Checkout)


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's own modules, from which this process imports."""
    folder = tmp_path / "own modules"
    (folder / "package" / "deep").mkdir(parents=True)
    (folder / "mine.py").write_text("A = 1\n")
    for name in ("__init__.py", "deep/net.py", "deep/net.yaml", "deep/data.bin", ".hidden.py"):
        (folder / "package" / name).write_text("")
    monkeypatch.syspath_prepend(folder)
    return folder


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_package_and_its_configs_are_copied(tmp_path: Path) -> None:
    taken = take_snapshot(tmp_path / "sweep", CONF)
    for source, copy in ((PACKAGE, taken.folder / "pcam_lightning"), (CONF, taken.folder / "conf")):
        for path in [*source.rglob("*.py"), *source.rglob("*.yaml"), *source.rglob("*.j2")]:
            assert (copy / path.relative_to(source)).read_bytes() == path.read_bytes()
    assert taken.folder == tmp_path / "sweep" / ".code" / taken.digest and not taken.notes
    assert not any("__pycache__" in name for name in names(taken.folder))


def test_the_same_code_is_copied_once(tmp_path: Path, modules: Path) -> None:
    first = take_snapshot(tmp_path, CONF, ["mine.Net"])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert take_snapshot(tmp_path, CONF, ["mine.Net"]) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    (modules / "mine.py").write_text("A = 2\n")
    second = take_snapshot(tmp_path, CONF, ["mine.Net"])
    assert second.digest != first.digest
    assert (first.folder / "mine.py").read_text() == "A = 1\n"
    assert (second.folder / "mine.py").read_text() == "A = 2\n"
    found = {path.name for path in (tmp_path / ".code").iterdir()}
    assert found == {first.digest, second.digest}  # no draft is left
    assert take_snapshot(tmp_path / "other", CONF, ["mine.Net"]).digest == second.digest


def test_the_user_s_modules_are_copied_and_installed_ones_are_not(
    tmp_path: Path, modules: Path
) -> None:
    targets = ["mine.Net", "package.deep.net.Net", "torch.nn.Linear", "json.loads", "absent.X", "X"]
    taken = take_snapshot(tmp_path / "sweep", CONF, targets)
    own = {name for name in names(taken.folder) if name.partition("/")[0] not in ("conf",)}
    own = {name for name in own if not name.startswith("pcam_lightning/")}
    assert own == {
        "mine.py", "package/__init__.py", "package/deep/net.py", "package/deep/net.yaml",
        "snapshot.json",
    }  # fmt: skip
    assert taken.notes == ()


def test_a_large_module_is_left_out_with_a_note(tmp_path: Path, modules: Path, monkeypatch) -> None:
    monkeypatch.setattr(snapshot, "MOST_BYTES", 3)
    taken = take_snapshot(tmp_path / "sweep", CONF, ["mine.Net", "package.Net"])
    assert len(taken.notes) == 1 and taken.notes[0].startswith("mine ")
    assert not (taken.folder / "mine.py").exists() and (taken.folder / "package").is_dir()


# Folders of a sweep, and the folder in which a job starts: a clone with other code.
@pytest.mark.parametrize("name", ["sweep", "a sweep, 100%", 'it\'s $HOME `id` "x"'])
@pytest.mark.parametrize("command", ["-c", "-m"])
def test_a_job_imports_the_copy_wherever_it_starts(
    tmp_path: Path, modules: Path, monkeypatch, name: str, command: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(modules))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unnamed.py").write_text("")  # a module that no config names
    clone = tmp_path / "clone"
    (clone / "pcam_lightning").mkdir(parents=True)
    (clone / "pcam_lightning" / "__init__.py").write_text("raise SystemExit('the clone')\n")
    (clone / "mine.py").write_text("raise SystemExit('the clone')\n")
    taken = take_snapshot(tmp_path / name, CONF, ["mine.Net"])
    (modules / "mine.py").write_text("raise SystemExit('changed since')\n")
    program = f"import unnamed; {WHERE}"
    (modules / "program.py").write_text(program)
    words = [sys.executable, command, program if command == "-c" else "program"]
    script = "\n".join(["set -e", *taken.exports(), shlex.join(words)])
    done = subprocess.run(
        ["env", "-i", "bash", "-c", script], cwd=clone, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [
        str(taken.folder / "pcam_lightning" / "__init__.py"),
        str(taken.folder / "mine.py"),
    ], done.stderr


def test_a_folder_that_python_could_not_import_from_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        take_snapshot(tmp_path / "a:b", CONF)
    assert "a:b" in str(caught.value) and "hydra.launcher.snapshot=false" in str(caught.value)
    assert not (tmp_path / "a:b").exists()


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@b.c")
    return subprocess.check_output(["git", *identity, *words], cwd=folder, text=True).strip()


def run(program: str, *arguments: object, code: Path, cwd: Path) -> str:
    words = [sys.executable, "-c", program, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(code), "PYTHONSAFEPATH": "1"}
    return subprocess.check_output(words, cwd=cwd, env=environment, text=True).strip()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A checkout of the package with a change that is not committed."""
    folder = tmp_path / "clone"
    shutil.copytree(
        PACKAGE, folder / "pcam_lightning", ignore=shutil.ignore_patterns("__pycache__")
    )
    (folder / "conf").mkdir()
    git(folder, "init", "-q", "--initial-branch", "trunk")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    with (folder / "pcam_lightning" / "seeds.py").open("a") as file:
        file.write("CHANGED = True\n")
    return folder


def test_commit_and_patch_are_those_at_submission(clone: Path, tmp_path: Path) -> None:
    """A run from the copy records them, also if the copy itself submits a sweep."""
    commit = git(clone, "rev-parse", "HEAD")
    now = json.loads(run(STATE, code=clone, cwd=tmp_path))
    assert now["state"]["commit"] == commit and now["snapshot"] is None
    first = Path(run(TAKE, tmp_path / "sweep", clone / "conf", code=clone, cwd=tmp_path))
    git(clone, "commit", "-q", "-a", "-m", "second")
    second = run(TAKE, tmp_path / "other", first / "conf", code=first, cwd=clone)
    for folder in (first, Path(second)):
        later: dict[str, Any] = json.loads(run(STATE, code=folder, cwd=clone))
        assert later["state"] == now["state"]
        assert later["snapshot"]["digest"] == folder.name == first.name
        assert later["snapshot"]["folder"] == str(folder)
    git(clone, "checkout", "-q", commit)
    git(clone, "apply", "--check", str(first / "code.patch"))
    assert "CHANGED" in (first / "pcam_lightning" / "seeds.py").read_text()


def test_code_outside_of_a_snapshot(tmp_path: Path) -> None:
    assert read_snapshot() is None
    package = tmp_path / ".code" / "0123" / "pcam_lightning"
    package.mkdir(parents=True)
    assert read_snapshot(package) is None
    (package.parent / "snapshot.json").write_text("{")
    assert read_snapshot(package) is None
    (package.parent / "snapshot.json").write_text('{"digest": "0123"}')
    assert read_snapshot(package) == {"digest": "0123", "folder": str(package.parent)}


@pytest.mark.parametrize("other", [None, {"digest": "b"}])
def test_the_snapshot_never_explains_a_difference_of_results(other: Any) -> None:
    """The files of the package are compared one by one, and configs by their values."""
    manifests = [{"sources": {"a.py": "x"}, "snapshot": each} for each in ({"digest": "a"}, other)]
    found = differences([Provenance(each, {}, None) for each in manifests])
    assert [(each.name, each.matters) for each in found] == [("snapshot", False)]
    bare = [{"snapshot": each} for each in ({"digest": "a"}, other)]
    found = differences([Provenance(each, {}, None) for each in bare])
    assert [each.matters for each in found] == [False]
