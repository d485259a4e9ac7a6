import csv
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from pcam_lightning.data import patch_features
from pcam_lightning.data.demo.generate import DemoOptions, ensure_demo
from pcam_lightning.data.demo.slides import OUT_OF_FOCUS, THIRD_LABORATORY
from pcam_lightning.data.files import SPLITS, SplitFiles, check_split
from pcam_lightning.errors import InputError

pytestmark = pytest.mark.xdist_group("demo")  # one process has the fixtures

SMALL = DemoOptions(train=96, valid=48, test=40)
ROWS = {"train": 96, "valid": 48, "test": 40}


def read(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    files = SplitFiles(folder, split)
    with h5py.File(files.images) as images, h5py.File(files.labels) as labels:
        return np.asarray(images["x"]), np.asarray(labels["y"])


def content(folder: Path) -> dict[str, bytes]:
    """Return the contents of a demo set's files by name; readers keep hidden files beside them."""
    files = (path for path in folder.iterdir() if not path.name.startswith("."))
    return {path.name: path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def demo(parent: Path) -> Path:
    return ensure_demo(parent, SMALL)


def test_the_files_have_the_official_format(demo: Path) -> None:
    for split in SPLITS:
        images, labels = read(demo, split)
        assert images.shape == (ROWS[split], 96, 96, 3) and images.dtype == np.uint8
        assert labels.shape == (ROWS[split], 1, 1, 1) and labels.dtype == np.uint8
        assert check_split(SplitFiles(demo, split)) == ROWS[split]
        meta = pd.read_csv(SplitFiles(demo, split).meta, index_col=0)
        assert list(meta) == ["coord_y", "coord_x", "tumor_patch", "center_tumor_patch", "wsi"]
        assert meta["center_tumor_patch"].astype(int).tolist() == labels.ravel().tolist()
        anywhere = meta["tumor_patch"].to_numpy()
        assert np.all(anywhere[labels.ravel() == 1]) and np.any(anywhere[labels.ravel() == 0])


def test_no_slide_is_in_two_splits_and_nothing_is_damaged(demo: Path) -> None:
    assert not faults(demo)
    slides = [set(pd.read_csv(SplitFiles(demo, split).meta)["wsi"]) for split in SPLITS]
    assert sum(map(len, slides)) == len(set.union(*slides))


def test_the_seed_determines_every_byte(demo: Path, tmp_path: Path) -> None:
    assert content(ensure_demo(tmp_path, SMALL)) == content(demo)
    other = read(ensure_demo(tmp_path, replace(SMALL, seed=1)), "train")[0]
    assert (other != read(demo, "train")[0]).any(axis=(1, 2, 3)).all()


def test_floats_hold_the_same_pixels(demo: Path, parent: Path) -> None:
    folder = ensure_demo(parent, replace(SMALL, dtype="float32"))
    assert folder != demo
    images, labels = read(folder, "valid")
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images, read(demo, "valid")[0])
    np.testing.assert_array_equal(labels, read(demo, "valid")[1])


def faults(folder: Path) -> Counter:
    """Find the faults in a folder without the list of planted ones: (split, row, kind)."""
    found, seen = [], defaultdict(list)
    for split in SPLITS:
        images, labels = read(folder, split)
        for row, (image, label) in enumerate(zip(images, labels.ravel(), strict=True)):
            if np.isnan(image).any():
                found.append((split, row, "nan_pixels"))
            if np.isinf(image).any():
                found.append((split, row, "infinity"))
            finite = image[np.isfinite(image)]
            if finite.min() < 0 or finite.max() > 255:
                found.append((split, row, "out_of_range"))
            elif finite.mean() <= 1:
                found.append((split, row, "black"))
            elif finite.mean() >= 254:
                found.append((split, row, "white"))
            seen[image.tobytes()].append((split, row, int(label)))
    for (first, a, x), (second, b, y) in (twins for twins in seen.values() if len(twins) > 1):
        kind = "contradiction" if x != y else "duplicate"
        kind = "cross_split_duplicate" if first != second else kind
        found.append((frozenset([(first, a), (second, b)]), kind))
    return Counter(found)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_an_independent_scan_finds_the_planted_damage_and_nothing_else(
    parent: Path, dtype: str
) -> None:
    folder = ensure_demo(parent, replace(SMALL, dtype=dtype, damage=True))
    planted = []
    with (folder / "demo_damage.csv").open(newline="") as file:
        for fault in csv.DictReader(file):
            if "near" in fault["kind"]:
                continue  # tests/audit/test_faults.py
            place = (fault["split"], int(fault["row"]))
            if ":" in fault["value"]:
                split, row = fault["value"].split(":")
                planted.append((frozenset([place, (split, int(row))]), fault["kind"]))
            else:
                planted.append((*place, fault["kind"]))
    assert faults(folder) == Counter(planted)
    kinds = {fault[-1] for fault in planted}
    blank_and_copies = {"black", "white", "duplicate", "contradiction", "cross_split_duplicate"}
    assert kinds == blank_and_copies | (
        {"nan_pixels", "infinity", "out_of_range"} if dtype == "float32" else set()
    )


@pytest.fixture(scope="module")
def large(parent: Path) -> Path:
    return ensure_demo(parent, DemoOptions(train=1024, valid=192, test=320))


def test_color_says_little_about_the_label(large: Path) -> None:
    def colors(part: slice, *splits: str) -> tuple[np.ndarray, np.ndarray]:
        files = [read(large, split) for split in splits]
        means = [images[:, part, part].mean(axis=(1, 2)) / 255 for images, _ in files]
        return np.concatenate(means), np.concatenate([labels.ravel() for _, labels in files])

    for part, highest in ((slice(None), 0.6), (slice(32, 64), 0.75)):
        model = LogisticRegression(C=100).fit(*colors(part, "train"))
        means, labels = colors(part, "valid", "test")
        assert roc_auc_score(labels, model.decision_function(means)) < highest
    assert 0.4 < read(large, "train")[1].mean() < 0.6


@pytest.fixture(scope="module")
def slides(large: Path) -> pd.DataFrame:
    """Return one row per slide: its split, share of tumour, sharpness and stain of nuclei."""
    rows = []
    for split in SPLITS:
        images, labels = read(large, split)
        meta = pd.read_csv(SplitFiles(large, split).meta)
        for places in meta.groupby("wsi").indices.values():
            features = patch_features.compute(images[places])
            # The darkest pixels in red light are nuclei.
            density = -np.log((images[places].reshape(-1, 3) + 1.0) / 256)
            nuclei = density[density[:, 0] > np.quantile(density[:, 0], 0.8)].mean(axis=0)
            look = {name: features[name].mean() for name in ("brightness", "sharpness")}
            look |= {"red_to_green": nuclei[0] / nuclei[1], "tumour": labels[places].mean()}
            rows.append({"split": split} | look)
    return pd.DataFrame(rows)


def test_the_look_of_a_slide_says_little_about_its_share_of_tumour(slides: pd.DataFrame) -> None:
    train = slides["split"].to_numpy() == "train"
    share = slides["tumour"].to_numpy()[train]
    assert share.min() < 0.4 and share.max() > 0.6
    for name in ("brightness", "sharpness"):
        assert abs(np.corrcoef(rankdata(slides[name].to_numpy()[train]), share)[0, 1]) < 0.35


def test_some_slides_of_each_split_are_out_of_focus(slides: pd.DataFrame) -> None:
    for split in SPLITS:
        sharpness = np.sort(slides["sharpness"].to_numpy()[slides["split"] == split])
        blurred = OUT_OF_FOCUS[split] + THIRD_LABORATORY[split]
        assert blurred and sharpness[blurred - 1] < 0.85 * sharpness[blurred]


def test_the_stain_of_a_third_laboratory_is_in_the_test_split_only(slides: pd.DataFrame) -> None:
    split, color, sharpness = (
        slides[name].to_numpy() for name in ("split", "red_to_green", "sharpness")
    )
    outside = color > 1.03 * color[split == "train"].max()
    assert split[outside].tolist() == ["test"] * THIRD_LABORATORY["test"]
    assert sharpness[outside].max() < np.median(sharpness[split == "test"])


def test_the_smallest_damaged_set_has_room_for_all_faults(tmp_path: Path) -> None:
    options = DemoOptions(train=28, valid=28, test=28, dtype="float32", damage=True)
    folder = ensure_demo(tmp_path, options)
    for split in SPLITS:
        meta = pd.read_csv(SplitFiles(folder, split).meta)
        assert (
            meta["center_tumor_patch"].astype(int).tolist()
            == read(folder, split)[1].ravel().tolist()
        )


@pytest.mark.parametrize(
    "options",
    [{"train": 15}, {"test": 27, "damage": True}, {"seed": -1}, {"dtype": "float16"}],
    ids=lambda value: str(value),
)
def test_invalid_options_are_rejected(options: dict) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        DemoOptions(**options)


def test_processes_that_start_together_generate_it_once(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from pcam_lightning.data.demo import generate as demo\n"
        "write = demo.write_demo\n"
        "def counted(folder, options): print('made'); write(folder, options)\n"
        "demo.write_demo = counted\n"
        "print(demo.ensure_demo(Path(sys.argv[1]), demo.DemoOptions(0, 32, 16, 16)))\n"
    )
    draft = tmp_path / f".{DemoOptions(0, 32, 16, 16).folder_name}.draft"
    draft.mkdir()
    (draft / "left_by_a_kill").touch()
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    printed = [process.communicate(timeout=120)[0].split() for process in started]
    assert sum(lines.count("made") for lines in printed) == 1
    (folder,) = {lines[-1] for lines in printed}
    assert not draft.exists()
    assert len(list(Path(folder).iterdir())) == 9
