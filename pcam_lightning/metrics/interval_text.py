"""Intervals in words. Importing this needs no statistics, so that training starts sooner."""

from collections.abc import Mapping

MIN_SLIDES = 5
"""Minimum number of slides of an interval by slide."""


def describe_interval(slides: int | None) -> str:
    """Return what the intervals of a split rest on, as text to follow the word "intervals".

    Args:
        slides: number of slides; None if they are not known.
    """
    if slides is None:
        return "by patch: slides are not known, so patches are treated as independent"
    if slides < MIN_SLIDES:
        return f"are missing: {slides} slide{'s' * (slides > 1)}, at least {MIN_SLIDES} are needed"
    return f"by slide, {slides} slides"


def format_interval(score: Mapping[str, float | None]) -> str:
    """Return the ends of a metric's interval with three decimals, "-" if it has none."""
    low, high = score["low"], score["high"]
    return "-" if low is None or high is None else f"{low:.3f}-{high:.3f}"
