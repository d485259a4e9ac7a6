"""Search space, written in Hydra's sweep syntax."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Sweep

from pcam_lightning.errors import InputError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


@dataclass
class Space:
    """A search space: the overrides that all trials share, and one distribution per searched key.

    Choices keep their command-line text, so `optimizer=choice(adam,sgd)` and
    `model.hidden=choice([64],[64,32])` are ordinary dimensions.
    """

    fixed: list[str] = field(default_factory=list)
    dimensions: dict[str, BaseDistribution] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    """The text of each dimension, as typed."""

    def overrides(self, parameters: Mapping[str, Any]) -> list[str]:
        """Return the overrides of a run with these values of the dimensions."""
        return [*self.fixed, *(f"{key}={parameters[key]}" for key in self.dimensions)]

    def corners(self) -> Iterator[dict[str, Any]]:
        """Yield values of all dimensions, so that each bound and each choice occurs."""
        ends = {key: _ends(dimension) for key, dimension in self.dimensions.items()}
        first = {key: values[0] for key, values in ends.items()}
        yield first
        for key, values in ends.items():
            for value in values[1:]:
                yield first | {key: value}


def read_space(overrides: Sequence[Override]) -> Space:
    """Return the search space of a command line.

    A dimension is `interval(1e-4,1e-1)`, `int(interval(2,8))` (both bounds included),
    `range(16,129,16)`, `choice(a,b)`, `a,b` or `glob(*)`; an interval or a range of step 1 may
    also be `tag(log,...)`. If a key is given twice, the later override counts.

    Raises:
        InputError: there is no dimension, or one that cannot be searched, which it names.
    """
    space = Space()
    latest = {override.get_key_element().lstrip("+~"): override for override in overrides}
    for name, override in latest.items():
        text = override.input_line or ""
        if not override.is_sweep_override():
            space.fixed.append(text)
        elif name == "seed":
            raise InputError(
                f"{text}: seeds are not searched over, since a best seed means nothing; expected "
                "one seed"
            )
        else:
            key = override.get_key_element()
            space.dimensions[key] = _dimension(override, text)
            space.texts[key] = text.partition("=")[2]
    if not space.dimensions:
        raise InputError(
            "hydra.sweeper.params: nothing to search, expected KEY=interval(...), range(...) or "
            "choice(...)"
        )
    return space


def _dimension(override: Override, text: str) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    tags = value.tags if isinstance(value, Sweep) else set()
    log = "log" in tags
    if tags - {"log"}:
        raise InputError(f"{text}: unknown tag {min(tags - {'log'})}, expected log or none")
    if isinstance(value, IntervalSweep):
        low, high, step = cast(Any, value.start), cast(Any, value.end), None
        if not low < high:
            raise InputError(f"{text}: empty, expected interval(LOW,HIGH) with LOW < HIGH")
    elif isinstance(value, RangeSweep):
        values = value.range()
        values = values if isinstance(values, range) else list(values)
        if len(values) < 2:
            raise InputError(f"{text}: {len(values)} value(s), expected range(LOW,HIGH) of several")
        low, high, step = min(values), max(values), abs(value.step)
        if log and step != 1:
            raise InputError(f"{text}: a range with steps cannot be logarithmic, expected no tag")
    else:
        choices = list(dict.fromkeys(override.sweep_string_iterator()))
        if log:
            raise InputError(f"{text}: choices cannot be logarithmic, expected tag(log,interval())")
        if len(choices) < 2:
            raise InputError(f"{text}: {len(choices)} choice(s), expected several")
        return CategoricalDistribution(choices)
    if log and low <= 0:
        raise InputError(f"{text}: a logarithmic scale has no {low}, expected a bound above 0")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log, step=int(step or 1))
    return FloatDistribution(low, high, log=log, step=step)


def _ends(dimension: BaseDistribution) -> Sequence[Any]:
    if hasattr(dimension, "choices"):
        return cast(Any, dimension).choices
    return cast(Any, dimension).low, cast(Any, dimension).high
