"""Tests of slices: cut points, metrics with intervals, and which slices are flagged."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from pcam_lightning.data.patch_features import FEATURES
from pcam_lightning.errors import InputError
from pcam_lightning.evaluate.slices import MIN_CLASS, WHOLE, cut, holm, score_slices
from pcam_lightning.metrics.intervals import metric_intervals
from pcam_lightning.metrics.metrics import METRICS, compute_metrics
from pcam_lightning.metrics.predictions import sigmoid


def random_table(rows=800, slides=0, seed=0) -> Any:
    generator = np.random.default_rng(seed)
    label = generator.integers(2, size=rows)
    logit = generator.normal(2.0 * label - 1, 1.0)
    table = pd.DataFrame({"row": np.arange(rows), "label": label, "logit": logit})
    table["probability"] = sigmoid(logit)
    if slides:
        table["slide"] = [f"slide_{i:02d}" for i in generator.integers(slides, size=rows)]
    for name in FEATURES:
        table[name] = generator.random(rows).astype(np.float32)
    return table


def named(scored: Any, name, of="slice") -> Any:
    return scored.loc[scored[of] == name].iloc[0]


def test_features_are_cut_at_the_percentiles_of_the_reference():
    table, reference = random_table(), random_table(seed=1)
    reference["brightness"] = np.linspace(0, 1, len(reference))
    slices = [each for each in cut(table, reference, {}) if each.property == "brightness"]
    assert [each.name for each in slices] == ["below 0.1", "0.1 to 0.5", "0.5 to 0.9", "from 0.9"]
    values = table["brightness"].to_numpy()
    assert (values[slices[0].rows] < 0.1).all() and (values[slices[3].rows] >= 0.9).all()
    together = np.concatenate([each.rows for each in slices])
    assert sorted(together.tolist()) == list(range(len(table)))


def test_empty_slices_and_equal_cut_points():
    table, reference = random_table(), random_table(seed=1)
    reference["blank"] = 0.0
    reference.loc[:99, "blank"] = 0.5
    table["blank"] = 0.0
    slices = [each for each in cut(table, reference, {}) if each.property == "blank"]
    assert [(each.name, len(each.rows)) for each in slices] == [("below 0.5", 800), ("from 0.5", 0)]
    scored = score_slices(table, slices, 0.5, resamples=20)
    empty = named(scored, "from 0.5")
    assert empty["note"] == "no patch in this slice" and np.isnan(empty["accuracy"])
    reference["blank"] = table["blank"] = 0.0  # a constant feature has no slices
    assert not [each for each in cut(table, reference, {}) if each.property == "blank"]


def test_slices_from_the_config():
    table = random_table(slides=4)
    table["scanner"] = np.arange(800) % 3
    custom = {
        "dark": {"column": "brightness", "from": None, "below": 0.3, "among": None},
        "band": {"column": "hue", "from": 0.2, "below": 0.4},
        "two": {"column": "slide", "among": ["slide_01", "slide_03"]},
        "numbers": {"column": "scanner", "among": [2]},
    }
    dark, band, two, numbers = cut(table, table, custom)[:4]
    assert dark.rows.tolist() == np.flatnonzero(table["brightness"] < 0.3).tolist()
    assert band.rows.tolist() == np.flatnonzero(table["hue"].between(0.2, 0.4, "left")).tolist()
    assert set(table["slide"].iloc[two.rows]) == {"slide_01", "slide_03"}
    assert numbers.rows.tolist() == list(range(2, 800, 3))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"column": "brigthness", "below": 1.0}, "column=brigthness: .*expected one of row, label"),
        ({"column": "slide", "below": 1.0}, "column slide .*expected among"),
    ],
)
def test_invalid_rules(rule, message):
    with pytest.raises(InputError, match=message):
        cut(random_table(slides=3), random_table(), {"mine": rule})


def test_slides_and_hospitals_are_slices():
    table = random_table(slides=3)
    table["hospital"] = "one"
    assert {each.property for each in cut(table, table, {})} == {*FEATURES, "slide"}
    table.loc[:10, "hospital"] = "two"
    hospitals = [each for each in cut(table, table, {}) if each.property == "hospital"]
    assert [(each.name, len(each.rows)) for each in hospitals] == [("one", 789), ("two", 11)]


def test_metrics_and_intervals_equal_those_of_the_rows_alone():
    table = random_table()
    slices = cut(table, table, {})[:2]
    scored: Any = score_slices(table, slices, 0.4, resamples=400)
    assert scored["slice"][0] == WHOLE and len(scored) == 3
    for each, record in zip(slices, scored.iloc[1:].to_dict("records"), strict=True):
        part = table.iloc[each.rows]
        arguments = part["label"], part["probability"], 0.4
        expected = compute_metrics(*arguments)
        intervals = metric_intervals(*arguments, resamples=400)
        for name in METRICS:
            assert record[name] == pytest.approx(expected[name])
            ends = record[f"{name}_low"], record[f"{name}_high"]
            assert ends == pytest.approx(intervals[name], abs=0.03), name
    whole = metric_intervals(table["label"], table["probability"], 0.4, resamples=400)
    assert (scored["auroc_low"][0], scored["auroc_high"][0]) == whole["auroc"]


def test_metrics_of_a_slice_without_tumours_are_undefined():
    table = random_table()
    bright = table["brightness"] > 0.9
    table.loc[bright, "label"] = 0
    rule = {"column": "brightness", "from": float(np.float32(0.9))}
    scored = score_slices(table, cut(table, table, {"bright": rule}), 0.5, resamples=50)
    record = named(scored, "bright")
    expected = 1 - (table["probability"][bright] >= 0.5).mean()
    assert record["note"].startswith(
        f"no tumour: {bright.sum()} patches, specificity {expected:.3f}"
    )
    undefined = {"auroc", "average_precision", "balanced_accuracy", "f1", "f2", "sensitivity"}
    assert {name for name in METRICS if np.isnan(record[name])} - {"precision"} == undefined
    assert all(np.isnan(record[f"{name}_low"]) for name in undefined)
    table.loc[bright, "label"] = 1
    scored = score_slices(table, cut(table, table, {"bright": rule}), 0.5, resamples=50)
    assert named(scored, "bright")["note"].startswith("only tumour")


def test_slices_of_a_table_with_one_class():
    table = random_table(200)
    table["label"] = 0
    scored: Any = score_slices(table, cut(table, table, {}), 0.5, resamples=50)
    assert scored["auroc"].isna().all() and scored["specificity"].notna().all()
    assert (scored["note"].iloc[1:] != "").all()


@pytest.mark.parametrize("slides", [0, 40])
def test_a_worse_slice_comes_first(slides):
    table = random_table(3000, slides)
    dark = (table["brightness"] < 0.1) & (table["label"] == 1)
    generator = np.random.default_rng(3)
    table.loc[dark, "logit"] = generator.normal(-1, 1, dark.sum())
    table["probability"] = sigmoid(table["logit"])
    scored: Any = score_slices(table, cut(table, table, {}), 0.5, resamples=100)
    first = scored.iloc[1]
    assert first["property"] == "brightness" and first["slice"].startswith("below")
    assert set(first["worse"].split()) == {"auroc", "sensitivity"}
    assert "sensitivity 0." in first["note"] and "worse" in first["note"]
    assert ("independent" in first["note"]) == (slides == 0)
    assert (scored["worse"] != "").sum() == 1
    assert first["unit"] == ("slide" if slides else "patch")


def test_few_slices_are_flagged_by_chance():
    # In 20 tables with 20 slices each, about one table has a flagged slice.
    flagged = 0
    for seed in range(20):
        table = random_table(600, seed=seed)
        scored: Any = score_slices(table, cut(table, table, {}), 0.5, resamples=50, seed=seed)
        flagged += (scored["worse"] != "").any()
    assert flagged <= 4  # exceeded with a probability of 0.3 % if the level is 0.05


def test_correlated_patches_of_a_slide_are_not_independent_evidence():
    # Slides differ in brightness and in difficulty, and both are independent.
    flagged = {True: 0, False: 0}
    for seed in range(15):
        generator = np.random.default_rng(seed)
        table = random_table(2400, slides=60, seed=seed)
        place = table["slide"].str[-2:].astype(int).to_numpy()
        hard, bright = generator.normal(0, 1.2, 60)[place], generator.random(60)[place]
        table["logit"] = table["logit"] + hard
        table["probability"] = sigmoid(table["logit"])
        table["brightness"] = bright
        parts = [each for each in cut(table, table, {}) if each.property == "brightness"]
        for known in (True, False):
            given = table if known else table.drop(columns="slide")
            scored: Any = score_slices(given, parts, 0.5, resamples=100)
            flagged[known] += (scored["worse"] != "").any()
    assert flagged[True] <= 3 < 8 <= flagged[False]


def test_p_values_of_rates_are_binomial():
    # Slice: 2 false alarms of 20, no tumour of 20 found. Whole split: 1 % and 5 %.
    label = np.array([0] * 1000 + [1] * 1000)
    probability = np.where(label == 1, 0.1, 0.2)
    probability[:10] = probability[1000:1050] = 0.9
    columns = {"row": np.arange(2000), "label": label, "probability": probability}
    table: Any = pd.DataFrame(columns)
    table["part"] = 0
    table.loc[[0, 1, *range(500, 518), *range(1980, 2000)], "part"] = 1
    parts = cut(table, table, {"part": {"column": "part", "among": [1]}})
    record = score_slices(table, parts, 0.5, resamples=200).iloc[1]
    assert (record["specificity"], record["sensitivity"]) == (0.9, 0.0)
    once = 1 - 0.99**20 - 20 * 0.01 * 0.99**19
    assert record["p"] == pytest.approx(3 * once)  # the smallest of three p-values
    assert 0.04 < record["p"] < 0.06


def test_small_slices_are_not_tested():
    table = random_table()
    tumour, normal = (np.flatnonzero(table["label"] == label) for label in (1, 0))
    table["part"] = 0
    table.loc[[*tumour[:4], *normal[:4]], "part"] = 1
    parts = cut(table, table, {"part": {"column": "part", "among": [1]}})[:1]
    record = score_slices(table, parts, 0.5, resamples=50).iloc[1]
    assert record["note"] == "few patches of a class: 4 tumour, 4 normal"
    assert np.isnan(record["p"])
    # Five missed tumours are enough for a binomial test.
    table.loc[tumour[:5], ["part", "probability"]] = 1, 0.1
    parts = cut(table, table, {"part": {"column": "part", "among": [1]}})[:1]
    record = score_slices(table, parts, 0.5, resamples=50).iloc[1]
    assert record["worse"] == "sensitivity"
    found = (table.loc[tumour, "probability"] >= 0.5).mean()
    assert record["p"] == pytest.approx((1 - found) ** 5)


def test_slices_of_few_slides_resample_patches():
    table = random_table(slides=20)
    scored: Any = score_slices(table, cut(table, table, {}), 0.5, resamples=50)
    assert set(scored.loc[scored["property"] == "slide", "unit"]) == {"patch"}
    assert set(scored.loc[scored["property"] == "hue", "unit"]) == {"slide"}
    one = named(scored, "slide_00")
    assert one["auroc_low"] < one["auroc_high"]


def test_slices_of_few_slides_are_not_tested_unless_they_are_a_slide():
    table = random_table(slides=20)
    bad = table["slide"].isin(["slide_00", "slide_01"]) & (table["label"] == 1)
    table.loc[bad, "probability"] = 0.1
    two = {"two": {"column": "slide", "among": ["slide_00", "slide_01"]}}
    scored = score_slices(table, cut(table, table, two), 0.5, resamples=100)
    assert named(scored, "two")["note"] == "2 slides, too few for intervals and tests"
    assert np.isnan(named(scored, "two")["auroc_low"])
    assert np.isnan(named(scored, "two")["p"])
    alone = table[table["slide"] == "slide_00"]
    assert (
        min(alone["label"].sum(), (1 - alone["label"]).sum()) < MIN_CLASS
        or named(scored, "slide_00")["worse"]
    )
    # A split of a single slide has no interval and no test.
    table["slide"] = "slide_00"
    table["probability"] = np.where(table["hue"] < 0.1, 0.1, table["probability"])
    scored = score_slices(table, cut(table, table, {}), 0.5, resamples=100)
    assert set(scored["worse"]) == {""} and np.isnan(scored["auroc_low"].to_numpy()).all()


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]).tolist() == [1, 1]
    assert holm([]).size == 0
    assert holm([float(norm.sf(3))])[0] == norm.sf(3)
