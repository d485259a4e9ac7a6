"""The code that ran: the commit of the package's own checkout, and what differs from it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
PATCH_LIMIT = 5_000_000
GIT_TIMEOUT = 60
# Untracked files of other kinds are notes, data, results, or a .env with passwords.
SOURCE_SUFFIXES = (".py", ".pyi", ".yaml", ".yml", ".toml", ".cfg", ".sh", ".sbatch")


@dataclass(frozen=True)
class Checkout:
    """A git checkout at one moment; what could not be learned is None, and `note` says why."""

    commit: str | None = None
    branch: str | None = None
    dirty: bool | None = None
    """Whether a tracked file differs from the commit or an untracked source file lies there."""
    patch: bytes | None = None
    """The difference from the commit, whole files only, for `git apply`; empty when clean."""
    left_out: tuple[str, ...] = ()
    """Files whose part did not fit into the patch."""
    note: str | None = None


class _GitError(Exception):
    pass


def read_checkout(package: Path = PACKAGE, limit: int = PATCH_LIMIT) -> Checkout:
    """The checkout that holds a package's folder, with a patch of at most `limit` bytes.

    Never raises: a package installed without a checkout, a missing git, or a folder that git
    refuses (`safe.directory`) leave fields None. Nothing in the repository is written.
    """
    try:
        root = _find_root(package)
        if root is None:
            return Checkout(note="installed without a git checkout")
        commit = _git(root, "rev-parse", "--verify", "--quiet", "HEAD", may_fail=True)
        branch = _git(root, "symbolic-ref", "--short", "--quiet", "HEAD", may_fail=True)
    except _GitError as error:
        return Checkout(note=str(error))
    name, head = _text(branch) or None, _text(commit) or None
    try:
        patch, left_out = _read_patch(root, head, limit)
    except _GitError as error:
        return Checkout(head, name, note=str(error))
    note = f"the patch leaves out files beyond {limit} bytes" if left_out else None
    return Checkout(head, name, bool(patch or left_out), patch, left_out, note)


def _find_root(package: Path) -> Path | None:
    """The repository a package's source belongs to, which need not be the one around it."""
    if {"site-packages", "dist-packages"} & set(package.parts):
        return None
    try:
        root = Path(_text(_git(package, "rev-parse", "--show-toplevel")))
    except _GitError as error:
        if "not a git repository" in str(error):
            return None
        raise
    known = _git(
        package, "ls-files", "--cached", "--others", "--exclude-standard", "--", "__init__.py"
    )
    return root if known else None


def _read_patch(root: Path, commit: str | None, limit: int) -> tuple[bytes, tuple[str, ...]]:
    listed = _git(root, "ls-files", "--others", "--exclude-standard", "-z")
    untracked = [name for name in _names(listed) if name.endswith(SOURCE_SUFFIXES)]
    sizes = {name: os.lstat(root / name).st_size for name in untracked if (root / name).exists()}
    too_large = [name for name, size in sizes.items() if size > limit]
    base = commit or _text(_git(root, "hash-object", "-t", "tree", os.devnull))
    with _index_copy(root) as index:
        added = [name for name in sizes if name not in too_large]
        if added:
            _git(root, "--literal-pathspecs", "add", "--intent-to-add", "--", *added, index=index)
        # Plumbing, because `git diff` follows the user's taste in colours and prefixes.
        whole = _git(
            root,
            "diff-index",
            "--patch",
            "--binary",
            "--full-index",
            "--no-renames",
            "--no-ext-diff",
            "--no-textconv",
            base,
            index=index,
        )
    return _cut(whole, limit, too_large)


def _cut(whole: bytes, limit: int, too_large: list[str]) -> tuple[bytes, tuple[str, ...]]:
    """Keep the leading files that fit: a patch cut inside a file would not apply at all."""
    mark = b"diff --git "
    parts = [mark + part for part in (b"\n" + whole).split(b"\n" + mark)[1:]]
    kept, left_out, size = [], list(too_large), 0
    for part in parts:
        if size + len(part) + 1 <= limit:
            kept.append(part)
            size += len(part) + 1
        else:
            header = part.split(b"\n", 1)[0].removeprefix(mark)
            left_out.append(_text(header).partition(" b/")[0].removeprefix("a/"))
    patch = b"\n".join(kept)
    if patch and not patch.endswith(b"\n"):
        patch += b"\n"
    if left_out:
        # git apply skips what comes before the first file.
        note = f"# left out, the limit is {limit} bytes: {', '.join(left_out)}\n"
        patch = note.encode("utf-8", errors="backslashreplace") + patch
    return patch, tuple(left_out)


@contextmanager
def _index_copy(root: Path) -> Iterator[Path]:
    """A copy of the index, so that untracked files can be listed in it without touching it."""
    git_path = Path(_text(_git(root, "rev-parse", "--git-path", "index")))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "index"
        if (root / git_path).exists():  # a repository just made has none
            shutil.copyfile(root / git_path, copy)
        yield copy


def _git(folder: Path, *words: str, index: Path | None = None, may_fail: bool = False) -> bytes:
    environment = {
        name: value
        for name, value in os.environ.items()
        # Set inside a git hook, these would answer for another repository.
        if name not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
    }
    environment |= {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    if index is not None:
        environment["GIT_INDEX_FILE"] = str(index)
    try:
        answer = subprocess.run(
            ["git", "-c", "core.fsmonitor=false", *words],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GIT_TIMEOUT,
        )
    except (OSError, ValueError) as error:
        raise _GitError(f"git cannot be run: {error}") from None
    except subprocess.TimeoutExpired:
        raise _GitError(f"git {words[0]} took more than {GIT_TIMEOUT} s") from None
    if answer.returncode and not may_fail:
        lines = _text(answer.stderr).splitlines() or ["no reason given"]
        raise _GitError(f"git {words[0]} failed: {lines[0]}")
    return answer.stdout


def _names(listed: bytes) -> list[str]:
    return [os.fsdecode(name) for name in listed.split(b"\0") if name]


def _text(output: bytes) -> str:
    return os.fsdecode(output).strip()
