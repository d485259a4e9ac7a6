import errno
import gzip
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from pcam_files import invert_patch, random_split, write_split
from tqdm import tqdm

from pcam_lightning.audit.scan import scan_split
from pcam_lightning.data.cache import patch_file
from pcam_lightning.data.files import (
    SplitFiles,
    check_split,
    read_labels,
    split_files,
)
from pcam_lightning.data.identity import content_digest, file_digests, fingerprint
from pcam_lightning.data.layout import missing_files
from pcam_lightning.data.scale import sample
from pcam_lightning.data.slides import read_slides
from pcam_lightning.errors import InputError


def test_a_sound_split_is_counted(pcam_root: Path) -> None:
    assert check_split(SplitFiles(pcam_root, "train")) == 48
    assert read_labels(SplitFiles(pcam_root, "train")).tolist() == [1, 0, 0] * 16
    assert missing_files(pcam_root) == []


def test_missing_files_are_named(pcam_root: Path) -> None:
    SplitFiles(pcam_root, "valid").labels.unlink()
    assert [path.name for path in missing_files(pcam_root)] == [
        "camelyonpatch_level_2_split_valid_y.h5"
    ]


def _truncate(files: SplitFiles) -> None:
    files.images.write_bytes(files.images.read_bytes()[:-1000])


def _no_hdf5(files: SplitFiles) -> None:
    files.images.write_bytes(b"<html>Not Found</html>")


def _two_other_datasets(files: SplitFiles) -> None:
    with h5py.File(files.images, "r+") as file:
        file.move("x", "images")
        file["rows"] = np.arange(20)


def _one_label_less(files: SplitFiles) -> None:
    images, labels = random_split(10)
    write_split(files.root, files.split, images, labels[:-1])


def _wrong_size(files: SplitFiles) -> None:
    images, labels = random_split(10)
    write_split(files.root, files.split, images[:, :64, :64], labels)


def _wrong_label(files: SplitFiles) -> None:
    images, _ = random_split(10)
    write_split(files.root, files.split, images, np.array([0, 1, 1, 2, 0, 1, 0, 0, 1, 1]))


def _no_rows(files: SplitFiles) -> None:
    write_split(files.root, files.split, *random_split(0))


def _stored(path: Path, name: str, value: object) -> None:
    with h5py.File(path, "w") as file:
        file[name] = value


def _scalar_labels(files: SplitFiles) -> None:
    _stored(files.labels, "y", np.uint8(1))


def _null_labels(files: SplitFiles) -> None:
    _stored(files.labels, "y", h5py.Empty("uint8"))


def _no_labels(files: SplitFiles) -> None:
    _stored(files.labels, "y", np.empty((0, 1, 1, 1), np.uint8))


def _text_labels(files: SplitFiles) -> None:
    _stored(files.labels, "y", ["tumour", "normal"])


def _scalar_images(files: SplitFiles) -> None:
    _stored(files.images, "x", np.uint8(1))


def _null_images(files: SplitFiles) -> None:
    _stored(files.images, "x", h5py.Empty("uint8"))


def _channels_first_of_another_size(files: SplitFiles) -> None:
    _stored(files.images, "x", np.zeros((10, 3, 64, 64), np.uint8))


def _a_folder(files: SplitFiles) -> None:
    files.images.unlink()
    files.images.mkdir()


def _no_bytes(files: SplitFiles) -> None:
    files.images.write_bytes(b"")


def _a_writer_that_died(files: SplitFiles) -> None:
    program = (
        "import h5py, os, sys; file = h5py.File(sys.argv[1], 'r+', libver='latest');"
        "file['more'] = 1; file.flush(); os._exit(0)"
    )
    with h5py.File(files.images, "w", libver="latest") as file:
        file["x"] = random_split(4)[0]
    subprocess.run([sys.executable, "-c", program, str(files.images)], check=True)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (_truncate, "truncated"),
        (_no_hdf5, "not a valid HDF5 file"),
        (_two_other_datasets, "no dataset 'x' in it, found images, rows"),
        (_one_label_less, "y has 9 labels, expected 10"),
        (_wrong_size, "(10, 64, 64, 3), expected (N, 96, 96, 3)"),
        (_wrong_label, "label 2 in row 3, expected 0 or 1"),
        (_no_rows, "no rows"),
        (_scalar_labels, "y has shape (), expected (N, 1, 1, 1)"),
        (_null_labels, "y has no values, expected (N, 1, 1, 1)"),
        (_no_labels, "y has 0 labels, expected 20"),
        (_text_labels, "expected (N, 1, 1, 1)"),
        (_scalar_images, "x has shape (), expected (N, 96, 96, 3)"),
        (_null_images, "x has no values, expected (N, 96, 96, 3)"),
        (_channels_first_of_another_size, "x has shape (10, 3, 64, 64), expected (N, 96, 96, 3)"),
        (_a_folder, "no such file"),
        (_no_bytes, "not a valid HDF5 file"),
        (_a_writer_that_died, "open for writing"),
    ],
)
def test_a_damaged_split_is_one_clear_line(pcam_root: Path, damage, expected: str) -> None:
    files = SplitFiles(pcam_root, "valid")
    damage(files)
    with pytest.raises(InputError) as caught:
        check_split(files)
    message = str(caught.value)
    assert expected in message and "split_valid_" in message and "\n" not in message
    assert ("truncated" in message) == (damage is _truncate)


def test_a_file_that_is_open_for_writing_elsewhere_is_read(pcam_root: Path) -> None:
    files = SplitFiles(pcam_root, "train")
    program = "import h5py, sys; file = h5py.File(sys.argv[1], 'r+'); print('open'); input()"
    command = [sys.executable, "-u", "-c", program, str(files.images)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as writer:  # type: ignore[call-overload]
        assert writer.stdout is not None and writer.stdout.readline() == "open\n"
        assert check_split(files) == 48
        writer.communicate("\n", timeout=30)


@pytest.mark.parametrize("locking", [None, False])
def test_a_file_that_is_open_in_this_process_is_read(pcam_root: Path, locking) -> None:
    files = SplitFiles(pcam_root, "train")
    with h5py.File(files.images, locking=locking):
        assert check_split(files) == 48


def test_a_file_system_without_locks_is_read(pcam_root: Path, monkeypatch) -> None:
    opened = h5py.File

    def without_locks(path, mode="r", locking=None, **options):
        if locking is not False:
            raise OSError(errno.ENOLCK, "unable to lock file")
        return opened(path, mode, locking=locking, **options)

    monkeypatch.setattr(h5py, "File", without_locks)
    assert check_split(SplitFiles(pcam_root, "train")) == 48


def test_permission_denied_is_the_cause(pcam_root: Path, monkeypatch) -> None:
    files = SplitFiles(pcam_root, "train")

    def denied(*_, **__):
        raise PermissionError(errno.EACCES, "unable to open file")

    monkeypatch.setattr(h5py, "File", denied)  # root may read every file
    with pytest.raises(InputError, match=r"train_x\.h5: permission denied"):
        check_split(files)


@pytest.mark.parametrize(
    "layout", [{}, {"chunks": (7, 3, 96, 96), "compression": "gzip"}, {"dtype": np.float32}]
)
@pytest.mark.parametrize("cache", [True, False])
def test_patches_with_channels_first_are_transposed(tmp_path: Path, layout, cache: bool) -> None:
    images, labels = random_split(20)
    write_split(tmp_path, "train", images.transpose(0, 3, 1, 2), labels, **layout)
    files = SplitFiles(tmp_path, "train")
    assert check_split(files) == 20
    patches = patch_file(files, cache).map()
    np.testing.assert_array_equal(patches[:], images)
    np.testing.assert_array_equal(patches[np.array([3, 17, 4])], images[[3, 17, 4]])
    known = {patch.astype(np.float64).tobytes() for patch in images[:, ::3, ::3]}
    assert {patch.astype(np.float64).tobytes() for patch in sample(files)} <= known
    scan = scan_split(files, tqdm(disable=True))
    np.testing.assert_allclose(scan.mean, images.mean(axis=(1, 2, 3)))
    mean, _ = scan.channels.mean_and_std()
    np.testing.assert_allclose(mean, images.mean(axis=(0, 1, 2)) / 255)
    assert "channels first" in scan.storage["layout"]


def test_a_damaged_chunk_is_one_clear_line(pcam_root: Path) -> None:
    files = SplitFiles(pcam_root, "valid")
    layout = {"chunks": (2, 96, 96, 3), "compression": "gzip"}
    write_split(pcam_root, "valid", *random_split(8), **layout)
    with h5py.File(files.images) as file:
        chunk = file["x"].id.get_chunk_info(1)  # type: ignore[union-attr]
    with files.images.open("r+b") as stream:
        stream.seek(chunk.byte_offset)
        stream.write(bytes(1000))
    for use in (lambda: content_digest(files, "x"), lambda: patch_file(files, cache=False)):
        with pytest.raises(InputError, match=r"valid_x\.h5: rows from \d+ on"):
            use()


def test_the_fingerprint_depends_on_every_patch_and_not_on_the_folder(
    pcam_root: Path, tmp_path: Path
) -> None:
    before = fingerprint(file_digests(split_files(pcam_root)))
    moved = pcam_root.rename(tmp_path / "elsewhere")
    assert fingerprint(file_digests(split_files(moved))) == before
    invert_patch(SplitFiles(moved, "train").images, 7)
    assert fingerprint(file_digests(split_files(moved))) != before


def test_slides_come_from_the_official_meta_file(pcam_root: Path) -> None:
    files = SplitFiles(pcam_root, "test")
    write_split(pcam_root, "test", *random_split(2))
    assert read_slides(files) is None
    files.meta.write_text(
        ",coord_y,coord_x,tumor_patch,center_tumor_patch,wsi\n"
        "0,1,2,True,True,camelyon16_train_normal_033\n1,1,2,True,True,7\n"
    )
    slides = read_slides(files)
    assert slides is not None and slides.tolist() == ["camelyon16_train_normal_033", "7"]
    # As spreadsheets save it: a byte order mark, quotes, lines that end as in Windows.
    files.meta.write_bytes(b'\xef\xbb\xbf"wsi","x"\r\n"a","1"\r\n"b","2"\r\n')
    slides = read_slides(files)
    assert slides is not None and slides.tolist() == ["a", "b"]


def _replace_by(make):
    def replace(path: Path) -> None:
        path.unlink()
        make(path)

    return replace


# Invalid meta files of two patches: slides stay unknown, and one warning names the file.
BAD_META = {
    "no wsi": lambda path: path.write_text("a,b\n1,2\n3,4\n"),
    "too short": lambda path: path.write_text("wsi\n1\n"),
    "too long": lambda path: path.write_text("wsi\n1\n2\n3\n"),
    "a slide is missing": lambda path: path.write_text("a,wsi\n1,x\n2,\n"),
    "a slide is blank": lambda path: path.write_text("a,wsi\n1,x\n2,  \n"),
    "lines of different lengths": lambda path: path.write_text("a,wsi\n1,x\n1,2,3,4,5\n"),
    "a line is cut": lambda path: path.write_text("wsi,a\nx,1\ny"),
    "a quote stays open": lambda path: path.write_text('wsi,a\nx,1\n"y,1\n'),
    "gzip": lambda path: path.write_bytes(gzip.compress(b"wsi\nx\ny\n")),
    "latin-1": lambda path: path.write_bytes("wsi\nKöln\nJülich\n".encode("latin-1")),
    "empty": lambda path: path.write_bytes(b""),
    "a folder": _replace_by(Path.mkdir),
    "a pipe": _replace_by(os.mkfifo),
    "a link to nothing": _replace_by(lambda path: path.symlink_to("nowhere")),
}


@pytest.mark.parametrize("name", BAD_META)
def test_a_bad_meta_file_is_one_warning(tmp_path: Path, caplog, name: str) -> None:
    files = SplitFiles(tmp_path, "test")
    write_split(tmp_path, "test", *random_split(2))
    files.meta.touch()
    BAD_META[name](files.meta)
    assert read_slides(files) is None
    (record,) = caplog.records
    assert record.levelname == "WARNING" and str(files.meta) in record.getMessage()
    assert len(record.getMessage().splitlines()) == 1
