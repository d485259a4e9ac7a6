"""Downloads from a local server that shows the faults of servers on the internet."""

import gzip
import hashlib
import http.server
import importlib.util
import os
import re
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
from pcam_lightning.data.source import Source, find_source
from pcam_lightning.errors import InputError


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Server of the files of a folder, with faults that a test sets."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.requests: list[tuple[str, str | None]] = []
        """Name and requested range of each request."""
        self.sent = 0
        self.drop_after: int | None = None
        """Bytes of a response after which the connection closes."""
        self.ranges = True
        self.wrong = False
        self.slow = 0.0
        """Seconds between blocks of 64 KiB."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/files"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server  # type: ignore[assignment]

    def do_GET(self) -> None:
        server, name = self.server, self.path.split("/")[-1]
        requested = self.headers.get("Range")
        server.requests.append((name, requested))
        path = server.folder / name
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        if server.wrong:
            content = content[:-20] + bytes(20)
        ranged = requested is not None and server.ranges
        start = int(str(requested).removeprefix("bytes=").rstrip("-")) if ranged else 0
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


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A small release: (files, folder of the originals, folder as served)."""
    folder = tmp_path_factory.mktemp("release")
    source, served = folder / "source", folder / "served"
    served.mkdir()
    files = []
    for seed, split in enumerate(SPLITS):
        write_split(source, split, *random_split(24, seed))
        (source / f"camelyonpatch_level_2_split_{split}_meta.csv").write_text("wsi\n" + "a\n" * 24)
    for path in sorted(source.iterdir()):
        content = path.read_bytes()
        packed = gzip.compress(content, 1) if path.suffix == ".h5" else None
        file = OfficialFile(path.name, len(content), md5(content), md5(packed) if packed else None)
        (served / file.remote_name).write_bytes(packed or content)
        files.append(file)
    return files, source, served


@pytest.fixture
def release(published):
    """A server of the release, and what a download should give: (server, files, source)."""
    files, source, served = published
    server = Server(served)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server, files, source
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch) -> None:
    monkeypatch.setattr(downloads.time, "sleep", lambda _: None)


def assert_complete(root: Path, source: Path) -> None:
    for path in source.iterdir():
        assert (root / path.name).read_bytes() == path.read_bytes(), path.name
    assert not (root / ".download").exists()


def remote_size(server: Server) -> int:
    return sum(path.stat().st_size for path in server.folder.iterdir())


def receive_part(server: Server, root: Path, file: OfficialFile, size: int | None = None) -> None:
    """Put the first bytes of a remote file where an earlier call would have left them."""
    part = root / ".download" / f"{file.remote_name}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes((server.folder / file.remote_name).read_bytes()[:size])


def test_files_arrive_complete_and_only_once(release, tmp_path: Path) -> None:
    server, files, source = release
    root = tmp_path / "new" / "root"
    assert set(download(root, files, server.url).values()) == {"downloaded"}
    assert_complete(root, source)
    assert len(server.requests) == 9
    assert set(download(root, files, server.url).values()) == {"official"}
    assert len(server.requests) == 9
    (root / files[0].name).unlink()
    download(root, files, server.url)
    assert len(server.requests) == 10
    assert_complete(root, source)


def test_a_broken_connection_is_resumed(release, tmp_path: Path) -> None:
    server, files, source = release
    server.drop_after = 250_000  # of about 660,000
    download(tmp_path / "root", files, server.url)
    assert_complete(tmp_path / "root", source)
    assert server.sent == remote_size(server)  # nothing twice
    ranges = [bytes_ for name, bytes_ in server.requests if name.endswith("train_x.h5.gz")]
    assert ranges[:3] == [None, "bytes=250000-", "bytes=500000-"]


def test_a_server_without_ranges_sends_the_whole_file(release, tmp_path: Path) -> None:
    server, files, source = release
    server.ranges = False
    receive_part(server, tmp_path / "root", files[-1], 1000)
    download(tmp_path / "root", files, server.url)
    assert_complete(tmp_path / "root", source)


def test_a_server_without_ranges_that_always_breaks_off_is_an_error(
    release, tmp_path: Path
) -> None:
    server, files, _ = release
    server.ranges, server.drop_after = False, 250_000
    file = next(file for file in files if "train_x" in file.name)
    with pytest.raises(InputError, match=file.remote_name):
        download(tmp_path / "root", [file], server.url)
    assert len(server.requests) == 1 + downloads.ATTEMPTS


def test_a_complete_part_is_not_received_again(release, tmp_path: Path) -> None:
    server, files, source = release
    receive_part(server, tmp_path / "root", files[-1])
    download(tmp_path / "root", files, server.url)
    assert_complete(tmp_path / "root", source)
    received = (server.folder / files[-1].remote_name).stat().st_size
    assert server.sent == remote_size(server) - received


def test_wrong_bytes_are_rejected_and_deleted(release, tmp_path: Path) -> None:
    server, files, source = release
    server.wrong = True
    with pytest.raises(InputError, match=files[0].remote_md5):
        download(tmp_path / "root", files, server.url)
    assert [path.name for path in (tmp_path / "root").iterdir()] == [".download.lock"]
    server.wrong = False
    download(tmp_path / "root", files, server.url)
    assert_complete(tmp_path / "root", source)


def test_another_file_of_that_name_is_kept(release, tmp_path: Path) -> None:
    server, files, _ = release
    path = tmp_path / files[-1].name
    path.write_bytes(b"mine")
    with pytest.raises(InputError, match=path.name):
        download(tmp_path, files[-1:], server.url)
    assert path.read_bytes() == b"mine"
    assert check_files(tmp_path, files[-2:]) == {files[-2].name: "missing", path.name: "differs"}
    assert server.requests == []


def test_the_next_process_continues_after_a_kill(release, tmp_path: Path) -> None:
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
    received, server.slow, server.sent = part.stat().st_size, 0.0, 0
    assert received > 0
    download(root, [file], server.url)
    assert (root / file.name).read_bytes() == (source / file.name).read_bytes()
    assert server.sent == (server.folder / file.remote_name).stat().st_size - received


def test_a_stop_before_the_rename_loses_no_bytes(release, tmp_path: Path, monkeypatch) -> None:
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
    for file, url in (
        (OfficialFile("x_y.h5", 1, "0" * 32), server.url),
        (files[0], "http://127.0.0.1:9/files"),
    ):
        with pytest.raises(InputError, match=f"{url}/{file.remote_name}") as caught:
            download(tmp_path / "root", [file], url)
        assert len(str(caught.value).splitlines()) == 1


def test_too_little_space_is_reported_before_a_request(
    release, tmp_path: Path, monkeypatch
) -> None:
    server, files, _ = release
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(InputError, match=r"0\.00 GB are free"):
        download(tmp_path / "root", files, server.url)
    assert server.requests == []


def test_names_and_digests_equal_those_of_torchvision() -> None:
    spec = importlib.util.find_spec("torchvision")  # not imported, since that takes seconds
    assert spec is not None and spec.origin is not None
    text = (Path(spec.origin).parent / "datasets" / "pcam.py").read_text()
    strings = re.findall(r'"(camelyon\S+h5|[0-9a-f]{32})"', text)
    packed = {file.name: file.packed_md5 for file in official_files() if file.packed_md5}
    assert packed == dict(zip(strings[::2], strings[1::2], strict=True))
    assert len(official_files()) == 9 and len(official_files(["test"])) == 3
    assert len({file.md5 for file in official_files()}) == 9


def test_the_command_checks_and_downloads(release, tmp_path: Path, command, monkeypatch) -> None:
    server, files, source = release
    monkeypatch.setattr(downloads, "official_files", lambda splits=SPLITS: files)
    options = ("root=data", f"url={server.url}")
    code, out, err = command(*options, "check=true", name="download")
    assert code == 1 and out.splitlines()[-1].startswith("summary: ")
    assert "9 of 9 files" in err
    code, out, err = command(*options, name="download")
    assert code == 0, err
    assert out.count("downloaded") == 9
    assert_complete(tmp_path / "data", source)
    with h5py.File(tmp_path / "data" / files[-1].name, "r+") as file:
        file.attrs["touched"] = True
    code, _, err = command(*options, "check=true", name="download")
    assert code == 1 and "1 of 9 files" in err and f"{files[-1].name} (differs)" in err


def test_a_run_downloads_missing_files(release, tmp_path: Path, monkeypatch) -> None:
    server, files, source = release
    monkeypatch.setattr(downloads, "official_files", lambda splits=SPLITS: files)
    monkeypatch.setattr(downloads, "URL", server.url)
    root = tmp_path / "real"
    data = {"root": str(root), "default_root": None, "on_missing": "download", "demo": {}}
    assert find_source(data) == Source("pcam", root)
    assert_complete(root, source)


@pytest.mark.parametrize(
    ("override", "expected"),
    [("splits=[dev]", "splits.0='dev'"), ("url=ftp://x", "url='ftp://x'")],
)
def test_bad_input_is_one_line(command, override: str, expected: str) -> None:
    code, out, err = command(override, name="download")
    assert code == 2 and "summary:" not in out
    (line,) = err.splitlines()
    assert expected in line
