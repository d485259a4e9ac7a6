"""Plots of a benchmark: speed by batch size, with the saturation point, and by precision."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pcam_lightning.benchmark.report import Row, saturation_points, series_of
from pcam_lightning.plots.style import CYCLE, INK, legend, log_scale, new_figure, plain_number, save


def draw(folder: Path, rows: Sequence[Row], subtitle: str) -> None:
    """Write `by_batch_size.png` and `by_precision.png` if the rows differ in these."""
    series = {key: each for key, each in series_of(rows).items() if len(each) > 1}
    if series:
        save(_by_batch_size(series, rows), folder / "by_batch_size.png", subtitle)
    if len({row["precision"] for row in rows if row["median"]}) > 1:
        save(_by_precision(rows), folder / "by_precision.png", subtitle)


def _by_batch_size(series: dict[Any, list[Row]], rows: Sequence[Row]) -> Figure:
    figure, axes = new_figure("Speed by batch size", "batch size", "patches per second")
    for style, (key, each) in zip(_styles(list(series)), series.items(), strict=True):
        sizes = [row["batch_size"] for row in each]
        axes.plot(sizes, [row["median"] for row in each], **style, label=_name(key, rows))
        low, high = ([row[end] for row in each] for end in ("low", "high"))
        axes.fill_between(sizes, low, high, color=style["color"], alpha=0.15, lw=0)
    points = saturation_points(rows)
    axes.plot(
        [point["batch_size"] for point in points],
        [point["median"] for point in points],
        "o",
        ms=13,
        mfc="none",
        mec=INK,
        label="saturation: 95 % of the highest",
    )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(plain_number)
    log_scale(axes, decades=2)
    legend(axes)
    return figure


def _by_precision(rows: Sequence[Row]) -> Figure:
    """Draw each implementation's highest speed over batch sizes, as a group of bars."""
    best: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        if row["median"] is not None:
            group = best.setdefault((row["contender"], row["model"], "", row["device"]), {})
            old = group.get(row["precision"])
            if old is None or row["median"] > old["median"]:
                group[row["precision"]] = row
    precisions = list(dict.fromkeys(row["precision"] for row in rows))
    figure, axes = new_figure("Speed by precision", "", "patches per second, best batch size")
    width = 0.8 / len(precisions)
    for i, precision in enumerate(precisions):
        bars = [
            (x, group[precision]) for x, group in enumerate(best.values()) if precision in group
        ]
        medians = [row["median"] for _, row in bars]
        errors = [
            [row["median"] - row["low"] for _, row in bars],
            [row["high"] - row["median"] for _, row in bars],
        ]
        positions = [x + (i - (len(precisions) - 1) / 2) * width for x, _ in bars]
        axes.bar(
            positions, medians, 0.95 * width, yerr=errors, color=_nth(CYCLE, i), label=precision
        )
    axes.set_xticks(range(len(best)), [_name(key, rows).replace(", ", "\n") for key in best])
    legend(axes)
    return figure


def _name(key: Sequence[str], rows: Sequence[Row]) -> str:
    """Return a label of a series: the parts of its key in which rows differ."""
    names = ("contender", "model", "precision", "device")
    parts = [
        value
        for name, value in zip(names, key, strict=True)
        if value and len({row[name] for row in rows}) > 1
    ]
    return ", ".join(parts) or key[0]


def _styles(keys: Sequence[tuple[str, str, str, str]]) -> list[dict[str, Any]]:
    """Return line styles: series with equal color, marker or dashes share a part of their key."""
    channels = {"color": CYCLE, "marker": "os^Dv", "linestyle": ("-", "--", ":", "-.")}
    styles: list[dict[str, Any]] = [
        {name: each[0] for name, each in channels.items()} for _ in keys
    ]
    parts = zip(*((key[0], key[1], key[2:]) for key in keys), strict=True)
    varying = [part for part in parts if len(set(part)) > 1]
    for (name, channel), part in zip(channels.items(), varying, strict=False):
        values = list(dict.fromkeys(part))
        for style, value in zip(styles, part, strict=True):
            style[name] = _nth(channel, values.index(value))
    return styles


def _nth(values: Sequence[str], index: int) -> str:
    return values[index % len(values)]
