"""`predict.py` of an unpacked bundle reads the pixels that this package reads."""

import csv
import io
import runpy
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from bundle_files import bundle_files, patches_of, predict
from PIL import Image

from pcam_lightning.bundle.archive import TRAVEL, write_archive
from pcam_lightning.data.images import read_image
from pcam_lightning.errors import InputError
from pcam_lightning.runs.tables import spreadsheet_cell

NOISE = patches_of(2, seed=1)


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    write_archive(folder / "a.zip", "model", bundle_files())
    zipfile.ZipFile(folder / "a.zip").extractall(folder)
    return folder / "model/predict.py"


@pytest.fixture
def run(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd):
    """Call the script; returns exit code, rows of predictions.csv if written, and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # restored afterwards

    def call(*arguments: str, output: str = "predictions.csv"):
        monkeypatch.setattr(sys, "argv", ["predict.py", *arguments])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(script), run_name="__main__")
        rows = None
        if Path(output).exists():
            rows = list(csv.DictReader(io.StringIO(Path(output).read_text())))
        return int(stop.value.code or 0), rows, capfd.readouterr().err

    return call


def test_files_and_folders_are_predicted(run, tmp_path: Path) -> None:
    large = np.full((200, 301, 3), 255, np.uint8)
    large[52:148, 102:198] = NOISE[1]
    (tmp_path / "in/sub/.hidden").mkdir(parents=True)
    Image.fromarray(NOISE[0]).save("in/b.PNG")
    Image.fromarray(large).save("in/sub/a.tif")
    Image.fromarray(NOISE[0]).save("in/sub/.hidden/c.png")
    Image.fromarray(NOISE[0]).save("in/.d.png")
    (tmp_path / "in/notes.txt").write_text("")
    Image.fromarray(NOISE[0]).save("one.png")
    for batch in ("1", "2", "64"):
        code, rows, err = run("in", "one.png", "--batch", batch)
        assert (code, err) == (0, "")
        assert [row["file"] for row in rows] == ["in/b.PNG", "in/sub/a.tif", "one.png"]
        expected = predict(NOISE[[0, 1, 0]])
        assert [float(row["probability"]) for row in rows] == pytest.approx(expected, abs=1e-6)
    decisions = {}
    for threshold in ("0", "0.5", "1.1", None):
        given = ["--threshold", threshold] if threshold else []
        _, rows, _ = run("one.png", *given, "--output", "o.csv", output="o.csv")
        decisions[threshold] = rows[0]["decision"]
    tumour = "tumour" if expected[0] >= 0.5 else "normal"  # the bundle's threshold is 0.5
    assert decisions == {"0": "tumour", "0.5": tumour, "1.1": "normal", None: tumour}


def test_unreadable_files_are_listed_and_the_rest_is_predicted(run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(NOISE[0]).save("in/a.png")
    Image.fromarray(NOISE[0][:95]).save("in/small.png")
    (tmp_path / "in/text.png").write_text("no image")
    (tmp_path / "in/gone.png").symlink_to("nowhere")
    whole = (tmp_path / "in/a.png").read_bytes()
    (tmp_path / "in/cut.png").write_bytes(whole[: len(whole) // 2])
    code, rows, err = run("in")
    assert code == 1 and [row["file"] for row in rows] == ["in/a.png"]
    lines = err.splitlines()
    assert len(lines) == 4
    for name in ("small.png", "text.png", "gone.png", "cut.png"):
        assert sum(name in line for line in lines) == 1


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "path"),
        (["nowhere"], "nowhere"),
        (["empty"], "empty"),
        (["empty", "--batch", "0"], "--batch"),
        (["empty", "--threshold", "nan"], "--threshold"),
        (["empty", "--threshold", "-1"], "--threshold"),
        (["a.png", "--output", "no/such/folder.csv"], "no/such/folder.csv"),
    ],
)
def test_wrong_arguments_exit_with_2(run, tmp_path: Path, arguments, word: str) -> None:
    (tmp_path / "empty").mkdir()
    Image.fromarray(NOISE[0]).save("a.png")
    code, rows, err = run(*arguments)
    assert code == 2 and rows is None and word in err.splitlines()[-1]


def test_names_that_look_like_formulas_are_escaped_alike(run, tmp_path: Path) -> None:
    names = ["=a.png", "+a.png", "-a.png", "@a.png", "\ta.png", "a,b.png", 'a"b.png', "a\n=b.png"]
    for name in [*names, "a\r=b.png"]:
        Image.fromarray(NOISE[0]).save(tmp_path / name)
    code, rows, _ = run("--", *names)
    assert code == 0
    assert [row["file"] for row in rows] == [spreadsheet_cell(name) for name in names]
    escape = runpy.run_path(str(TRAVEL / "predict.py"))["spreadsheet_cell"]
    for cell in ("\ra", "\r", "-0.5", "+1e5", "-inf", "1", "", "a=1", "==1"):
        assert escape(cell) == spreadsheet_cell(cell)
    # A csv reader takes a carriage return without quotes for the end of a row.
    _, rows, _ = run("a\r=b.png")
    assert [row["file"] for row in rows] == ["a\\r=b.png"]


def test_a_name_that_is_not_utf8_is_written(run, tmp_path: Path) -> None:
    Image.fromarray(NOISE[0]).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a\udcff.png")
    code, rows, _ = run("a\udcff.png")
    assert code == 0 and [row["file"] for row in rows] == ["a?.png"]


RGB = Image.fromarray(NOISE[0])


def _alpha(value: int, mode: str = "RGBA") -> Image.Image:
    image = RGB.convert(mode)
    image.putalpha(value)
    return image


def _palette(transparency: int | bytes | None = None) -> tuple[Image.Image, dict]:
    """Return an image with the colors 0 to 3, and a transparent color or the alpha of each."""
    image = Image.fromarray((np.arange(96 * 96) % 4).reshape(96, 96).astype(np.uint8)).convert("P")
    return image, {} if transparency is None else {"transparency": transparency}


def _sixteen_bits(channels: int) -> bytes:
    """Return a PNG of 16 bits a channel, which Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data))
        )

    kind = {1: 0, 3: 2, 4: 6}[channels]
    header = struct.pack(">LLBBBBB", 96, 96, 16, kind, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + bytes(96 * channels * 2) for _ in range(96)))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def _bomb(width: int, height: int) -> bytes:
    content = _sixteen_bits(3)
    header = b"IHDR" + struct.pack(">LLBBBBB", width, height, 8, 2, 0, 0, 0)
    return content[:12] + header + struct.pack(">L", zlib.crc32(header)) + content[33:]


def _rotated() -> tuple[Image.Image, dict]:
    exif = Image.Exif()
    exif[0x0112] = 6
    return Image.fromarray(NOISE[0][:, :90]), {"exif": exif}


IMAGES = {
    "rgb.png": RGB,
    "rgb.tif": RGB,
    "rgb.jpg": RGB,
    "gray.png": RGB.convert("L"),
    "gray.jpg": RGB.convert("L"),
    "gray.tif": RGB.convert("L"),
    "bits.png": RGB.convert("1"),
    "bits.tif": RGB.convert("1"),
    "palette.png": _palette(),
    "palette.tif": _palette(),
    "palette_unused_alpha.png": _palette(200),
    "palette_alpha.png": _palette(3),
    "palette_alphas.png": _palette(b"\xff\xff\xff\x80"),
    "palette_opaque.png": _palette(b"\xff\xff\xff\xff"),
    "gray_key.png": (Image.new("L", (96, 96), 7), {"transparency": 7}),
    "gray_other_key.png": (Image.new("L", (96, 96), 7), {"transparency": 8}),
    "rgb_key.png": (Image.new("RGB", (96, 96), (1, 2, 3)), {"transparency": (1, 2, 3)}),
    "opaque.png": _alpha(255),
    "opaque.tif": _alpha(255),
    "opaque_gray.png": _alpha(255, "L"),
    "half.png": _alpha(128),
    "half.tif": _alpha(128),
    "half_gray.png": _alpha(128, "L"),
    "almost.png": _alpha(254),
    "cmyk.jpg": RGB.convert("CMYK"),
    "cmyk.tif": RGB.convert("CMYK"),
    "lab.tif": RGB.convert("LAB"),
    "float.tif": RGB.convert("F"),
    "int32.tif": RGB.convert("I"),
    "int16.tif": Image.fromarray(np.zeros((96, 96), np.uint16)),
    "int16.png": Image.fromarray(np.zeros((96, 96), np.uint16)),
    "sixteen1.png": _sixteen_bits(1),
    "sixteen3.png": _sixteen_bits(3),
    "sixteen4.png": _sixteen_bits(4),
    "rotated.jpg": _rotated(),
    "rotated.tif": _rotated(),
    "rotated.png": _rotated(),
    "pages.tif": (RGB, {"save_all": True, "append_images": [RGB]}),
    "animated.png": (RGB, {"save_all": True, "append_images": [RGB.rotate(90)]}),
    "rgb.bmp": RGB,
    "rgb.gif": RGB,
    "rgb.webp": RGB,
    "text.png": b"text",
    "empty.png": b"",
    "header.png": _bomb(96, 96)[:20],
    "bomb.png": _bomb(2**14, 2**14),
    "over_limit.png": _bomb(2**14, 2**13 + 1),
    "wide.png": _bomb(2**31 - 1, 1),
}
"""Content, or an image and the options to save it with, by file name."""


def write_case(name: str, folder: Path) -> Path:
    path, content = folder / name, IMAGES[name]
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        image, options = content if isinstance(content, tuple) else (content, {})
        image.save(path, **options)
    return path


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_both_readers_agree(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_case(name, tmp_path)
    try:
        expected = read_image(path)
    except InputError:
        expected = None
    with monkeypatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # restored afterwards
        read = runpy.run_path(str(TRAVEL / "predict.py"))["read_image"]
        try:
            found = read(path)
        except Exception:
            found = None
    assert (found is None) == (expected is None)
    if expected is not None and found is not None:
        assert found.dtype == expected.dtype and np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("name", "readable"),
    [
        ("rgb.png", True), ("opaque.tif", True), ("palette_opaque.png", True), ("bits.tif", True),
        ("palette_alpha.png", False), ("almost.png", False), ("sixteen3.png", False),
        ("cmyk.jpg", False), ("pages.tif", False), ("over_limit.png", False),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_table_has_both_kinds(name: str, readable: bool, tmp_path: Path) -> None:
    path = write_case(name, tmp_path)
    if readable:
        read_image(path)
    else:
        with pytest.raises(InputError):
            read_image(path)
