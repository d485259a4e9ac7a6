import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pcam_lightning.runs import checkout
from pcam_lightning.runs.checkout import read_checkout

PACKAGE = Path(checkout.__file__).parents[1]


def git(folder: Path, *words: str) -> str:
    answer = subprocess.run(
        ["git", "-c", "user.name=A", "-c", "user.email=a@b.c", *words],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    return answer.stdout.strip()


@pytest.fixture(autouse=True)
def own_git_config(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    # Settings that would break a patch of plain `git diff`.
    (home / ".gitconfig").write_text(
        "[color]\n\tui = always\n[diff]\n\tnoprefix = true\n\texternal = false\n"
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))


@pytest.fixture
def repository(tmp_path) -> Path:
    root = tmp_path / "repository"
    (root / "package").mkdir(parents=True)
    (root / "package" / "__init__.py").write_text("VERSION = 1\n")
    (root / "package" / "train.py").write_text("".join(f"line {i}\n" for i in range(50)))
    (root / "package" / "gone.py").write_text("old = True\n")
    (root / "logo.bin").write_bytes(bytes(range(256)))
    (root / ".gitignore").write_text("outputs/\n.env\n")
    git(root, "init", "--quiet", "--initial-branch", "trunk")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "first")
    return root


def make_dirty(root: Path) -> None:
    text = (root / "package" / "train.py").read_text()
    (root / "package" / "train.py").write_text(text.replace("line 7\n", "line seven\n"))
    (root / "package" / "gone.py").unlink()
    (root / "logo.bin").write_bytes(bytes(range(255, -1, -1)))
    (root / "package" / "new mödel.py").write_text("# diff --git a/x b/x\nx = 1")
    (root / "conf.yaml").write_text("lr: 0.1\n")
    (root / "staged.py").write_text("staged = True\n")
    git(root, "add", "staged.py")
    (root / "notes.txt").write_text("not code\n")
    (root / ".env").write_text("TOKEN=secret\n")
    (root / "outputs").mkdir()
    (root / "outputs" / "result.py").write_text("ignored = True\n")


def sources(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and ".git" not in path.parts
    }


def test_a_clean_checkout(repository):
    code = read_checkout(repository / "package")
    assert code.commit == git(repository, "rev-parse", "HEAD")
    assert (code.branch, code.dirty, code.patch) == ("trunk", False, b"")
    assert (code.left_out, code.note) == ((), None)


def test_touching_a_file_does_not_make_it_dirty(repository):
    os.utime(repository / "package" / "train.py", (1, 1))
    index = (repository / ".git" / "index").read_bytes()
    assert read_checkout(repository / "package").patch == b""
    assert (repository / ".git" / "index").read_bytes() == index


def test_the_patch_rebuilds_the_dirty_tree_from_the_commit(repository, tmp_path):
    make_dirty(repository)
    index = (repository / ".git" / "index").read_bytes()
    state = git(repository, "status", "--porcelain")
    code = read_checkout(repository / "package")
    assert (repository / ".git" / "index").read_bytes() == index
    assert git(repository, "status", "--porcelain") == state
    assert code.dirty is True and code.patch is not None
    (tmp_path / "code.patch").write_bytes(code.patch)
    git(tmp_path, "clone", "--quiet", str(repository), "clone")
    git(tmp_path / "clone", "checkout", "--quiet", str(code.commit))
    git(tmp_path / "clone", "apply", str(tmp_path / "code.patch"))
    expected = sources(repository)
    for name in ("notes.txt", ".env", "outputs/result.py"):
        del expected[name]
    assert sources(tmp_path / "clone") == expected


def test_an_untracked_source_file_alone_is_dirty_and_a_note_is_not(repository):
    (repository / "notes.txt").write_text("x")
    assert read_checkout(repository / "package").dirty is False
    (repository / "run.sh").write_text("echo\n")
    code = read_checkout(repository / "package")
    assert code.dirty is True and code.patch is not None and b"+echo" in code.patch


def test_a_patch_over_the_limit_names_the_files_it_leaves_out(repository, tmp_path):
    train = repository / "package" / "train.py"
    train.write_text("".join(f"changed {i}\n" for i in range(2000)))
    (repository / "package" / "__init__.py").write_text("VERSION = 2\n")
    (repository / "huge.py").write_text("#" * 20_000)
    (repository / "small.py").write_text("x = 1\n")
    code = read_checkout(repository / "package", limit=5000)
    assert set(code.left_out) == {"package/train.py", "huge.py"}
    assert code.note is not None and "5000 bytes" in code.note
    assert code.patch is not None and len(code.patch) < 5200
    (tmp_path / "code.patch").write_bytes(code.patch)
    git(tmp_path, "clone", "--quiet", str(repository), "clone")
    git(tmp_path / "clone", "apply", str(tmp_path / "code.patch"))
    assert (tmp_path / "clone" / "package" / "__init__.py").read_text() == "VERSION = 2\n"
    assert (tmp_path / "clone" / "small.py").read_text() == "x = 1\n"


def test_a_change_of_the_same_size_and_second_as_the_commit_is_seen(repository):
    # Git compares contents only if the index is not newer than the file.
    git(repository, "config", "core.trustctime", "false")
    source, index = repository / "package" / "__init__.py", repository / ".git" / "index"
    second = os.stat(source).st_mtime_ns // 10**9 * 10**9 - 10**10
    os.utime(source, ns=(second, second))
    git(repository, "update-index", "--refresh")
    os.utime(index, ns=(second, second))
    source.write_text("VERSION = 2\n")
    os.utime(source, ns=(second, second))
    code = read_checkout(repository / "package")
    assert code.patch is not None and b"+VERSION = 2" in code.patch


def test_a_detached_head_has_no_branch(repository):
    git(repository, "checkout", "--quiet", "--detach")
    code = read_checkout(repository / "package")
    assert code.branch is None and code.commit == git(repository, "rev-parse", "HEAD")


def test_a_repository_without_a_commit(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("VERSION = 1\n")
    git(tmp_path, "init", "--quiet", "--initial-branch", "trunk")
    code = read_checkout(tmp_path / "package")
    assert (code.commit, code.branch, code.dirty) == (None, "trunk", True)
    assert code.patch is not None and b"+VERSION = 1" in code.patch


def test_variables_of_a_git_hook_do_not_point_elsewhere(repository, tmp_path, monkeypatch):
    commit = git(repository, "rev-parse", "HEAD")
    git(tmp_path, "init", "--quiet", "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "other" / "index"))
    assert read_checkout(repository / "package").commit == commit


@pytest.mark.parametrize("place", ["elsewhere", "repository/.venv/lib/site-packages"])
def test_an_installed_package_has_no_checkout(tmp_path, repository, place):
    package = tmp_path / place / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    code = read_checkout(package)
    assert (code.commit, code.branch, code.dirty, code.patch) == (None, None, None, None)
    assert code.note == "installed without a git checkout"


def test_a_copy_inside_another_projects_ignored_folder_has_no_checkout(repository):
    package = repository / "outputs" / "bundle" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    assert read_checkout(package).commit is None


def test_without_git_all_facts_are_none(repository, monkeypatch):
    monkeypatch.setenv("PATH", "")
    code = read_checkout(repository / "package")
    assert (code.commit, code.dirty, code.patch) == (None, None, None)
    assert code.note is not None and "git cannot be run" in code.note


def test_a_folder_that_git_rejects_is_reported(repository, monkeypatch):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    code = read_checkout(repository / "package")
    assert (code.commit, code.dirty, code.patch) == (None, None, None)
    assert code.note is not None and "dubious ownership" in code.note and "\n" not in code.note


def test_a_recorded_run_holds_the_patch_of_its_own_checkout(tmp_path):
    root = tmp_path / "project"
    copied = shutil.ignore_patterns("__pycache__")
    (root / "pcam_lightning").mkdir(parents=True)
    shutil.copytree(PACKAGE / "runs", root / "pcam_lightning" / "runs", ignore=copied)
    for name in ("__init__.py", "errors.py", "files.py", "lean_imports.py"):
        shutil.copy(PACKAGE / name, root / "pcam_lightning" / name)
    # The real torch takes seconds to load; a manifest does not need it.
    (root / "torch.py").write_text("raise ImportError\n")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "first")
    (root / "pcam_lightning" / "extra.py").write_text("x = 1\n")
    script = (
        "from pcam_lightning.runs.status import recording\n"
        "from pcam_lightning.runs.manifest import collect_manifest\n"
        "manifest = collect_manifest(command=['x'], seed=1, dataset={'name': 'demo'})\n"
        "with recording('run', manifest): pass\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True)
    run = tmp_path / "run"
    assert git(root, "rev-parse", "HEAD") in (run / "manifest.json").read_text()
    (root / "pcam_lightning" / "extra.py").unlink()
    git(root, "apply", str(run / "code.patch"))
    assert (root / "pcam_lightning" / "extra.py").read_text() == "x = 1\n"
    assert git(root, "status", "--porcelain") == "?? pcam_lightning/extra.py"


def test_changed_lines_between_commits_and_patches(repository: Path) -> None:
    package = repository / "package"

    def state() -> tuple[str, bytes]:
        found = read_checkout(package)
        assert found.commit is not None and found.patch is not None
        return found.commit, found.patch

    clean = state()
    make_dirty(repository)
    dirty = state()
    (repository / "notes.txt").unlink()  # not a source file, so in no patch
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "-m", "second")
    committed = state()
    objects = git(repository, "count-objects", "-v")

    changed = checkout.changed_lines(clean, dirty, package)
    assert changed is not None
    assert changed["package/train.py"] == ["-line 7", "+line seven"]
    assert changed["package/gone.py"] == ["-old = True"]
    # A patch and a commit of the same code are equal.
    assert checkout.changed_lines(clean, committed, package) == changed
    assert checkout.changed_lines(dirty, committed, package) == {}
    back = checkout.changed_lines(committed, clean, package)
    assert back is not None and back["package/train.py"] == ["-line seven", "+line 7"]
    assert git(repository, "count-objects", "-v") == objects

    assert checkout.changed_lines(clean, ("0" * 40, b""), package) is None
    assert checkout.changed_lines(clean, (clean[0], b"no patch"), package) is None


def test_source_digests_change_with_one_line(repository: Path) -> None:
    package = repository / "package"
    before = checkout.source_digests(package)
    assert list(before) == [f"package/{name}.py" for name in ("__init__", "gone", "train")]
    make_dirty(repository)
    after = checkout.source_digests(package)
    assert after["package/__init__.py"] == before["package/__init__.py"]
    assert after["package/train.py"] != before["package/train.py"]
