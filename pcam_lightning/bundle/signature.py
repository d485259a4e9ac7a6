"""Signature of a bundle's files with a private key, by the optional package model-signing.

Whoever has the public key checks an unpacked bundle without a network:
`model_signing verify key NAME --signature NAME/model.sig --public-key KEY --ignore-paths
NAME/model.sig`.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pcam_lightning.errors import InputError, one_line

EXPECTED = (
    "expected a PEM file of a private elliptic curve key (P-256, P-384 or P-521), unencrypted"
)


def check_key(key: Path) -> None:
    """Check that files can be signed with a private key.

    Raises:
        InputError: model-signing is not installed, or the file holds no such key.
    """
    _signer(key)


def sign_files(top: str, files: Mapping[str, bytes | Path], key: Path) -> bytes:
    """Return the signature of files in a folder, in the format of Sigstore bundles.

    Args:
        top: name of the folder, which becomes the name of the signed model.
        files: contents, or the files that hold them, by their names in the folder.
        key: file of the private key.

    Raises:
        InputError: as in `check_key`.
    """
    signer = _signer(key)
    with tempfile.TemporaryDirectory() as scratch:
        folder, signature = Path(scratch, top), Path(scratch, "signature")
        folder.mkdir()
        for name, content in files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                target.write_bytes(content)
            else:
                _link(content, target)
        signer.sign(folder, signature)
        return signature.read_bytes()


def _signer(key: Path) -> Any:
    try:
        from model_signing import signing
    except ImportError as error:
        raise InputError(
            f"bundle.sign={key}: model-signing cannot be imported ({one_line(error, 120)}), "
            "expected pip install 'pcam-lightning[sign]'"
        ) from None
    try:
        return signing.Config().use_elliptic_key_signer(private_key=key)
    except OSError as error:
        raise InputError(f"bundle.sign={key}: {error.strerror or error}, {EXPECTED}") from None
    except Exception as error:  # cryptography raises many types for other files
        raise InputError(f"bundle.sign={key}: {one_line(error, 120)}; {EXPECTED}") from None


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
