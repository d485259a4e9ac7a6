"""Search spaces in Hydra's sweep syntax."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from pcam_lightning.errors import InputError
from pcam_lightning.search.space import Space, read_space

optuna = pytest.importorskip("optuna")
Float, Int = optuna.distributions.FloatDistribution, optuna.distributions.IntDistribution
Choice = optuna.distributions.CategoricalDistribution


def read(*overrides: str) -> Space:
    return read_space(OverridesParser.create().parse_overrides(list(overrides)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("interval(0,1)", Float(0.0, 1.0)),
        ("tag(log,interval(1e-4,1e-1))", Float(1e-4, 1e-1, log=True)),
        ("int(interval(2,8))", Int(2, 8)),
        ("tag(log,int(interval(2,8)))", Int(2, 8, log=True)),
        ("range(16,129,16)", Int(16, 128, step=16)),
        ("range(16,128,16)", Int(16, 112, step=16)),
        ("range(8,2,-2)", Int(4, 8, step=2)),
        ("range(0.0,0.5,0.1)", Float(0.0, 0.4, step=0.1)),
        ("choice(64,128)", Choice(["64", "128"])),
        ("adam,sgd,adam", Choice(["adam", "sgd"])),
        ("choice([64],[64,32])", Choice(["[64]", "[64,32]"])),
        ("true,null", Choice(["True", "null"])),  # Hydra accepts both spellings
    ],
)
def test_a_sweep_becomes_a_distribution(text: str, expected) -> None:
    space = read("model=mlp", f"a.b={text}")
    assert space.dimensions == {"a.b": expected}
    assert (space.fixed, space.texts) == (["model=mlp"], {"a.b": text})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=interval(2,1)", "a=interval(2,1): empty, expected interval(LOW,HIGH) with LOW < HIGH"),
        ("a=tag(log,interval(0,1))", "a logarithmic scale has no 0.0"),
        ("a=tag(lg,interval(1,2))", "unknown tag lg, expected log"),
        ("a=tag(log,range(2,9,2))", "a range with steps cannot be logarithmic"),
        ("a=tag(log,choice(1,2))", "choices cannot be logarithmic"),
        ("a=choice(1)", "1 choice(s), expected several"),
        ("a=range(4,4)", "0 value(s), expected range(LOW,HIGH)"),
        ("seed=1,2,3", "seed=1,2,3: seeds are not searched over"),
        ("+seed=interval(1,2)", "seeds are not searched over"),
        ("a=1", "nothing to search, expected KEY=interval(...)"),
    ],
)
def test_an_invalid_space_is_one_line(text: str, expected: str) -> None:
    with pytest.raises((InputError, HydraException)) as caught:
        read(text)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_a_later_override_replaces_an_earlier_one() -> None:
    space = read("a=interval(0,1)", "b=1,2", "a=0.5", "b=2,3", "~c")
    assert (space.fixed, space.texts) == (["a=0.5", "~c"], {"b": "2,3"})
    assert space.overrides({"b": "3"}) == ["a=0.5", "~c", "b=3"]


def test_a_run_gets_the_exact_number() -> None:
    value = 0.1 + 0.2
    (override,) = read("a=interval(0,1)").overrides({"a": value})
    assert float(override.partition("=")[2]) == value


def test_corners_contain_every_bound_and_every_choice() -> None:
    corners = list(read("a=interval(0,1)", "b=x,y,z").corners())
    assert {corner["a"] for corner in corners} == {0.0, 1.0}
    assert {corner["b"] for corner in corners} == {"x", "y", "z"}
    assert len(corners) == 4
