"""A signature verifies with model-signing itself; a changed file fails."""

import os
import sys
import zipfile
from pathlib import Path

import pytest
from bundle_files import bundle_files
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from pcam_lightning.bundle import signature
from pcam_lightning.bundle.archive import write_archive
from pcam_lightning.errors import InputError
from pcam_lightning.runs.bundle import Bundle

hashing = pytest.importorskip("model_signing.hashing")
verifying = pytest.importorskip("model_signing.verifying")
KEY = ec.generate_private_key(ec.SECP256R1())


def private_pem(key, encryption=None) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "private.pem"
    path.write_bytes(private_pem(KEY))
    public = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "public.pem").write_bytes(public)
    return path


def test_a_signed_bundle_verifies_until_a_file_changes(key: Path, tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_bytes(b"MIT\n")
    files = {**bundle_files(), "LICENSE": tmp_path / "LICENSE"}
    write_archive(tmp_path / "a.zip", "model", files, key=key)
    assert (tmp_path / "LICENSE").read_bytes() == b"MIT\n"
    zipfile.ZipFile(tmp_path / "a.zip").extractall(tmp_path)
    folder = tmp_path / "model"
    assert Bundle(folder).names == sorted(files) and Bundle(tmp_path / "a.zip").weights()

    def verify() -> None:
        verifying.Config().use_elliptic_key_verifier(
            public_key=tmp_path / "public.pem"
        ).set_hashing_config(
            hashing.Config().set_ignored_paths(paths=[folder / "model.sig"])
        ).verify(folder, folder / "model.sig")

    verify()
    for name in (*files, "SHA256SUMS"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content + b" ")
        with pytest.raises(ValueError):
            verify()
        (folder / name).write_bytes(content)
    verify()
    (folder / "extra").write_bytes(b"")
    with pytest.raises(ValueError):
        verify()


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"no key",
        private_pem(KEY, BestAvailableEncryption(b"password")),
        private_pem(ec.generate_private_key(ec.SECP256K1())),
        private_pem(rsa.generate_private_key(65537, 2048)),
        KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    ],
    ids=["missing", "empty", "text", "encrypted", "curve", "rsa", "public"],
)
def test_other_keys_are_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "key.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"bundle\.sign=.*key\.pem") as caught:
        signature.check_key(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError):
        write_archive(tmp_path / "a.zip", "model", {"a": b""}, key=path)
    assert "a.zip" not in os.listdir(tmp_path)


def test_a_missing_package_is_one_line(
    key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(InputError, match=r"pip install.*sign") as caught:
        signature.check_key(key)
    assert "\n" not in str(caught.value)
