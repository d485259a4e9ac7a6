import hashlib
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import xxhash
from pcam_files import invert_patch, random_split, write_split
from pcam_layouts import declared_datasets, kaggle, packed

from pcam_lightning.data import identity
from pcam_lightning.data.files import SplitFiles, split_files
from pcam_lightning.data.identity import (
    content_digest,
    file_digests,
    fingerprint,
    is_content,
    is_fingerprint,
)
from pcam_lightning.provenance.data import changed_rows
from pcam_lightning.provenance.record import Provenance, differences

LAYOUTS = {
    "contiguous": {},
    "chunked": {"chunks": (3, 50, 96, 3)},
    "gzip": {"chunks": (4, 96, 96, 3), "compression": "gzip", "shuffle": True},
    "big endian": {"dtype": ">u2"},
}


def old_digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_digest_does_not_depend_on_the_layout(tmp_path: Path, layout: str) -> None:
    images, labels = random_split(11)
    write_split(tmp_path, "train", images, labels, **LAYOUTS[layout])
    wide = images.astype("<u2") if layout == "big endian" else images
    head = f"{wide.dtype.str} (11, 96, 96, 3) ".encode()
    expected = xxhash.xxh3_128_hexdigest(head + wide.tobytes())
    assert content_digest(SplitFiles(tmp_path, "train"), "x") == expected


def test_a_digest_depends_on_patches_labels_order_and_dtype(tmp_path: Path) -> None:
    images, labels = random_split(9)
    variants = {
        "one": (images, labels),
        "patch": (np.concatenate([255 - images[:1], images[1:]]), labels),
        "label": (images, ~labels),
        "order": (images[::-1], labels),
        "fewer": (images[:8], labels[:8]),
        "float": (images.astype(np.float32), labels),
    }
    digests = set()
    for name, (pixels, truth) in variants.items():
        write_split(tmp_path / name, "train", pixels, truth)
        files = SplitFiles(tmp_path / name, "train")
        digests.add(tuple(content_digest(files, part) for part in ("x", "y")))
    assert len(digests) == len(variants)


def test_the_second_start_reads_no_data(pcam_root: Path, monkeypatch) -> None:
    before = file_digests(split_files(pcam_root))
    monkeypatch.setattr(identity, "_digest", None)
    assert file_digests(split_files(pcam_root)) == before


def test_digests_of_older_runs_are_recognized(pcam_root: Path) -> None:
    splits = split_files(pcam_root)
    six = [(files, part) for files in splits.values() for part in ("x", "y")]
    old = {files.path(part).name: old_digest(files.path(part)) for files, part in six}
    fingerprint_then = fingerprint(old)
    assert all(is_content(*each, digest) for each, digest in zip(six, old.values(), strict=True))
    assert is_fingerprint(splits, fingerprint_then)
    assert is_fingerprint(splits, fingerprint(file_digests(split_files(pcam_root))))
    invert_patch(splits["train"].images, 3)
    assert not is_fingerprint(splits, fingerprint_then)
    assert not is_content(splits["train"], "x", next(iter(old.values())))


def test_an_older_and_a_current_digest_of_the_same_data_agree(
    pcam_root: Path, tmp_path: Path
) -> None:
    files, other = SplitFiles(pcam_root, "train"), SplitFiles(tmp_path, "train")
    with h5py.File(files.images) as file, h5py.File(other.images, "w") as copy:
        copy.create_dataset("x", data=file["x"][:], compression="gzip")  # type: ignore[index]
    before = files, old_digest(files.images)
    assert changed_rows(before, (other, content_digest(other, "x")), "x") == []
    invert_patch(other.images, 7)
    lines = changed_rows(before, (other, content_digest(other, "x")), "x")
    assert lines[0].startswith("row 7:") and lines[-1].startswith("1 of 48 rows")


def test_changed_rows_are_found_in_files_of_other_names(pcam_root: Path, tmp_path: Path) -> None:
    shutil.copytree(pcam_root, tmp_path / "copy")
    invert_patch(SplitFiles(tmp_path / "copy", "train").images, 7)
    declared_datasets(tmp_path / "copy")
    kaggle(tmp_path / "copy")
    packed(tmp_path / "copy")

    provenances = []
    for root, keys in ((pcam_root, None), (tmp_path / "copy", ["images", "targets"])):
        files = file_digests(split_files(root, keys))
        manifest = {"config": {"data": {"keys": keys}}, "dataset": {"root": root, "files": files}}
        provenances.append(Provenance(manifest, {}, None))
    (found,) = (each for each in differences(provenances) if each.kind == "data")
    assert found.name == "camelyonpatch_level_2_split_train_x.h5"
    assert found.detail[0].startswith("row 7:") and found.detail[-1].startswith("1 of 48 rows")
