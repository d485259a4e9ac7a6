import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from pcam_lightning.errors import InputError
from pcam_lightning.metrics.predictions import read_predictions, sigmoid, write_predictions


def table(**changes):
    columns = {"row": [0, 1], "label": [0, 1], "logit": [-1.0, 2.0], "probability": [0.269, 0.881]}
    return pd.DataFrame({**columns, **changes})


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_trip_sorted_by_row(tmp_path, dtype):
    path = tmp_path / "predictions" / "test.parquet"
    logit = np.array([0.5, -40.0, 3.0], dtype=dtype)
    write_predictions(path, [7, 2, 5], [1, 0, 1], logit, slide=["b", "a", "b"])
    read = read_predictions(path)
    assert list(read.columns) == ["row", "slide", "label", "logit", "probability"]
    assert read["row"].tolist() == [2, 5, 7]
    assert read["slide"].tolist() == ["a", "b", "b"]
    assert read["label"].tolist() == [0, 1, 1]
    assert read["logit"].to_numpy().dtype == dtype
    assert read["logit"].tolist() == logit[[1, 2, 0]].tolist()
    assert read["row"].dtype == read["label"].dtype == np.int64
    expected = expit(logit[[1, 2, 0]].astype(np.float64))
    np.testing.assert_allclose(read["probability"], expected, rtol=1e-15)
    assert list(path.parent.iterdir()) == [path]


def test_slides_are_optional_and_half_floats_are_widened(tmp_path):
    path = tmp_path / "test.parquet"
    write_predictions(path, np.arange(2), np.array([True, False]), np.array([1, -1], np.float16))
    read = read_predictions(path)
    assert "slide" not in read
    assert read["logit"].dtype == np.float32
    assert read["label"].tolist() == [1, 0]


def test_columns_of_others_are_kept(tmp_path):
    path = tmp_path / "test.parquet"
    table(fold=[3, 4]).to_parquet(path)
    assert read_predictions(path)["fold"].tolist() == [3, 4]


def test_sigmoid_is_exact_in_both_tails():
    x = np.array([-800.0, -700, -40, -1, 0, 1, 40, 700, 800])
    with np.errstate(over="raise", invalid="raise"):
        np.testing.assert_allclose(sigmoid(x), expit(x), rtol=1e-15)


@pytest.mark.parametrize(
    ("frame", "fault"),
    [
        (table().drop(columns="logit"), r"missing columns \['logit'\]"),
        (table().iloc[:0], "no rows"),
        (table(row=[4, 4]), "1 duplicate rows, first at row 4"),
        (table(row=[-1, 4]), "negative row"),
        (table(row=[0.0, 1.0]), "column row should hold"),
        (table(label=[0, 2]), r"labels other than 0 and 1, first at row 1 \(position 1\)"),
        (table(label=["0", "1"]), "column label should hold numbers"),
        (table(logit=[np.nan, 1]), "column logit has 1 missing or NaN"),
        (table(logit=[np.inf, 1]), "infinite logits"),
        (table(probability=[0.5, np.nan]), "column probability has 1 missing or NaN"),
        (table(probability=[0.269, 1.1]), "probabilities outside"),
        (table(probability=[0.269, 0.87]), "1 probabilities that are not sigmoid"),
        (table(probability=[0.731, 0.119]), "2 probabilities that are not sigmoid"),
        (table(slide=["a", None]), "column slide has 1 missing"),
    ],
)
def test_faults_are_named_in_one_line(tmp_path, frame, fault):
    path = tmp_path / "test.parquet"
    frame.to_parquet(path)
    with pytest.raises(InputError, match=fault) as caught:
        read_predictions(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_no_table_at_all(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_predictions(tmp_path / "test.parquet")
    (tmp_path / "test.parquet").write_text("row,label\n0,1\n")
    with pytest.raises(InputError, match="not a readable parquet file") as caught:
        read_predictions(tmp_path / "test.parquet")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "label", "logit", "slide"),
    [
        ([0, 0], [0, 1], [1.0, 2.0], None),
        ([0, 1], [0, 1], [1.0, np.nan], None),
        ([0, 1], [0, 1], [1.0], None),
        ([[0], [1]], [[0], [1]], [[1.0], [2.0]], None),
        ([0, 1], [0, 1], [1.0, 2.0], ["a", None]),
    ],
)
def test_nothing_invalid_is_written(tmp_path, row, label, logit, slide):
    with pytest.raises(InputError):
        write_predictions(tmp_path / "test.parquet", row, label, logit, slide)
    assert not list(tmp_path.iterdir())
