from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from pcam_lightning.data.patch_features import FEATURES
from pcam_lightning.errors import InputError
from pcam_lightning.evaluate.slices import MIN_CLASS, WHOLE, cut, holm, score_slices
from pcam_lightning.metrics.bootstrap import bootstrap_intervals
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


def test_properties_are_cut_at_the_percentiles_of_the_reference():
    table, reference = random_table(), random_table(seed=1)
    reference["brightness"] = np.linspace(0, 1, len(reference))
    slices = [each for each in cut(table, reference, {}) if each.property == "brightness"]
    assert [each.name for each in slices] == ["below 0.1", "0.1 to 0.5", "0.5 to 0.9", "from 0.9"]
    values = table["brightness"].to_numpy()
    assert (values[slices[0].rows] < 0.1).all() and (values[slices[3].rows] >= 0.9).all()
    together = np.concatenate([each.rows for each in slices])
    assert sorted(together.tolist()) == list(range(len(table)))


def test_a_slice_can_be_empty_and_equal_cuts_are_made_once():
    table, reference = random_table(), random_table(seed=1)
    reference["blank"] = 0.0
    reference.loc[:99, "blank"] = 0.5
    table["blank"] = 0.0
    slices = [each for each in cut(table, reference, {}) if each.property == "blank"]
    assert [(each.name, len(each.rows)) for each in slices] == [("below 0.5", 800), ("from 0.5", 0)]
    scored = score_slices(table, slices, 0.5, resamples=20)
    empty = named(scored, "from 0.5")
    assert empty["note"] == "no patch in this slice" and np.isnan(empty["accuracy"])
    reference["blank"] = table["blank"] = 0.0  # nothing to tell apart
    assert not [each for each in cut(table, reference, {}) if each.property == "blank"]


def test_what_a_config_defines():
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
    ("rule", "said"),
    [
        ({"column": "brigthness", "below": 1.0}, "no such column, expected one of row, label"),
        ({"column": "slide", "below": 1.0}, r"slide holds no numbers; expected among"),
    ],
)
def test_a_slice_that_cannot_be_cut_is_refused(rule, said):
    with pytest.raises(InputError, match=said):
        cut(random_table(slides=3), random_table(), {"mine": rule})


def test_slides_and_hospitals_are_slices_where_they_are_known():
    table = random_table(slides=3)
    table["hospital"] = "one"
    assert {each.property for each in cut(table, table, {})} == {*FEATURES, "slide"}
    table.loc[:10, "hospital"] = "two"
    hospitals = [each for each in cut(table, table, {}) if each.property == "hospital"]
    assert [(each.name, len(each.rows)) for each in hospitals] == [("one", 789), ("two", 11)]


def test_values_are_those_of_the_rows_and_intervals_those_of_a_bootstrap():
    table = random_table()
    slices = cut(table, table, {})[:2]
    scored: Any = score_slices(table, slices, 0.4, resamples=400)
    assert scored["slice"][0] == WHOLE and len(scored) == 3
    for each, record in zip(slices, scored.iloc[1:].to_dict("records"), strict=True):
        part = table.iloc[each.rows]
        arguments = part["label"], part["probability"], 0.4
        expected = compute_metrics(*arguments)
        intervals = bootstrap_intervals(*arguments, resamples=400)
        for name in METRICS:
            assert record[name] == pytest.approx(expected[name])
            ends = record[f"{name}_low"], record[f"{name}_high"]
            assert ends == pytest.approx(intervals[name], abs=0.03)
    whole = bootstrap_intervals(table["label"], table["probability"], 0.4, resamples=400)
    assert (scored["auroc_low"][0], scored["auroc_high"][0]) == whole["auroc"]


def test_a_slice_without_tumours_says_so_and_has_no_invented_zero():
    table = random_table()
    bright = table["brightness"] > 0.9
    table.loc[bright, "label"] = 0
    rule = {"column": "brightness", "from": float(np.float32(0.9))}
    scored = score_slices(table, cut(table, table, {"bright": rule}), 0.5, resamples=50)
    record = named(scored, "bright")
    expected = 1 - (table["probability"][bright] >= 0.5).mean()
    assert record["note"].startswith(
        f"no tumour in this slice: {bright.sum()} patches, specificity {expected:.3f}"
    )
    undefined = {"auroc", "average_precision", "balanced_accuracy", "f1", "f2", "sensitivity"}
    assert {name for name in METRICS if np.isnan(record[name])} - {"precision"} == undefined
    assert all(np.isnan(record[f"{name}_low"]) for name in undefined)
    table.loc[bright, "label"] = 1
    scored = score_slices(table, cut(table, table, {"bright": rule}), 0.5, resamples=50)
    assert named(scored, "bright")["note"].startswith("only tumour in this slice")


def test_a_one_class_table_is_sliced_too():
    table = random_table(200)
    table["label"] = 0
    scored: Any = score_slices(table, cut(table, table, {}), 0.5, resamples=50)
    assert scored["auroc"].isna().all() and scored["specificity"].notna().all()
    assert (scored["note"].iloc[1:] != "").all()


@pytest.mark.parametrize("slides", [0, 40])
def test_a_slice_that_is_worse_comes_first_and_says_where(slides):
    table = random_table(3000, slides)
    dark = (table["brightness"] < 0.1) & (table["label"] == 1)
    generator = np.random.default_rng(3)
    table.loc[dark, "logit"] = generator.normal(-1, 1, dark.sum())
    table["probability"] = sigmoid(table["logit"])
    scored: Any = score_slices(table, cut(table, table, {}), 0.5, resamples=200)
    first = scored.iloc[1]
    assert first["property"] == "brightness" and first["slice"].startswith("below")
    assert set(first["worse"].split()) == {"auroc", "sensitivity"}
    assert "worse beyond chance" in first["note"] and "sensitivity 0." in first["note"]
    assert (scored["worse"] != "").sum() == 1
    assert first["unit"] == ("slide" if slides else "patch")


def test_of_slices_that_are_not_worse_few_are_flagged():
    # Forty tables with twenty slices each: one family of looks in twenty may flag any.
    flagged = 0
    for seed in range(40):
        table = random_table(1000, seed=seed)
        scored: Any = score_slices(table, cut(table, table, {}), 0.5, resamples=100, seed=seed)
        flagged += (scored["worse"] != "").any()
    assert flagged <= 6  # a binomial of 40 and 0.05 is above that once in 70 times


def test_where_patches_of_a_slide_err_together_slides_are_what_counts():
    # Slides differ in how bright and in how hard they are, and that has nothing to do with another.
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


def test_rates_of_independent_patches_are_held_against_a_binomial():
    # 2 false alarms of 20 where the whole has 1 %, and none of 20 tumours where it finds 5 %.
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
    assert record["p"] == pytest.approx(3 * once)  # the smallest of three looks
    assert 0.04 < record["p"] < 0.06


def test_a_slice_below_the_least_size_is_not_tested():
    table = random_table()
    tumour, normal = (np.flatnonzero(table["label"] == label) for label in (1, 0))
    table["part"] = 0
    table.loc[[*tumour[:4], *normal[:4]], "part"] = 1
    parts = cut(table, table, {"part": {"column": "part", "among": [1]}})[:1]
    record = score_slices(table, parts, 0.5, resamples=50).iloc[1]
    assert record["note"] == "few of a class: 4 tumours, 4 normal"
    assert np.isnan(record["p"])
    # Of five, all missed where most are found, an exact test can speak.
    table.loc[tumour[:5], ["part", "probability"]] = 1, 0.1
    parts = cut(table, table, {"part": {"column": "part", "among": [1]}})[:1]
    record = score_slices(table, parts, 0.5, resamples=50).iloc[1]
    assert record["worse"] == "sensitivity"
    found = (table.loc[tumour, "probability"] >= 0.5).mean()
    assert record["p"] == pytest.approx((1 - found) ** 5)


def test_a_slice_of_few_slides_resamples_patches():
    table = random_table(slides=20)
    scored: Any = score_slices(table, cut(table, table, {}), 0.5, resamples=50)
    assert set(scored.loc[scored["property"] == "slide", "unit"]) == {"patch"}
    assert set(scored.loc[scored["property"] == "hue", "unit"]) == {"slide"}
    one = named(scored, "slide_00")
    assert one["auroc_low"] < one["auroc_high"]  # the one slide is not drawn whole or not at all


def test_a_slice_of_few_slides_is_not_tested_unless_it_is_a_slide():
    table = random_table(slides=20)
    bad = table["slide"].isin(["slide_00", "slide_01"]) & (table["label"] == 1)
    table.loc[bad, "probability"] = 0.1
    two = {"two": {"column": "slide", "among": ["slide_00", "slide_01"]}}
    scored = score_slices(table, cut(table, table, two), 0.5, resamples=100)
    assert named(scored, "two")["note"] == "2 slides, too few to test"
    assert np.isnan(named(scored, "two")["p"])
    alone = table[table["slide"] == "slide_00"]
    assert (
        min(alone["label"].sum(), (1 - alone["label"]).sum()) < MIN_CLASS
        or named(scored, "slide_00")["worse"]
    )
    # Where there is one slide in all, its patches are all there is.
    table["slide"] = "slide_00"
    table["probability"] = np.where(table["hue"] < 0.1, 0.1, table["probability"])
    scored = score_slices(table, cut(table, table, {}), 0.5, resamples=100)
    assert scored["worse"].iloc[1] and scored["property"].iloc[1] == "hue"


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]).tolist() == [1, 1]
    assert holm([]).size == 0
    assert holm([float(norm.sf(3))])[0] == norm.sf(3)
