"""What a new run is expected to show: prediction intervals by hand and by simulation; README held to the shipped reference."""

import math

import numpy as np
import pytest

from kit.evaluation import reference
from kit.report import texts
from kit.runs import files
from kit.settings import ROOT, KitError, load

SHIPPED = ROOT / "params" / "reference" / "laptop.json"


def test_mean_and_prediction_intervals_are_those_worked_out_by_hand() -> None:
    """Mean 12, sd 2: 12 ± 4.3027 x 2 / sqrt(3) for the mean (t of 95 %), 12 ± 9.9248 x 2 x sqrt(4 / 3) for a new run (99 %)."""
    found = reference.expected([10.0, 12.0, 14.0])
    worked_out = {"mean": 12, "low": 7.0317, "high": 16.9683, "sd": 2, "from": -10.9202, "to": 34.9202}
    assert found == pytest.approx(worked_out, abs=1e-3)


def test_99_of_100_new_runs_lie_within_the_prediction_interval_of_twelve() -> None:
    rng = np.random.default_rng(5)
    hits = []
    for runs in rng.normal(70, 3, size=(4000, 13)):
        found = reference.expected(runs[:12].tolist())
        hits.append(found["from"] <= runs[12] <= found["to"])
    assert 0.985 < np.mean(hits) < 0.995


def test_lengths_are_averaged_as_logarithms() -> None:
    """10, 10 and 70 % of the length: (10 x 10 x 70)^(1/3) = 19.13 %; the logarithms' sd is ln(7) / sqrt(3) = 1.1235."""
    found = reference.expected([-90.0, -90.0, -30.0], "length change")
    assert found["mean"] == pytest.approx(-80.87, abs=0.01)
    assert 19.13 * math.exp(4.3027 * 1.1235 / math.sqrt(3)) == pytest.approx(100 + found["high"], rel=1e-3)
    assert -100 < found["from"] < found["low"], "no response is shorter than nothing"


def test_what_was_seen_once_is_expected_again_and_so_is_what_the_default_seed_gives() -> None:
    """Nineteen runs at 1 point and one at -10: 0.45 ± 2.861 x 2.460 x sqrt(21 / 20) would begin at -6.8, and ends at 7.7."""
    values = [1.0] * 19 + [-10.0]
    found = reference.expected(values, "accuracy change")
    assert (found["mean"], found["from"], found["to"]) == pytest.approx((0.45, -10, 7.661), abs=0.01)
    assert reference.expected(values, "accuracy change", [9.0, 9.0, 9.0])["to"] == 9


def test_two_models_are_compared_seed_by_seed() -> None:
    figures = [{"comparison": f"{name} minus base", "quantity": "accuracy change", "values": values}
               for name, values in (("pruned", [1.0, 5.0, 3.0]), ("control", [2.0, 8.0, 5.0]))]
    found = reference.apart({"figures": figures}, "pruned", "control")
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((-2, -2 - 2.484, -2 + 2.484), abs=1e-3)


def test_the_number_of_seeds_that_show_two_points() -> None:
    """sd 2: with 10 seeds (2.262 + 0.883) x 2 / sqrt(10) = 1.99 points, with 9 (2.306 + 0.889) x 2 / 3 = 2.13."""
    assert reference.seeds_needed(2.0, 2.0) == 10
    assert reference.seeds_needed(0.0) == 2


def test_a_value_is_inside_as_far_as_its_shown_digits_tell() -> None:
    figure = {"quantity": "accuracy change", "from": -1.0, "to": 1.0}
    assert reference.inside(1.04, figure) and not reference.inside(1.06, figure)
    always_zero = {"quantity": "hesitation words", "from": 0.0, "to": 0.0}
    assert reference.inside(0.004, always_zero) and not reference.inside(0.006, always_zero)


@pytest.mark.parametrize("page", ["README.md", "notebooks/README.md"])
def test_a_page_says_what_the_shipped_reference_says(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    between = text.split(texts.MARKERS[0])[1].split(texts.MARKERS[1])[0]
    assert between.strip() == texts.reference_blocks(files.read_json(SHIPPED))[page]


def test_the_shipped_reference_is_of_the_settings_that_ship_and_of_twelve_seeds() -> None:
    config = load("params/laptop.yaml")
    assert reference.of(config) == files.read_json(SHIPPED)
    assert len(set(reference.of(config)["seeds"])) >= 12
    for figure in reference.of(config)["figures"]:
        again = reference.expected(figure["values"], figure["quantity"], figure.get("same_base", ()))
        assert {key: figure[key] for key in again} == pytest.approx(again, abs=1e-3)


def test_a_seed_counts_once() -> None:
    with pytest.raises(KitError, match=r"laptop-seeds.yaml: the reference has seed 1, 2, .*12 already; take others"):
        reference.extend(files.read_json(SHIPPED), load("params/laptop-seeds.yaml"))
