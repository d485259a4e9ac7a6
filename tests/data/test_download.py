"""Against servers of this machine that behave as servers on the internet do."""

import errno
import gzip
import hashlib
import http.server
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import pytest
from pcam_files import SPLITS, random_split, write_split

from pcam_lightning.data import download as downloads
from pcam_lightning.data.download import OfficialFile, check_files, download, official_files
from pcam_lightning.errors import InputError


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves the files of a folder, with the faults it is told to have."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.folder = folder
        self.asked: list[tuple[str, str | None]] = []
        self.sent = 0
        self.drop_after: int | None = None
        """Close the connection after so many bytes of an answer."""
        self.ranges = True
        self.wrong = False
        self.slow = 0.0
        """Seconds between blocks of 64 KiB."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/files"


class Answer(http.server.BaseHTTPRequestHandler):
    server: Server  # type: ignore[assignment]

    def do_GET(self) -> None:
        server, name = self.server, self.path.split("/")[-1]
        asked = self.headers.get("Range")
        server.asked.append((name, asked))
        path = server.folder / name
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        if server.wrong:
            content = content[:-20] + bytes(20)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.ranges else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop = len(content) if server.drop_after is None else start + server.drop_after
        for block in range(start, min(stop, len(content)), 2**16):
            part = content[block : min(block + 2**16, stop)]
            try:
                self.wfile.write(part)
            except OSError:
                return
            server.sent += len(part)
            time.sleep(server.slow)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def release(tmp_path: Path):
    """A server of a small release, and what should come of it: (server, files, source folder)."""
    source, served = tmp_path / "source", tmp_path / "served"
    served.mkdir()
    files = []
    for seed, split in enumerate(SPLITS):
        write_split(source, split, *random_split(24, seed))
        (source / f"camelyonpatch_level_2_split_{split}_meta.csv").write_text("wsi\n" + "a\n" * 24)
    for path in sorted(source.iterdir()):
        content = path.read_bytes()
        packed = None
        if path.suffix == ".h5":
            (served / f"{path.name}.gz").write_bytes(gzip.compress(content))
            packed = md5((served / f"{path.name}.gz").read_bytes())
        else:
            (served / path.name).write_bytes(content)
        files.append(OfficialFile(path.name, len(content), md5(content), packed))
    server = Server(served)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server, files, source
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch) -> None:
    monkeypatch.setattr(downloads.time, "sleep", lambda _: None)


def assert_whole(root: Path, source: Path) -> None:
    for path in source.iterdir():
        assert (root / path.name).read_bytes() == path.read_bytes(), path.name
    assert not (root / ".download").exists()


def packed_size(server: Server) -> int:
    return sum(path.stat().st_size for path in server.folder.iterdir())


def test_files_arrive_whole_and_only_once(release, tmp_path: Path) -> None:
    server, files, source = release
    root = tmp_path / "new" / "root"
    assert set(download(root, files, server.url).values()) == {"downloaded"}
    assert_whole(root, source)
    asked = len(server.asked)
    assert asked == 9
    assert set(download(root, files, server.url).values()) == {"official"}
    assert len(server.asked) == asked
    (root / files[0].name).unlink()
    download(root, files, server.url)
    assert len(server.asked) == asked + 1
    assert_whole(root, source)


def test_a_connection_that_drops_half_way_is_taken_up_again(release, tmp_path: Path) -> None:
    server, files, source = release
    server.drop_after = 250_000  # of about 660,000
    download(tmp_path / "root", files, server.url)
    assert_whole(tmp_path / "root", source)
    assert server.sent == packed_size(server)  # nothing twice
    ranges = [asked for name, asked in server.asked if name.endswith("train_x.h5.gz")]
    assert ranges[:3] == [None, "bytes=250000-", "bytes=500000-"]


def test_a_server_without_ranges_is_read_from_the_start(release, tmp_path: Path) -> None:
    server, files, source = release
    server.ranges = False
    part = tmp_path / "root" / ".download" / f"{files[-1].remote_name}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes((server.folder / files[-1].remote_name).read_bytes()[:1000])
    download(tmp_path / "root", files, server.url)
    assert_whole(tmp_path / "root", source)


def test_what_had_arrived_whole_is_not_asked_for_in_vain(release, tmp_path: Path) -> None:
    server, files, source = release
    packed = (server.folder / files[-1].remote_name).read_bytes()
    part = tmp_path / "root" / ".download" / f"{files[-1].remote_name}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(packed)
    download(tmp_path / "root", files, server.url)
    assert_whole(tmp_path / "root", source)
    assert server.sent == packed_size(server) - len(packed)


def test_wrong_bytes_are_refused_and_not_kept(release, tmp_path: Path) -> None:
    server, files, source = release
    server.wrong = True
    with pytest.raises(InputError, match="not the official file"):
        download(tmp_path / "root", files, server.url)
    assert [path.name for path in (tmp_path / "root").iterdir()] == [".download.lock"]
    server.wrong = False
    download(tmp_path / "root", files, server.url)
    assert_whole(tmp_path / "root", source)


def test_bytes_that_unpack_but_are_others_are_refused(release, tmp_path: Path) -> None:
    server, files, _ = release
    path = server.folder / files[0].remote_name
    path.write_bytes(b"wsi\nb\n" if path.suffix == ".csv" else gzip.compress(b"other"))
    with pytest.raises(InputError, match=f"expected md5:{files[0].remote_md5} but got"):
        download(tmp_path / "root", files[:1], server.url)
    assert not (tmp_path / "root" / files[0].name).exists()


def test_a_file_that_is_another_one_is_not_touched(release, tmp_path: Path) -> None:
    server, files, _ = release
    root = tmp_path / "root"
    root.mkdir()
    (root / files[-1].name).write_bytes(b"mine")
    with pytest.raises(InputError, match="it is kept"):
        download(root, files[-1:], server.url)
    assert (root / files[-1].name).read_bytes() == b"mine"
    assert check_files(root, files[-2:]) == {files[-2].name: "missing", files[-1].name: "differs"}
    assert server.asked == []


def test_a_process_that_was_killed_is_taken_up_by_the_next(release, tmp_path: Path) -> None:
    server, files, source = release
    server.slow = 0.2
    root, file = tmp_path / "root", next(file for file in files if "train_x" in file.name)
    program = (
        "import pathlib, sys\n"
        "from pcam_lightning.data.download import OfficialFile, download\n"
        "root, url, name, size, *digests = sys.argv[1:]\n"
        "download(pathlib.Path(root), [OfficialFile(name, int(size), *digests)], url)\n"
    )
    arguments = [str(root), server.url, file.name, str(file.size), file.md5, str(file.packed_md5)]
    process = subprocess.Popen([sys.executable, "-c", program, *arguments])
    part = root / ".download" / f"{file.remote_name}.part"
    while not (part.exists() and part.stat().st_size > 0) and process.poll() is None:
        os.sched_yield()
    process.kill()
    process.wait()
    assert not (root / file.name).exists()
    had, server.slow, server.sent = part.stat().st_size, 0.0, 0
    assert had > 0
    download(root, [file], server.url)
    assert (root / file.name).read_bytes() == (source / file.name).read_bytes()
    assert server.sent == (server.folder / file.remote_name).stat().st_size - had


def test_a_file_system_without_hard_links_will_do(release, tmp_path: Path, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    server, files, source = release
    download(tmp_path / "root", files, server.url)
    assert_whole(tmp_path / "root", source)


def test_what_arrived_survives_until_the_file_has_its_name(
    release, tmp_path: Path, monkeypatch
) -> None:
    server, files, source = release
    root, file = tmp_path / "root", files[-1]

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(downloads.os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            download(root, [file], server.url)
    assert not (root / file.name).exists()
    sent = server.sent
    download(root, [file], server.url)
    assert (root / file.name).read_bytes() == (source / file.name).read_bytes()
    assert server.sent == sent


def test_an_unreachable_server_and_a_missing_file_are_one_line(release, tmp_path: Path) -> None:
    server, files, _ = release
    with pytest.raises(InputError, match="404"):
        download(tmp_path / "root", [OfficialFile("x_y.h5", 1, "0" * 32)], server.url)
    with pytest.raises(InputError, match="run the command again to go on"):
        download(tmp_path / "root", files, "http://127.0.0.1:9/files")


def test_too_little_room_is_said_before_anything_is_fetched(
    release, tmp_path: Path, monkeypatch
) -> None:
    server, files, _ = release
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(InputError, match=r"0\.00 GB are free"):
        download(tmp_path / "root", files, server.url)
    assert server.asked == []


def test_the_official_files_are_those_torchvision_names() -> None:
    from torchvision.datasets import PCAM

    theirs = {
        name: digest
        for split in PCAM._FILES.values()
        for name, _, digest in split.values()  # type: ignore[union-attr]
    }
    ours = {file.name: file.packed_md5 for file in official_files() if file.packed_md5}
    assert ours == theirs
    assert len(official_files()) == 9 and len(official_files(["test"])) == 3
    assert len({file.md5 for file in official_files()}) == 9


def test_the_command_fetches_checks_and_trains_on_what_came(
    release, tmp_path: Path, command, monkeypatch
) -> None:
    server, files, source = release
    monkeypatch.setattr(downloads, "official_files", lambda splits=SPLITS: files)
    options = ("root=data", f"url={server.url}")
    code, out, err = command(*options, "check=true", name="download")
    assert code == 1 and out.splitlines()[-1].startswith("summary: ")
    assert "9 of 9 files are not the official ones" in err
    code, out, err = command(*options, name="download")
    assert code == 0, err
    assert out.count("downloaded") == 9
    assert_whole(tmp_path / "data", source)
    assert command(*options, "check=true", name="download")[0] == 0
    with h5py.File(tmp_path / "data" / files[-1].name, "r+") as file:
        file.attrs["touched"] = True
    code, _, err = command(*options, "check=true", name="download")
    assert code == 1 and f"{files[-1].name} (differs)" in err


def test_a_run_downloads_what_is_not_there(release, tmp_path: Path, command, monkeypatch) -> None:
    server, files, source = release
    monkeypatch.setattr(downloads, "official_files", lambda splits=SPLITS: files)
    monkeypatch.setattr(downloads, "URL", server.url)
    code, _, err = command(
        "data.root=real", "data.on_missing=download", "audit.fail_on=[]", name="audit"
    )
    assert code == 0, err
    assert_whole(tmp_path / "real", source)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("splits=[dev]", "splits.0='dev': expected 'train', 'valid' or 'test'"),
        ("url=ftp://x", "url='ftp://x'"),
        ("check=maybe", "check='maybe'"),
    ],
)
def test_bad_input_is_one_line(command, override: str, said: str) -> None:
    code, out, err = command(override, name="download")
    assert code == 2 and "summary:" not in out
    (line,) = err.splitlines()
    assert said in line
