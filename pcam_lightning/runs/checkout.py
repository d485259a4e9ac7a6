"""The code that ran: the commit of the package's own checkout, and what differs from it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
PATCH_LIMIT = 5_000_000
GIT_TIMEOUT = 60
COMMIT = re.compile(r"[0-9a-f]{40,64}")
"""A commit as git names it. Anything else could be an option, or a name with another meaning."""
BINARY = b"\nGIT binary patch\n"
# Untracked files of other kinds are notes, data, results, or a .env with passwords.
MARK = b"diff --git "
# Plumbing, because `git diff` follows the user's taste in colors and prefixes.
DIFF = (
    "diff-tree",
    "-r",
    "--patch",
    "--full-index",
    "--no-renames",
    "--no-ext-diff",
    "--no-textconv",
)
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


def source_digests(package: Path = PACKAGE) -> dict[str, str]:
    """SHA-256 (hex, 16 digits) of each Python file of a package, by its path from beside it.

    What tells two versions apart where there is no checkout, or where its commits are unknown.
    """
    digests = {}
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package.parent).as_posix()
        digests[name] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return digests


def changed_lines(
    one: tuple[str, bytes], other: tuple[str, bytes], package: Path = PACKAGE
) -> dict[str, list[str]] | None:
    """What differs between two states of the code, each a commit and a patch of it.

    Returns the lines of each text file that differs, "-" before those of `one` and "+" before those
    of `other`, or None where this checkout does not know the commits, where a commit is no commit's
    name, or where a patch is too large or does not apply. Both may come from anybody: patches are
    applied to an index in a temporary folder, never to files, and nothing in the repository is
    written.
    """
    for commit, patch in (one, other):
        if not COMMIT.fullmatch(commit) or len(patch) > 2 * PATCH_LIMIT:
            return None
    try:
        root = _find_root(package)
        if root is None:
            return None
        with _scratch_objects(root) as environment:
            trees = [_tree(root, *state, environment) for state in (one, other)]
            whole = _git(root, *DIFF, "--unified=0", *trees, environment=environment)
    except _GitError:
        return None
    changed: dict[str, list[str]] = {}
    for part in _parts(whole):
        lines = part.decode("utf-8", errors="replace").splitlines()
        name = lines[0].partition(" b/")[2]
        # After the first hunk: its header would otherwise look like two changed lines.
        start = next((i for i, line in enumerate(lines) if line.startswith("@@")), len(lines))
        if found := [line for line in lines[start:] if line[:1] in ("-", "+")]:
            changed[name] = found
    return changed


def _tree(root: Path, commit: str, patch: bytes, environment: dict[str, str]) -> str:
    """The tree object of a commit with a patch applied, but for files that hold no text."""
    _git(root, "read-tree", "--end-of-options", commit, environment=environment)
    parts = _parts(patch)
    if patch and not parts:
        raise _GitError("no patch of git diff")
    # No lines can be shown of what is compressed, which may unpack to any size.
    text = b"\n".join(part for part in parts if BINARY not in part)
    if text:
        given = text.rstrip(b"\n") + b"\n"
        words = ("apply", "--cached", "--end-of-options", "-")
        _git(root, *words, environment=environment, given=given)
    return _text(_git(root, "write-tree", environment=environment))


@contextmanager
def _scratch_objects(root: Path) -> Iterator[dict[str, str]]:
    """An environment for git with an index and new objects of its own, beside those of `root`."""
    objects = (root / _text(_git(root, "rev-parse", "--git-path", "objects"))).resolve()
    with tempfile.TemporaryDirectory() as folder:
        yield {
            "GIT_INDEX_FILE": f"{folder}/index",
            "GIT_OBJECT_DIRECTORY": folder,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(objects),
        }


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
            add = ("--literal-pathspecs", "add", "--intent-to-add", "--", *added)
            _git(root, *add, environment=index)
        whole = _git(root, "diff-index", "--binary", *DIFF[1:], base, environment=index)
    return _cut(whole, limit, too_large)


def _cut(whole: bytes, limit: int, too_large: list[str]) -> tuple[bytes, tuple[str, ...]]:
    """Keep the leading files that fit: a patch cut inside a file would not apply at all."""
    kept, left_out, size = [], list(too_large), 0
    for part in _parts(whole):
        if size + len(part) + 1 <= limit:
            kept.append(part)
            size += len(part) + 1
        else:
            header = part.split(b"\n", 1)[0].removeprefix(MARK)
            left_out.append(_text(header).partition(" b/")[0].removeprefix("a/"))
    patch = b"\n".join(kept)
    if patch and not patch.endswith(b"\n"):
        patch += b"\n"
    if left_out:
        # git apply skips what comes before the first file.
        note = f"# left out, the limit is {limit} bytes: {', '.join(left_out)}\n"
        patch = note.encode("utf-8", errors="backslashreplace") + patch
    return patch, tuple(left_out)


def _parts(whole: bytes) -> list[bytes]:
    """A patch file by file."""
    return [MARK + part for part in (b"\n" + whole).split(b"\n" + MARK)[1:]]


@contextmanager
def _index_copy(root: Path) -> Iterator[dict[str, str]]:
    """A copy of the index, so that untracked files can be listed in it without touching it."""
    git_path = Path(_text(_git(root, "rev-parse", "--git-path", "index")))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "index"
        if (root / git_path).exists():  # a repository just made has none
            shutil.copyfile(root / git_path, copy)
        yield {"GIT_INDEX_FILE": str(copy)}


def _git(
    folder: Path,
    *words: str,
    environment: Mapping[str, str] | None = None,
    given: bytes = b"",
    may_fail: bool = False,
) -> bytes:
    inherited = {
        name: value
        for name, value in os.environ.items()
        # Set inside a git hook, these would answer for another repository.
        if name not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
    }
    try:
        answer = subprocess.run(
            ["git", "-c", "core.fsmonitor=false", *words],
            cwd=folder,
            env=inherited
            | {"GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "LC_ALL": "C"}
            | dict(environment or {}),
            input=given,
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
