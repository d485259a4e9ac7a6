"""A bundle reads back as it was written; any fault is one line that names the file.

The archives come from `zipfile` and the digests from `hashlib`, not from this package's writer,
where a case needs an archive that the writer would never write.
"""

import hashlib
import io
import json
import os
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from bundle_files import FEATURES, METADATA, THRESHOLD, bundle_files

from pcam_lightning.bundle.archive import write_archive
from pcam_lightning.errors import InputError
from pcam_lightning.files import encode_json
from pcam_lightning.runs.bundle import Bundle


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "model.zip"
    write_archive(path, "model", bundle_files())
    return path


@pytest.fixture
def folder(archive: Path, tmp_path: Path) -> Path:
    zipfile.ZipFile(archive).extractall(tmp_path)
    return tmp_path / "model"


def rejected(path: Path, *words: str) -> None:
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(InputError) as caught:
        Bundle(path)
    text = str(caught.value)
    assert "\n" not in text and path.name in text and all(word in text for word in words), text
    assert sorted(path.parent.rglob("*")) == before


def zip_of(path: Path, members: dict[str, bytes], top: str = "m/", **options) -> Path:
    """Write an archive with a correct SHA256SUMS."""
    sums = "".join(f"{hashlib.sha256(each).hexdigest()}  {n}\n" for n, each in members.items())
    with zipfile.ZipFile(path, "w", **options) as file:
        for name, content in {**members, "SHA256SUMS": sums.encode()}.items():
            file.writestr(top + name, content)
    return path


def test_an_archive_and_its_folder_read_alike(archive: Path, folder: Path) -> None:
    for path in (archive, str(archive), folder):
        bundle = Bundle(path)
        assert bundle.metadata == METADATA
        assert bundle.threshold == THRESHOLD
        assert bundle.features == FEATURES
        assert bundle.weights() == b"weights"
        assert {name: bundle.read(name) for name in bundle.names} == bundle_files()


def test_a_folder_that_was_zipped_again_is_a_bundle(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "again.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for path in [folder, *folder.rglob("*")]:
            file.write(path, path.relative_to(tmp_path))
    assert Bundle(tmp_path / "again.zip").metadata == METADATA


def test_a_used_folder_is_a_bundle(folder: Path) -> None:
    for name in ("__pycache__", ".venv/bin"):
        (folder / name).mkdir(parents=True)
        (folder / name / "a.pyc").write_bytes(b"")
    (folder / "model.sig").write_bytes(b"signature")
    assert Bundle(folder).metadata == METADATA


def test_every_changed_file_is_named(folder: Path) -> None:
    for path in [each for each in folder.rglob("*") if each.is_file()]:
        content = path.read_bytes()
        for place in (0, len(content) // 2, len(content) - 1):
            changed = bytearray(content)
            changed[place] ^= 1
            path.write_bytes(changed)
            rejected(folder, path.name)
        path.unlink()
        rejected(folder, path.name)
        path.write_bytes(content)
    (folder / "extra.txt").write_bytes(b"")
    rejected(folder, "extra.txt")


def test_a_change_after_opening_is_found(folder: Path) -> None:
    bundle = Bundle(folder)
    (folder / "models/model.safetensors").write_bytes(b"Weights")
    with pytest.raises(InputError, match=r"models/model\.safetensors"):
        bundle.weights()
    with pytest.raises(InputError, match=r"no/such"):
        bundle.read("no/such")


@pytest.mark.parametrize("name", ["LICENSE", "models", "SHA256SUMS"])
def test_links_in_a_folder_are_rejected(folder: Path, name: str) -> None:
    (folder / name).rename(folder.parent / "moved")
    (folder / name).symlink_to(folder.parent / "moved")
    rejected(folder, name)


def test_a_pipe_is_rejected_without_waiting(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(folder / "LICENSE2")
    rejected(folder, "LICENSE2")
    os.mkfifo(tmp_path / "pipe.zip")
    rejected(tmp_path / "pipe.zip")


SOUND = {"LICENSE": b"MIT\n", "configs/metadata.json": encode_json(METADATA.model_dump())}


def test_the_cases_below_differ_from_a_sound_archive(tmp_path: Path) -> None:
    assert Bundle(zip_of(tmp_path / "a.zip", SOUND)).features is None


@pytest.mark.parametrize(
    "name",
    ["../x", "/x", "a/../x", "a\\x", "C:x", "a//x", "./x", ".x", "a\nb", "\x1b[1m", "x\0y", "é"],
)
def test_unsafe_names_are_rejected(tmp_path: Path, name: str) -> None:
    for top in ("m/", ""):
        path = zip_of(tmp_path / "a.zip", SOUND)
        with zipfile.ZipFile(path, "a") as file:
            file.writestr(zipfile.ZipInfo("placeholder"), b"")
            file.infolist()[-1].filename = top + name
        rejected(path)


def _symlink(file: zipfile.ZipFile) -> None:
    member = zipfile.ZipInfo("m/link")
    member.create_system, member.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    file.writestr(member, b"/etc/passwd")


def _duplicate(file: zipfile.ZipFile) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("m/LICENSE", b"other")


def _encrypted(file: zipfile.ZipFile) -> None:
    file.writestr("m/secret", b"")
    file.infolist()[-1].flag_bits |= 1


def _bomb(file: zipfile.ZipFile) -> None:
    file.writestr("m/bomb", bytes(64 << 20), zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_symlink, ("m/link", "link")),
        (_duplicate, ("m/LICENSE", "twice")),
        (_encrypted, ("m/secret", "encrypted")),
        (_bomb, ("times its size",)),
        (lambda file: file.writestr("m/license", b""), ("LICENSE", "license")),
        (lambda file: file.writestr("other/x", b""), ("2 folders",)),
        (lambda file: file.writestr("x", b""), ("'x'",)),
        (lambda file: file.writestr("m/x", b"", zipfile.ZIP_BZIP2), ("m/x", "compression")),
        (lambda file: file.writestr("m/extra", b""), ("extra",)),
        (lambda file: setattr(file, "comment", b"comment"), ()),
        (lambda file: [file.writestr(f"m/{i}", b"") for i in range(2001)], ("2000",)),
        (lambda file: [file.writestr(f"m/{i}", b"") for i in range(4001)], ("2000",)),
    ],
)
def test_hostile_archives_are_rejected(
    tmp_path: Path, change: Callable[[zipfile.ZipFile], object], words: tuple[str, ...]
) -> None:
    path = zip_of(tmp_path / "a.zip", SOUND)
    with zipfile.ZipFile(path, "a") as file:
        change(file)
    rejected(path, *words)


def test_a_member_larger_than_declared_is_rejected(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {**SOUND, "big": bytes(1 << 20)}, compression=8)
    content = path.read_bytes()
    declared = content.replace(struct.pack("<L", 1 << 20), struct.pack("<L", 1 << 10))
    assert declared != content
    path.write_bytes(declared)
    rejected(path)


def test_the_record_of_large_archives_is_read_and_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)  # of bytes before the directory
    path = tmp_path / "a.zip"
    write_archive(path, "m", SOUND)
    content = path.read_bytes()
    record = content[-98:]
    assert record.startswith(b"PK\6\6") and Bundle(path).metadata == METADATA
    for place, value in ((32, 10**6), (40, 10**9)):  # number of members, bytes of the directory
        changed = record[:place] + struct.pack("<Q", value) + record[place + 8 :]
        path.write_bytes(content[:-98] + changed)
        rejected(path, "members")
    path.write_bytes(content[:-98] + b"x" + content[-98:])  # the locator points elsewhere
    rejected(path)


def test_overlapping_members_are_rejected(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("m/a", bytes(1 << 16))
        for number in range(20):
            member = zipfile.ZipInfo(f"m/{number}")
            first = file.infolist()[0]
            member.header_offset, member.CRC = first.header_offset, first.CRC
            member.file_size = member.compress_size = first.file_size
            file.filelist.append(member)
    (tmp_path / "a.zip").write_bytes(buffer.getvalue())
    rejected(tmp_path / "a.zip")


def test_what_is_no_archive_is_rejected(archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    rejected(path)
    whole = archive.read_bytes()
    for content in (
        b"",
        b"PK",
        b"text" * 100,
        whole[:-1],
        whole[:-100],
        whole[1000:],
        whole + b"x",
    ):
        path.write_bytes(content)
        rejected(path)
    (tmp_path / "empty").mkdir()
    rejected(tmp_path / "empty", "SHA256SUMS")


def test_no_damage_of_an_archive_is_a_traceback(tmp_path: Path) -> None:
    content = zip_of(tmp_path / "a.zip", SOUND).read_bytes()
    path = tmp_path / "b.zip"
    # Damage in a file is covered above: this is about headers, at both ends of the archive.
    for place in [*range(200), *range(len(content) - 600, len(content))]:
        changed = bytearray(content)
        changed[place] ^= 1 << (place % 8)
        path.write_bytes(changed)
        try:
            bundle = Bundle(path)
        except InputError as error:
            assert "\n" not in str(error)
        else:  # a time or a permission, for example
            assert {name: bundle.read(name) for name in bundle.names} == SOUND


@pytest.mark.parametrize(
    "sums",
    [b"", b"\n", b"00  LICENSE\n", b"\xff", b"A" * 64 + b"  LICENSE\n", b"0" * 64 + b"  ../x\n"],
)
def test_a_damaged_list_of_digests_is_named(folder: Path, sums: bytes) -> None:
    (folder / "SHA256SUMS").write_bytes(sums)
    rejected(folder, "SHA256SUMS")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (encode_json({**METADATA.model_dump(), "format_version": 2}), "format_version=2"),
        (b'{"format_version": 9}', "format_version=9"),
        (encode_json({**METADATA.model_dump(), "format_version": "1"}), "format_version"),
        (encode_json({**METADATA.model_dump(), "tta": "d8"}), "tta"),
        (encode_json({**METADATA.model_dump(), "decision_threshold": None}), "decision_threshold"),
        (encode_json({**METADATA.model_dump(), "commit": "main"}), "commit"),
        (encode_json({**METADATA.model_dump(), "threshold": {"value": 3}}), "threshold"),
        (b'{"task": "x"}', "version"),
        (b"[]", "object"),
        (b"{", "JSON"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "JSON"),
        (b'{"a": "' + bytes([65]) * (17 << 20) + b'"}', "too large"),
        (b'{"temperature": 1e999}', "JSON"),
        (b"\xff\xfe", "JSON"),
    ],
    ids=range(14),
)
def test_damaged_metadata_is_named(tmp_path: Path, content: bytes, word: str) -> None:
    path = zip_of(tmp_path / "a.zip", {"configs/metadata.json": content})
    rejected(path, "configs/metadata.json", word)


def test_missing_metadata_is_named(tmp_path: Path) -> None:
    rejected(zip_of(tmp_path / "a.zip", {"LICENSE": b""}), "configs/metadata.json")


def test_unknown_keys_are_ignored(tmp_path: Path) -> None:
    content = encode_json({**METADATA.model_dump(), "later": {"key": 1}})
    path = zip_of(tmp_path / "a.zip", {"configs/metadata.json": content})
    assert Bundle(path).metadata == METADATA


def test_damaged_features_are_named(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {**SOUND, "configs/features.json": b'{"patches": 0}'})
    with pytest.raises(InputError, match=r"configs/features\.json: "):
        _ = Bundle(path).features


def test_metadata_has_the_keys_of_monai() -> None:
    # https://docs.monai.io/en/stable/mb_specification.html, "metadata.json File"
    written = json.loads(encode_json(METADATA.model_dump()))
    assert written.keys() >= {
        "version", "changelog", "pytorch_version", "numpy_version", "optional_packages_version",
        "task", "description", "authors", "copyright", "network_data_format",
    }  # fmt: skip
    tensors = written["network_data_format"]
    for tensor in (tensors["inputs"]["image"], tensors["outputs"]["probability"]):
        assert tensor.keys() >= {
            "type", "format", "modality", "num_channels", "spatial_shape", "dtype", "value_range",
            "is_patch_data", "channel_def",
        }  # fmt: skip
