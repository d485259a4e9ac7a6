"""Tests of the selection of example patches."""

import numpy as np
import pandas as pd
import pytest

from pcam_lightning.evaluate.selection import (
    captions,
    center_share,
    format_probability,
    select_examples,
    worst_slice,
)
from pcam_lightning.evaluate.slices import Slice


@pytest.fixture
def table():
    probability = [0.9, 0.1, 0.2, 0.8, 0.95, 0.3, 0.55, 0.2]
    label = [1, 1, 1, 0, 0, 0, 0, 1]
    rows = 10 * np.arange(8)
    return pd.DataFrame({"row": rows, "label": label, "probability": probability})


def test_the_most_confident_errors_come_first(table):
    misses, alarms, uncertain = select_examples(table, 0.5, None, 24)
    assert misses.rows.tolist() == [1, 2, 7]  # ties keep the order of the table
    assert alarms.rows.tolist() == [4, 3, 6]
    assert uncertain.rows.tolist()[:2] == [6, 5]
    assert "of 3 missed" in misses.title and "of 3 false" in alarms.title
    assert [len(each.rows) for each in select_examples(table, 0.5, None, 2)] == [2, 2, 2]


def test_a_probability_equal_to_the_threshold_is_tumour(table):
    misses, alarms, _ = select_examples(table, 0.2, None, 24)
    assert misses.rows.tolist() == [1]
    assert alarms.rows.tolist() == [4, 3, 6, 5]


def test_selections_without_errors_are_empty(table):
    perfect = table.assign(probability=np.where(table["label"] == 1, 0.9, 0.1))
    misses, alarms, _ = select_examples(perfect, 0.5, None, 24)
    assert not len(misses.rows) and not len(alarms.rows)


def test_the_largest_errors_of_the_worst_slice_come_first(table):
    part = Slice("hue", "below 1", np.array([0, 1, 3, 4]))
    selection = select_examples(table, 0.5, part, 3)[-1]
    assert selection.rows.tolist() == [4, 1, 3]
    assert selection.name == "worst_slice" and "hue below 1" in selection.title
    assert len(select_examples(table, 0.5, Slice("hue", "x", np.array([], int)), 3)) == 3


def test_the_worst_slice_has_the_smallest_p_and_then_the_lowest_auroc():
    slices = [Slice("hue", name, np.array([0])) for name in "abc"]
    scored = pd.DataFrame(
        {
            "property": ["", "hue", "hue", "hue"],
            "slice": ["everything", "a", "b", "c"],
            "p": [np.nan, 1.0, np.nan, 1.0],
            "auroc": [0.9, 0.8, 0.1, 0.7],
        }
    )
    found = worst_slice(slices, scored)
    assert found is not None and found.name == "c"
    scored.loc[1, "p"] = 0.2
    found = worst_slice(slices, scored)
    assert found is not None and found.name == "a"
    assert worst_slice(slices, scored.assign(p=np.nan)) is None


def test_captions(table):
    texts = captions(table, np.array([4, 1]))
    assert texts == ["row 40: normal\np(tumour) 0.950", "row 10: tumour\np(tumour) 0.100"]
    assert captions(table.assign(slide="s1"), np.array([0]))[0].endswith("\ns1")


def test_probabilities_are_not_rounded_to_0_or_1():
    assert [format_probability(p) for p in (0.0, 1e-5, 0.25, 0.99999, 1.0)] == [
        "0.000", "< 0.001", "0.250", "> 0.999", "1.000",
    ]  # fmt: skip


def test_center_share():
    maps = np.zeros((3, 96, 96), np.float32)
    maps[0] = 1
    maps[1, 32:64, 32:64] = 2
    share = center_share(maps)
    assert share[:2] == pytest.approx([1 / 9, 1.0]) and np.isnan(share[2])
