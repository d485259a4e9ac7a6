"""Values that a trial draws by itself, inside a job."""

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

pytest.importorskip("optuna")

from pcam_lightning.search.space import Space, read_space
from pcam_lightning.search.study import Outcome, ask, draw, load_study, open_study, tell


@pytest.fixture
def space() -> Space:
    words = [
        "optimizer.lr=interval(0.001,1)",
        "model=choice(cnn,mlp)",
        "data.batch_size=range(1,9)",
    ]
    return read_space(OverridesParser.create().parse_overrides(words))


def begin(folder: Path, trials: int):
    study = open_study(folder / "study.journal", "search", "val/auroc", {})
    for _ in range(trials):
        study.ask()
    return study


def test_each_trial_draws_its_own_values_once(tmp_path: Path, space: Space) -> None:
    """A requeued job reads the values back, whatever has been reported since."""
    begin(tmp_path, 3)
    drawn = {}
    for number in (2, 0, 1):  # jobs begin in any order
        study = load_study(tmp_path / "study.journal", "search")
        drawn[number] = draw(study, number, space, seed=1, startup_trials=2).params
        tell(study, study.trials[number], Outcome(0.5)) if number != 1 else None
    assert all(each.keys() == space.dimensions.keys() for each in drawn.values())
    assert len({str(each) for each in drawn.values()}) == 3
    study = load_study(tmp_path / "study.journal", "search")
    assert draw(study, 1, space, seed=7, startup_trials=0).params == drawn[1]


def test_a_trial_that_is_asked_for_draws_the_same(tmp_path: Path, space: Space) -> None:
    """The values depend on the seed and the number, not on who draws them."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    left, attended = begin(tmp_path / "a", 2), begin(tmp_path / "b", 0)
    alone = [draw(left, n, space, seed=1, startup_trials=9).params for n in range(2)]
    assert [ask(attended, space, 1, 9).params for _ in range(2)] == alone
