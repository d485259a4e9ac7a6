"""Intervals in words."""

from pcam_lightning.metrics.interval_text import describe_interval, format_interval


def test_an_interval_rests_on_patches_or_on_enough_slides() -> None:
    assert "independent" in describe_interval(None)
    assert "8 slides" in describe_interval(8)
    assert "missing: 4 slides" in describe_interval(4)
    assert "missing: 1 slide," in describe_interval(1)


def test_both_ends_of_an_interval_have_three_decimals() -> None:
    assert format_interval({"low": 0.12345, "high": 1.0}) == "0.123-1.000"
    assert format_interval({"low": None, "high": None}) == "-"
