"""Overrides for pasting: bash and Hydra read back the value that was written."""

import random
import shlex
import subprocess
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from pcam_lightning.config.override_text import hydra_text, override

# Needs no quotes: the word stays as a person would type it.
PLAIN = ["outputs/train/default/2026-11-29_05-00-00", "/scratch/a.b/run_1", "a:b", "100%", "x@y+z"]
# Folders, and texts that Hydra would read as something else.
TEXTS = [
    *PLAIN, "a sweep, 100%", "it's", 'say "a"', "it's \"a\"", "(b)", "[a,b]", "{a: b}", "lr=0.1",
    "lr=0.1,seed=2", "$HOME/x", "${seed}", "a${oc.env:HOME}b", "\\${seed}", "\\\\${seed}", "#1",
    "a#b", "~/runs", "Müller/zellen", "研究", "a\\b", "a\\", "a\\\\", "\\'", '\\"', "\\\\\"'",
    "`id`", "$(id)", "a;b", "a&b", "a|b", "*", "?", "!", "!x", " a", "a ", "", "1", "-1", "1.5",
    ".5", "1e3", "1_000", "nan", "-inf", "true", "False", "null", "NULL", "-x", "--x", "a\tb",
    "2026-11-29", "1:2",
]  # fmt: skip


def read(words: str) -> list[str]:
    """Return the words that bash makes of a line."""
    script = f"printf '%s\\0' {words}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    return done.stdout.decode().split("\0")[:-1]


def value(word: str) -> object:
    """Return an override's value in the config: Hydra parses it, and OmegaConf resolves it."""
    parsed = OverridesParser.create().parse_override(word)
    assert parsed.key_or_group == "data.root" and not parsed.is_sweep_override()
    config: Any = OmegaConf.create({"seed": 7, "value": parsed.value()})
    return OmegaConf.to_container(config, resolve=True)["value"]  # type: ignore[index]


def test_bash_and_hydra_read_the_value_back() -> None:
    generator = random.Random(1)
    characters = "ab1 .,:=/'\"\\$({[#~&é%-"
    random_texts = ["".join(generator.choices(characters, k=k % 9 + 1)) for k in range(300)]
    texts = TEXTS + random_texts
    words = [override("data.root", text) for text in texts]
    typed = read(" ".join(words))
    assert dict(zip(texts, map(value, typed), strict=True)) == {text: text for text in texts}


def test_lists_are_read_back() -> None:
    (word,) = read(override("data.root", TEXTS))
    assert value(word) == TEXTS
    assert value(*read(override("data.root", []))) == []


@pytest.mark.parametrize("text", PLAIN)
def test_a_plain_text_needs_no_quotes(text: str) -> None:
    assert override("runs", text) == f"runs={text}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a sweep", """'runs="a sweep"'"""), ("lr=0.1", """'runs="lr=0.1"'"""), ("7", "'runs=\"7\"'")],
)
def test_quotes_stay_readable(text: str, expected: str) -> None:
    assert override("runs", text) == expected


def test_without_a_shell() -> None:
    assert [value(f"data.root={hydra_text(text)}") for text in TEXTS] == TEXTS
    assert shlex.split(override("a", "b c")) == [f"a={hydra_text('b c')}"]
