import numpy as np
import pytest
from sklearn.metrics import fbeta_score, precision_recall_curve, recall_score, roc_curve

from pcam_lightning.errors import InputError
from pcam_lightning.metrics.thresholds import NOTHING, Rule, choose_threshold, parse_rule


def random_table(seed, rows=300, digits=2):
    generator = np.random.default_rng(seed)
    label = generator.integers(2, size=rows)
    score = 1 / (1 + np.exp(-generator.normal(2 * label - 1, 1.3)))
    return label, score.round(digits) if digits else score


def scores(label, probability, function):
    """Return the highest value of a function of the decisions over all distinct thresholds."""
    edges = [0.0, *np.unique(probability), NOTHING]
    return max(function(label, probability >= edge) for edge in edges)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_no_threshold_has_a_higher_f_beta(seed, beta):
    label, probability = random_table(seed, rows=60)
    chosen = choose_threshold(label, probability, Rule("max_fbeta"), beta=beta)

    def f_beta(y, predicted):
        return fbeta_score(y, predicted, beta=beta, zero_division=0)  # type: ignore[arg-type]

    assert f_beta(label, probability >= chosen) == pytest.approx(scores(label, probability, f_beta))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("target", [0.5, 0.95, 1.0])
def test_recall_is_reached_and_no_higher_threshold_reaches_it(seed, target):
    label, probability = random_table(seed)
    chosen = choose_threshold(label, probability, Rule("recall", target))
    assert recall_score(label, probability >= chosen) >= target
    _, recall, thresholds = precision_recall_curve(label, probability)
    highest = thresholds[recall[:-1] >= target].max()
    assert ((probability >= chosen) == (probability >= highest)).all()
    above = probability[probability > highest]
    assert not above.size or recall_score(label, probability >= above.min()) < target


def test_an_exact_target_is_reached_despite_rounding():
    # 19 of 20 tumours reach 0.95, however 0.95 * 20 is rounded.
    label = np.array([1] * 20 + [0] * 5)
    probability = np.concatenate([np.linspace(0.9, 0.3, 20), np.full(5, 0.1)])
    chosen = choose_threshold(label, probability, parse_rule("recall>=0.95"))
    assert (probability >= chosen).sum() == 19


@pytest.mark.parametrize("seed", range(3))
def test_youden_is_the_highest_point_above_the_diagonal(seed):
    label, probability = random_table(seed)
    chosen = choose_threshold(label, probability, Rule("youden"))
    fpr, tpr, _ = roc_curve(label, probability, drop_intermediate=False)
    called = probability >= chosen
    ours = called[label == 1].mean() - called[label == 0].mean()
    assert ours == pytest.approx((tpr - fpr).max())


@pytest.mark.parametrize("ratio", [0.1, 1.0, 10.0])
def test_cost_has_the_lowest_cost(ratio):
    label, probability = random_table(5)

    def saved(y, predicted):
        return -(ratio * ((y == 1) & ~predicted).sum() + ((y == 0) & predicted).sum())

    chosen = choose_threshold(label, probability, Rule("cost"), cost_ratio=ratio)
    assert saved(label, probability >= chosen) == scores(label, probability, saved)


def test_cost_of_calibrated_probabilities_agrees_with_elkan():
    generator = np.random.default_rng(0)
    probability = generator.random(200_000)
    label = (generator.random(200_000) < probability).astype(int)
    chosen = choose_threshold(label, probability, Rule("cost"), cost_ratio=4.0)
    assert chosen == pytest.approx(1 / 5, abs=0.02)


def test_the_lowest_of_equally_good_thresholds_is_chosen():
    # Youden's index of the first 1, 2, 3, 4 rows as tumour: 0.5, 0, 0.5, 0.
    label, probability = [1, 0, 1, 0], [0.9, 0.8, 0.7, 0.6]
    assert choose_threshold(label, probability, Rule("youden")) == pytest.approx(0.65)


def test_the_threshold_lies_between_probabilities():
    assert choose_threshold([1, 0], [0.8, 0.4], Rule("youden")) == pytest.approx(0.6)
    # No float lies between two neighbors: the upper one is chosen.
    low = np.nextafter(0.5, 0)
    assert choose_threshold([1, 0], [0.5, low], Rule("youden")) == 0.5


def test_constant_probabilities_allow_all_or_nothing():
    label, same = [1, 0, 0], [0.3] * 3
    assert choose_threshold(label, same, Rule("max_fbeta")) == 0
    assert choose_threshold(label, same, Rule("recall", 0.9)) == 0
    none = choose_threshold(label, [1.0] * 3, Rule("cost"), cost_ratio=0.1)
    assert none == NOTHING and not (np.array([1.0]) >= none).any()


@pytest.mark.parametrize("kind", ["max_fbeta", "recall", "youden", "cost"])
@pytest.mark.parametrize(("label", "absent"), [(0, "tumour"), (1, "normal patch")])
def test_one_class_is_rejected(kind, label, absent):
    with pytest.raises(InputError, match=f"no {absent} among the 3 patches"):
        choose_threshold([label] * 3, [0.1, 0.5, 0.6], Rule(kind, 0.9))
    assert choose_threshold([label] * 3, [0.1, 0.5, 0.6], Rule("fixed", 0.4)) == 0.4


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("max_fbeta", Rule("max_fbeta")),
        ("recall>=0.95", Rule("recall", 0.95)),
        ("recall >= 1", Rule("recall", 1.0)),
        ("youden", Rule("youden")),
        (0.3, Rule("fixed", 0.3)),
        (1, Rule("fixed", 1.0)),
        ("0", Rule("fixed", 0.0)),
        (1e-7, Rule("fixed", 1e-7)),
    ],
)
def test_rules_are_parsed(text, rule):
    assert repr(parse_rule(text)) == repr(rule)


@pytest.mark.parametrize(
    "text",
    ["f2", "recall>=0", "recall>=1.2", "recall>=", "recall>0.9", -0.1, 1.5, "nan", "", "recall>=.",
     "__import__('os')", "recall>=0.9 or 1"],
)  # fmt: skip
def test_an_invalid_rule_is_rejected(text):
    with pytest.raises(InputError, match="expected one of max_fbeta, recall>=TARGET"):
        parse_rule(text)
