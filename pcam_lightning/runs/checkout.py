"""The code of a run: the commit of the package's checkout, and the changes since then."""

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
"""The full name of a commit. Any other text could be an option or a branch."""
MARK = b"diff --git "
BINARY = b"\nGIT binary patch\n"
# For plumbing commands, because `git diff` follows the user's settings of colors and prefixes.
DIFF = ("--patch", "--full-index", "--no-renames", "--no-ext-diff", "--no-textconv")
# Other untracked files are notes, data, results, or a .env with passwords.
SOURCE_SUFFIXES = (".py", ".pyi", ".yaml", ".yml", ".toml", ".cfg", ".sh", ".sbatch")


@dataclass(frozen=True)
class Checkout:
    """The state of a git checkout; unknown facts are None, and `note` gives the reason."""

    commit: str | None = None
    branch: str | None = None
    dirty: bool | None = None
    """True if a tracked file differs from the commit or if there is an untracked source file."""
    patch: bytes | None = None
    """The changes since the commit, for `git apply`; empty for a clean checkout."""
    left_out: tuple[str, ...] = ()
    """Changed files that the patch leaves out because of its size limit."""
    note: str | None = None


class _GitError(Exception):
    pass


def read_checkout(package: Path = PACKAGE, limit: int = PATCH_LIMIT) -> Checkout:
    """Return the state of the checkout with a package, with a patch of at most `limit` bytes.

    Writes nothing in the repository and never raises: fields are None for a package without a
    checkout, a missing git, or a folder that git rejects (`safe.directory`).
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
    """Return the SHA-256 (16 hex digits) of each Python file of a package.

    Keys are paths such as `pcam_lightning/errors.py`. The digests identify a version of the code
    even without a checkout or a known commit.
    """
    digests = {}
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package.parent).as_posix()
        digests[name] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return digests


def changed_lines(
    one: tuple[str, bytes], other: tuple[str, bytes], package: Path = PACKAGE
) -> dict[str, list[str]] | None:
    """Compare two states of the code, each a commit and a patch to it.

    Returns the changed lines of each text file: removed ones begin with "-", added ones with "+".
    Returns None if this checkout lacks a commit, or if a patch is too large or does not apply.

    The input is not trusted: patches are applied to an index in a temporary folder, never to files,
    and nothing is written in the repository.
    """
    for commit, patch in (one, other):
        if not COMMIT.fullmatch(commit) or len(patch) > 2 * PATCH_LIMIT:
            return None
    try:
        root = _find_root(package)
        if root is None:
            return None
        with _scratch(root) as environment:
            trees = [_tree(root, *state, environment) for state in (one, other)]
            words = ("diff-tree", "-r", *DIFF, "--unified=0", *trees)
            whole = _git(root, *words, environment=environment)
    except _GitError:
        return None
    changed: dict[str, list[str]] = {}
    for part in _parts(whole):
        lines = part.decode("utf-8", errors="replace").splitlines()
        name = lines[0].partition(" b/")[2]
        # The header before the first hunk has two lines that look like changed ones.
        start = next((i for i, line in enumerate(lines) if line.startswith("@@")), len(lines))
        if found := [line for line in lines[start:] if line[:1] in ("-", "+")]:
            changed[name] = found
    return changed


def _tree(root: Path, commit: str, patch: bytes, environment: dict[str, str]) -> str:
    """Return the tree object of a commit with a patch applied, except to binary files."""
    _git(root, "read-tree", "--end-of-options", commit, environment=environment)
    parts = _parts(patch)
    if patch and not parts:
        raise _GitError("not a patch of git diff")
    # Binary patches have no lines to show, and may unpack to any size.
    text = b"\n".join(part for part in parts if BINARY not in part)
    if text:
        words = ("apply", "--cached", "--end-of-options", "-")
        _git(root, *words, environment=environment, stdin=text.rstrip(b"\n") + b"\n")
    return _text(_git(root, "write-tree", environment=environment))


@contextmanager
def _scratch(root: Path) -> Iterator[dict[str, str]]:
    """Give git a copy of the index and a temporary folder for new objects, by its environment."""
    index, objects = (
        root / _text(_git(root, "rev-parse", "--git-path", name)) for name in ("index", "objects")
    )
    with tempfile.TemporaryDirectory() as folder:
        if index.exists():  # a new repository has none
            # With its time: a file no older than the index may have changed within the same second.
            shutil.copy2(index, f"{folder}/index")
        yield {
            "GIT_INDEX_FILE": f"{folder}/index",
            "GIT_OBJECT_DIRECTORY": folder,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(objects.resolve()),
        }


def _find_root(package: Path) -> Path | None:
    """Return the repository of a package's source, or None.

    A package in an ignored folder does not belong to the repository around it.
    """
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
    with _scratch(root) as environment:
        added = [name for name in sizes if name not in too_large]
        if added:
            add = ("--literal-pathspecs", "add", "--intent-to-add", "--", *added)
            _git(root, *add, environment=environment)
        whole = _git(root, "diff-index", "--binary", *DIFF, base, environment=environment)
    return _cut(whole, limit, too_large)


def _cut(whole: bytes, limit: int, too_large: list[str]) -> tuple[bytes, tuple[str, ...]]:
    """Keep the files of a patch that fit into the limit, and name the others."""
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
        # git apply skips lines before the first file.
        note = f"# left out, the limit is {limit} bytes: {', '.join(left_out)}\n"
        patch = note.encode("utf-8", errors="backslashreplace") + patch
    return patch, tuple(left_out)


def _parts(whole: bytes) -> list[bytes]:
    """Split a patch into the parts of its files."""
    return [MARK + part for part in (b"\n" + whole).split(b"\n" + MARK)[1:]]


def _git(
    folder: Path,
    *words: str,
    environment: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    may_fail: bool = False,
) -> bytes:
    inherited = {
        name: value
        for name, value in os.environ.items()
        # A git hook sets these for its own repository.
        if name not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
    }
    try:
        answer = subprocess.run(
            ["git", "-c", "core.fsmonitor=false", *words],
            cwd=folder,
            env=inherited
            | {"GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "LC_ALL": "C"}
            | dict(environment or {}),
            input=stdin,
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
