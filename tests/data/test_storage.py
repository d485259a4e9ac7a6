"""HDF5 layouts whose values lie in other files, or were never written."""

import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from pcam_files import random_split, write_split
from tqdm import tqdm

from pcam_lightning.audit.scan import scan_split
from pcam_lightning.data.cache import patch_file
from pcam_lightning.data.files import SplitFiles, check_split, open_dataset, read_raw_labels
from pcam_lightning.data.identity import content_digest
from pcam_lightning.errors import InputError

ROWS = 12
IMAGES, LABELS = random_split(ROWS)
SHAPE = IMAGES.shape

Make = Callable[[Path], object]
"""Writer of HDF5 dataset `x` to a path, and of files beside it."""


def h5(path: Path, images: np.ndarray = IMAGES, name: str = "x", **layout) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    with h5py.File(path, "w") as file:
        file.create_dataset(name, data=images, **layout)
    return path


def link(path: Path, target: str, inner: str = "/x") -> None:
    with h5py.File(path, "w") as file:
        file["x"] = h5py.ExternalLink(target, inner)


def virtual(path: Path, *sources: tuple[object, h5py.VirtualSource], shape=SHAPE, **kwargs) -> None:
    layout = h5py.VirtualLayout(shape, np.uint8, **kwargs)
    for rows, source in sources:
        layout[rows] = source
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("x", layout)


def shards(path: Path, *, stored: int = 5) -> None:
    """Write two shards of 7 and 5 rows; the second stores only its first rows."""
    h5(path.parent / "one.h5", IMAGES[:7])
    h5(path.parent / "shards" / "two.h5", IMAGES[7 : 7 + stored], chunks=(1, 96, 96, 3))
    virtual(
        path,
        (slice(0, 7), h5py.VirtualSource("one.h5", "x", (7, 96, 96, 3))),
        (slice(7, 12), h5py.VirtualSource("shards/two.h5", "x", (5, 96, 96, 3))),
    )


def linked(path: Path) -> None:
    h5(path.parent / "all.h5", np.concatenate([255 - IMAGES, IMAGES]), "train_x")
    with h5py.File(path.parent / "all.h5", "r+") as file:
        file.create_dataset("g/inner", data=IMAGES)
    link(path, "all.h5", "/g/inner")


def chain(path: Path) -> None:
    h5(path.parent / "all.h5", name="deep")
    link(path.parent / "middle.h5", "all.h5", "deep")
    with h5py.File(path, "w") as file:
        file["there"] = h5py.ExternalLink("middle.h5", "/")
        file["x"] = h5py.SoftLink("/there/x")


def interleaved(path: Path) -> None:
    h5(path.parent / "even.h5", IMAGES[::2])
    h5(path.parent / "odd.h5", IMAGES[1::2], dtype=np.float32)
    virtual(
        path,
        (slice(0, None, 2), h5py.VirtualSource("even.h5", "x", (6, 96, 96, 3))),
        (slice(1, None, 2), h5py.VirtualSource("odd.h5", "x", (6, 96, 96, 3))),
    )


def channels(path: Path) -> None:
    for channel in range(3):
        h5(path.parent / f"{channel}.h5", IMAGES[..., channel])
    sources = [h5py.VirtualSource(f"{c}.h5", "x", SHAPE[:3]) for c in range(3)]
    virtual(path, *(((..., c), source) for c, source in enumerate(sources)))


def one_file_a_patch(path: Path) -> None:
    for row in range(ROWS):
        h5(path.parent / f"{row}.h5", IMAGES[row])
    sources = [h5py.VirtualSource(f"{row}.h5", "x", SHAPE[1:]) for row in range(ROWS)]
    virtual(path, *enumerate(sources))


def endless(path: Path) -> None:
    h5(path.parent / "growing.h5", maxshape=(None, *SHAPE[1:]))
    source = h5py.VirtualSource("growing.h5", "x", SHAPE, maxshape=(None, *SHAPE[1:]))
    every = slice(0, h5py.h5s.UNLIMITED)
    virtual(path, (every, source[every]), maxshape=(None, *SHAPE[1:]))


def nested(path: Path) -> None:
    shards(path.parent / "inner.h5")
    virtual(path, (slice(None), h5py.VirtualSource("inner.h5", "x", SHAPE)))


SOUND: dict[str, Make] = {
    "contiguous": h5,
    "user block": lambda path: _user_block(path),
    "link": linked,
    "absolute link": lambda path: link(path, str(h5(path.parent / "all.h5"))),
    "chain of links": chain,
    "shards": shards,
    "rows of two files in turn": interleaved,
    "a file for each channel": channels,
    "a file for each patch": one_file_a_patch,
    "endless source": endless,
    "virtual of virtual": nested,
}


def _user_block(path: Path) -> None:
    with h5py.File(path, "w", userblock_size=512) as file:
        file["x"] = IMAGES


def split_of(root: Path, make: Make) -> SplitFiles:
    write_split(root, "train", IMAGES, LABELS)
    files = SplitFiles(root, "train")
    files.images.unlink()
    make(files.images)
    return files


@pytest.mark.parametrize("case", SOUND)
def test_the_bytes_equal_those_that_h5py_reads(tmp_path: Path, case: str) -> None:
    files = split_of(tmp_path / "data", SOUND[case])
    with h5py.File(files.images) as file:
        expected = np.asarray(file["x"])
    np.testing.assert_array_equal(expected, IMAGES)
    assert check_split(files) == ROWS
    np.testing.assert_array_equal(patch_file(files).map(), IMAGES)
    np.testing.assert_array_equal(patch_file(files, cache=False).map()[:], IMAGES)
    plain = SplitFiles(tmp_path / "plain", files.split)
    h5(plain.images, dtype=expected.dtype)
    assert content_digest(files, "x") == content_digest(plain, "x")


@pytest.mark.parametrize("case", ["chain of links", "virtual of virtual"])
def test_a_change_behind_a_link_changes_the_identity(tmp_path: Path, case: str) -> None:
    files = split_of(tmp_path, SOUND[case])
    before = content_digest(files, "x")
    np.testing.assert_array_equal(patch_file(files).map(), IMAGES)
    (source,) = (path for path in tmp_path.glob("*.h5") if path.name in ("all.h5", "one.h5"))
    with h5py.File(source, "r+") as file:
        dataset = next(file[name] for name in ("deep", "x") if name in file)
        assert isinstance(dataset, h5py.Dataset)
        dataset[3:4] = 255 - IMAGES[3:4]
    assert content_digest(files, "x") != before
    np.testing.assert_array_equal(patch_file(files).map()[3:4][0], 255 - IMAGES[3])


def never(path: Path, **layout) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", SHAPE, np.uint8, **layout)


def grown(path: Path, written: int = 6) -> None:
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset(
            "x", (written, 96, 96, 3), np.uint8, chunks=(2, 96, 96, 3), maxshape=(None, 96, 96, 3)
        )
        dataset[:] = IMAGES[:written]
        dataset.resize(ROWS, axis=0)


def half_rows(path: Path) -> None:
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("x", SHAPE, np.uint8, chunks=(1, 48, 96, 3))
        dataset[:] = IMAGES
        dataset = file.create_dataset("y", SHAPE, np.uint8, chunks=(1, 48, 96, 3))
        dataset[:, :48] = IMAGES[:, :48]
        dataset[:4] = IMAGES[:4]
        del file["x"]
        file.move("y", "x")


def without(name: str, make: Make = shards) -> Make:
    def missing(path: Path) -> None:
        make(path)
        (path.parent / name).unlink()

    return missing


def gap(path: Path) -> None:
    h5(path.parent / "one.h5")
    virtual(path, (slice(0, 7), h5py.VirtualSource("one.h5", "x", SHAPE)[:7]))


def other_name(path: Path) -> None:
    shards(path)
    with h5py.File(path.parent / "one.h5", "r+") as file:
        file.move("x", "other")


UNWRITTEN: dict[str, tuple[Make, int]] = {
    "created and never written": (never, 12),
    "chunks, never written": (lambda path: never(path, chunks=(5, 96, 96, 3)), 12),
    "resized": (grown, 6),
    "half of each patch": (half_rows, 8),
    "shard missing": (without("one.h5"), 7),
    "shard of a shard missing": (without("one.h5", nested), 7),
    "shard too short": (lambda path: shards(path, stored=3), 2),
    "shard without x": (other_name, 7),
    "no shard for the last rows": (gap, 5),
    "channel missing": (without("1.h5", channels), 12),
    "patch missing": (without("4.h5", one_file_a_patch), 1),
}


@pytest.mark.parametrize("case", UNWRITTEN)
def test_patches_without_data_are_counted_and_rejected(tmp_path: Path, case: str) -> None:
    make, count = UNWRITTEN[case]
    files = split_of(tmp_path, make)
    for use in (check_split, patch_file, lambda files: scan_split(files, tqdm(disable=True))):
        with pytest.raises(InputError) as caught:
            use(files)
        message = str(caught.value)
        assert f"{count} of 12 patches" in message and files.images.name in message
        assert "\n" not in message


def test_black_patches_that_were_written_are_data(tmp_path: Path) -> None:
    def black(path: Path) -> None:
        h5(path, np.zeros_like(IMAGES), chunks=(5, 48, 96, 3))

    assert check_split(split_of(tmp_path, black)) == ROWS


def test_labels_that_were_never_written_are_rejected(tmp_path: Path) -> None:
    files = split_of(tmp_path, h5)
    with h5py.File(files.labels, "w") as file:
        file.create_dataset("y", (ROWS, 1, 1, 1), np.uint8)
    with pytest.raises(InputError, match=r"_y\.h5: 12 of 12 labels"):
        check_split(files)


def test_a_shard_that_arrives_is_detected(tmp_path: Path) -> None:
    files = split_of(tmp_path, without("one.h5"))
    with pytest.raises(InputError, match="7 of 12"):
        check_split(files)
    h5(tmp_path / "one.h5", IMAGES[:7])
    assert check_split(files) == ROWS


def outside(path: Path) -> Path:
    """Write a valid file outside of the data set's folder."""
    return h5(path.parent.parent / "private" / "secret.h5")


def external_storage(path: Path) -> None:
    secret = path.parent / "secret.bin"
    secret.write_bytes(bytes(IMAGES.nbytes))
    with h5py.File(path, "w") as file:
        file.create_dataset("x", SHAPE, np.uint8, external=[(str(secret), 0, IMAGES.nbytes)])


def external_storage_of_source(path: Path) -> None:
    external_storage(path.parent / "stored.h5")
    virtual(path, whole("stored.h5"))


def symlinked(path: Path) -> None:
    (path.parent / "all.h5").symlink_to(outside(path))
    link(path, "all.h5")


def source_behind_link(path: Path) -> None:
    link(path.parent / "inner.h5", os.path.relpath(outside(path), path.parent))
    virtual(path, (slice(None), h5py.VirtualSource("inner.h5", "x", SHAPE)))


def circle(path: Path) -> None:
    link(path.parent / "other.h5", path.name)
    link(path, "other.h5")


def virtual_circle(path: Path) -> None:
    virtual(path.parent / "other.h5", (slice(None), h5py.VirtualSource(path.name, "x", SHAPE)))
    virtual(path, (slice(None), h5py.VirtualSource("other.h5", "x", SHAPE)))


def whole(name: str) -> tuple[slice, h5py.VirtualSource]:
    return slice(None), h5py.VirtualSource(name, "x", SHAPE)


def pattern(path: Path) -> None:
    source = h5py.VirtualSource("part%b.h5", "x", (1, *SHAPE[1:]))
    every = slice(0, h5py.h5s.UNLIMITED)
    virtual(path, (every, source), maxshape=(None, *SHAPE[1:]))


FOREIGN: dict[str, Make] = {
    "link": lambda path: link(path, f"../private/{outside(path).name}"),
    "absolute link": lambda path: link(path, str(outside(path))),
    "link by a symbolic link": symlinked,
    "link to a device": lambda path: link(path, "/dev/zero"),
    "links in a circle": circle,
    "virtual": lambda path: virtual(path, whole(f"../private/{outside(path).name}")),
    "virtual behind a link": source_behind_link,
    "virtual by a pattern": pattern,
    "virtual in a circle": virtual_circle,
    "virtual of itself": lambda path: virtual(path, whole(".")),
    "external storage": external_storage,
    "external storage of a source": external_storage_of_source,
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_file_cannot_name_files_of_other_folders(tmp_path: Path, case: str) -> None:
    files = split_of(tmp_path / "data", FOREIGN[case])
    with pytest.raises(InputError) as caught, open_dataset(files, "x"):
        pass
    assert str(tmp_path / "data") in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(InputError):
        patch_file(files)


def many_labels(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("y", (3 * 10**9, 1, 1, 1), np.uint8, chunks=(10**6, 1, 1, 1))


def one_huge_chunk(path: Path) -> None:
    with h5py.File(path, "w") as file:
        shape = {"maxshape": (None, 1, 1, 1), "chunks": (4 * 10**9, 1, 1, 1)}
        file.create_dataset("y", (ROWS, 1, 1, 1), np.uint8, compression="gzip", **shape)


def no_rows(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["y"] = np.uint8(1)


def null(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["y"] = h5py.Empty("u1")


def twice_as_many(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("y", (2 * ROWS, 1), np.uint8, chunks=(1, 1))


@pytest.mark.parametrize("make", [many_labels, one_huge_chunk, no_rows, null, twice_as_many])
def test_labels_are_not_read_before_their_number_is_right(
    tmp_path: Path, monkeypatch, make: Make
) -> None:
    files = split_of(tmp_path, h5)
    make(files.labels)
    monkeypatch.setattr("pcam_lightning.data.files.read_rows", None)
    for read in (check_split, read_raw_labels):
        with pytest.raises(InputError, match=r"_y\.h5"):
            read(files)


def test_too_many_rows_are_rejected(tmp_path: Path) -> None:
    files = split_of(tmp_path, lambda path: None)
    with h5py.File(files.images, "w") as file:
        file.create_dataset("x", (3 * 10**9, 96, 96, 3), np.uint8, chunks=(1, 96, 96, 3))
    with pytest.raises(InputError, match="3000000000 rows"):
        check_split(files)
