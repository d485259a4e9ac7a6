"""The same files give the same archive, which any tool for .zip and sha256sum can read."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from bundle_files import bundle_files

from pcam_lightning.bundle.archive import write_archive
from pcam_lightning.errors import InputError


def test_the_bytes_depend_on_the_files_alone(tmp_path: Path) -> None:
    files = bundle_files()
    write_archive(tmp_path / "a.zip", "model", files)
    on_disk = {}
    for name, content in reversed(files.items()):
        path = tmp_path / "elsewhere" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        assert isinstance(content, bytes)
        path.write_bytes(content)
        path.chmod(0o600)
        os.utime(path, (2e9, 2e9))
        on_disk[name] = path
    write_archive(tmp_path / "new" / "folder" / "b.zip", "model", on_disk)
    first, second = (tmp_path / "a.zip").read_bytes(), (tmp_path / "new/folder/b.zip").read_bytes()
    assert first == second
    assert os.listdir(tmp_path / "new/folder") == ["b.zip"]
    assert str(tmp_path).encode() not in first


def test_other_tools_read_it(tmp_path: Path) -> None:
    files = bundle_files()
    write_archive(tmp_path / "a.zip", "model", files)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.testzip() is None
        assert {name: archive.read(f"model/{name}") for name in files} == files
        members = {each.filename: each for each in archive.infolist()}
        assert {each.compress_type for each in members.values()} == {zipfile.ZIP_STORED}
        assert {each.date_time for each in members.values()} == {(1980, 1, 1, 0, 0, 0)}
        modes = {name: each.external_attr >> 16 for name, each in members.items()}
        assert {name for name, mode in modes.items() if mode & 0o111} == {
            "model/verify.py", "model/predict.py"
        }  # fmt: skip
        assert {mode & 0o777 for mode in modes.values()} == {0o644, 0o755}
        archive.extractall(tmp_path)
    lines = (tmp_path / "model/SHA256SUMS").read_text().splitlines()
    assert [line.split("  ")[1] for line in lines] == sorted(files)
    if tool := shutil.which("sha256sum"):
        subprocess.run(
            [tool, "--check", "--strict", "--quiet", "SHA256SUMS"],
            cwd=tmp_path / "model",
            check=True,
        )


def test_an_existing_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"mine")
    with pytest.raises(InputError, match=r"a\.zip"):
        write_archive(path, "model", {"a": b""})
    assert path.read_bytes() == b"mine"
    (tmp_path / "link.zip").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"link\.zip"):
        write_archive(tmp_path / "link.zip", "model", {"a": b""})


@pytest.mark.parametrize("name", ["../x", "/x", "", "a\\b", ".x", "SHA256SUMS", "model.sig", "a b"])
def test_unsafe_names_are_not_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError):
        write_archive(tmp_path / "a.zip", "model", {name: b""})
    for top in ("..", "a/b", "", "a b"):
        with pytest.raises(InputError):
            write_archive(tmp_path / "a.zip", top, {"a": b""})
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing") as caught:
        write_archive(tmp_path / "a.zip", "model", {"a": b"", "b": tmp_path / "missing"})
    assert caught.value.filename == str(tmp_path / "missing")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a sparse file")
@pytest.mark.slow
def test_files_of_gigabytes_are_streamed(tmp_path: Path) -> None:
    size = (4 << 30) + 1
    with (tmp_path / "large").open("wb") as stream:
        stream.truncate(size)
    write_archive(tmp_path / "a.zip", "model", {"large": tmp_path / "large", "z": b"z"})
    (tmp_path / "large").unlink()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.getinfo("model/large").file_size == size
        assert archive.read("model/z") == b"z"
        sums = archive.read("model/SHA256SUMS").decode()
    sha256 = hashlib.sha256()
    for _ in range(size >> 20):
        sha256.update(bytes(1 << 20))
    sha256.update(b"\0")
    assert sums.startswith(f"{sha256.hexdigest()}  large\n")
