"""Golden patches spread over probabilities and labels; their files are exact."""

import csv
import io

import numpy as np
import pytest
from bundle_files import patches_of
from PIL import Image

from pcam_lightning.bundle.golden import choose_golden, golden_files


def test_the_choice_spreads_over_both_labels_and_the_range() -> None:
    generator = np.random.default_rng(0)
    label = generator.integers(0, 2, 5000)
    logit = generator.normal(4 * label - 2, 1.5)
    rows = choose_golden(logit, label)
    assert rows.dtype == np.int64 and len(set(rows)) == 16 and (np.diff(rows) > 0).all()
    assert label[rows].sum() == 8
    probability = 1 / (1 + np.exp(-logit))
    for value in (0, 1):
        chosen, all_of_them = probability[rows][label[rows] == value], probability[label == value]
        assert chosen.min() == all_of_them.min() and chosen.max() == all_of_them.max()
        assert np.diff(np.sort(chosen)).max() < 0.2  # of 1, in 7 steps
    assert (choose_golden(logit.copy(), label.copy()) == rows).all()


@pytest.mark.parametrize(
    ("label", "count", "expected"),
    [
        ([0, 0, 0, 0], 2, [0, 3]),
        ([1, 1, 1, 1], 2, [0, 3]),
        ([1, 0, 0, 0], 3, [0, 1, 3]),
        ([1, 0], 16, [0, 1]),
        ([0, 1, 1, 1], 16, [0, 1, 2, 3]),
        ([0, 1], 1, [0]),
        ([], 16, []),
    ],
)
def test_a_rare_label_is_filled_up_from_the_other(label, count, expected) -> None:
    assert choose_golden(np.arange(len(label)), label, count).tolist() == expected


def test_equal_probabilities_give_the_first_rows() -> None:
    assert choose_golden(np.full(100, 800.0), np.zeros(100), 3).tolist() == [0, 1, 2]


def test_files_hold_the_exact_pixels_and_probabilities() -> None:
    patches = patches_of(3)
    probability = np.array([0.1, 1 / 3, 1e-7], dtype=np.float32)
    files = golden_files(patches, probability)
    assert files == golden_files(patches, probability)
    names = [f"patch_{number:02}.png" for number in range(3)]
    assert sorted(files) == ["golden/expected.csv", *(f"golden/{name}" for name in names)]
    rows = list(csv.DictReader(io.StringIO(files["golden/expected.csv"].decode())))
    assert [row["file"] for row in rows] == names
    # Nine digits determine a float32.
    assert (np.array([row["probability"] for row in rows], np.float32) == probability).all()
    for name, patch in zip(names, patches, strict=True):
        image = Image.open(io.BytesIO(files[f"golden/{name}"]))
        assert image.format == "PNG" and (np.asarray(image) == patch).all()


def test_other_shapes_and_types_are_rejected() -> None:
    patches = patches_of(2)
    cases = [((patches / 255), [0, 1]), (patches, [0]), (patches[0], [0] * 96)]
    for wrong, probability in cases:
        with pytest.raises(ValueError):
            golden_files(wrong, probability)  # type: ignore[arg-type]
