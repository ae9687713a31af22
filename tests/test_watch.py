"""Curves made by hand, each with one thing wrong: told by its name, at its step, and only then."""

from __future__ import annotations

import math

import pytest

from kit.settings import Watch
from kit.training import watch

HEALTHY = {"limit": 100, "reward": 0.6, "length": 70.0, "truncated": 0.2, "no_variance": 0.2, "entropy": 0.07, "kl": 0.01,
           "grad_norm": 0.1, "loss": 0.001, "loops": 0.0}


def curve(*changes: dict, healthy: int = 3) -> list[dict]:
    """A round of `healthy` good steps, then one step for each of `changes`."""
    return [{**HEALTHY, **change, "step": step} for step, change in enumerate([*[{}] * healthy, *changes], 1)]


def told(rows: list[dict], **thresholds: float) -> list[tuple[int, str, bool]]:
    """(step, name, stop) of every warning of a whole round."""
    settings = Watch(**thresholds)
    return [(w.step, w.name, w.stop) for k in range(1, len(rows) + 1) for w in watch.warnings_about(rows[:k], settings, 100)]


def test_a_healthy_round_is_not_warned_about() -> None:
    """Figures of real rounds: entropy 0.05 to 0.13, KL up to 0.3, most responses cut at first, half of the groups alike."""
    rows = [{"reward": 0.125, "truncated": 0.875, "no_variance": 0.625, "entropy": 0.047}, {"kl": 0.28, "entropy": 0.13},
            {"reward": 0.9, "truncated": 0.0, "no_variance": 0.5, "entropy": 0.049}, {"kl": None}]
    assert told(curve(*rows, healthy=0)) == []


@pytest.mark.parametrize(("change", "name"), [
    ({"truncated": 0.96}, "truncated"),
    ({"no_variance": 1.0, "reward": 1.0}, "no variance"),
    ({"no_variance": 1.0, "reward": 0.0}, "no reward"),
    ({"entropy": 0.0069}, "entropy collapse"),
    ({"kl": 1.01}, "KL blow-up"),
    ({"loops": 0.31}, "loops"),
])
def test_each_warning_has_its_name_and_step_and_goes_when_it_is_over(change: dict, name: str) -> None:
    assert told(curve(change, {}, change)) == [(4, name, False), (6, name, False)]


@pytest.mark.parametrize("column", ["loss", "grad_norm", "kl", "entropy", "reward"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_figure_that_is_no_number_stops_at_once(column: str, value: float) -> None:
    rows = curve({column: value})
    assert told(rows) == [(4, "non-finite", True)]
    assert f"{column} is not a number" in str(watch.warnings_about(rows, Watch(), 100)[0])


def test_every_warning_says_what_to_try() -> None:
    wrong = {"truncated": 1.0, "no_variance": 1.0, "reward": 0.0, "entropy": 0.0001, "kl": 5.0, "loops": 0.9}
    found = watch.warnings_about(curve(wrong), Watch(), 100)
    assert len(found) == 5
    assert all(any(word in w.text for word in ("try", "start with", "change")) for w in found)


def test_a_warning_that_lasts_is_told_again_every_tenth_step_only() -> None:
    assert told(curve(*[{"truncated": 1.0}] * 21)) == [(step, "truncated", False) for step in (4, 14, 24)]


def test_no_reward_stops_after_patience_and_never_with_none() -> None:
    nothing = {"reward": 0.0, "no_variance": 1.0}
    assert told(curve(*[nothing] * 5), patience=5)[-1] == (8, "no reward", True)
    assert not any(stop for *_, stop in told(curve(*[nothing] * 4), patience=5))
    assert not any(stop for *_, stop in told(curve(*[nothing] * 30), patience=0))
    solved = {"reward": 1.0, "no_variance": 1.0}  # nothing to learn, but nothing wrong either
    assert not any(stop for *_, stop in told(curve(*[solved] * 30), patience=5))


def test_a_learning_rate_that_moves_nothing_is_stopped_after_its_first_steps() -> None:
    """KL grows with the square of the steps: 1e-8 at step 5 of 100 is on the way to 4e-6, 1e-6 to 4e-4."""
    still = curve(*[{"kl": 1e-8 * (k / 5) ** 2} for k in range(1, 12)], healthy=0)
    assert told(still) == [(5, "no movement", False), *((step, "no movement", True) for step in (9, 10, 11))]
    assert "moves nothing; try ten times as much" in str(watch.warnings_about(still[:9], Watch(), 100)[0])
    assert told(still, patience=0) == [(5, "no movement", False)]
    assert told(curve(*[{"kl": 1e-6 * (k / 5) ** 2} for k in range(1, 12)], healthy=0)) == []
    assert told(curve(*[{"kl": 0.0, "no_variance": 1.0, "reward": 1.0}] * 6, healthy=0)) == [(1, "no variance", False)]


def test_kl_stops_when_it_stays_ten_times_over() -> None:
    assert told(curve(*[{"kl": 11.0}] * 5), patience=5)[-1] == (8, "KL blow-up", True)
    assert not any(stop for *_, stop in told(curve(*[{"kl": 9.0}] * 9), patience=5))


# --- what is shown while it trains ------------------------------------------------------------------------------------


def test_a_line_says_where_a_round_stands_and_how_long_the_rest_takes() -> None:
    """Steps 1 to 12 take 9 s each, then 3 s: of the last ten 8 took 9 s and 2 took 3 s, 7.8 s on average, and 16 are left."""
    rows = [{**row, "seconds": 9.0 if row["step"] <= 12 else 3.0} for row in curve(healthy=14)]
    assert watch.standing(rows, 30) == "step 14 of 30: reward 0.60, length 70, truncated 20%, about 02:04 left"
    assert watch.standing(curve(healthy=14), 14) == "step 14 of 14: reward 0.60, length 70, truncated 20%"
    unknown = [{**row, "seconds": math.nan} for row in curve()]
    assert watch.standing(unknown, 30).endswith("truncated 20%")


def test_without_a_notebook_a_round_prints_ten_lines_and_its_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    rows, shown = curve(*[{"truncated": 1.0}] * 2, healthy=28), watch.Shown("iterative round 1", 30, draw=lambda *_: 1 / 0)
    for k in range(1, 31):
        shown.tell(rows[:k], watch.warnings_about(rows[:k], Watch(), 30))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines if not line.startswith("warning")] == \
        [f"iterative round 1, step {step} of 30" for step in range(3, 31, 3)]
    (warning,) = [line for line in lines if line.startswith("warning")]
    assert warning.startswith("warning, iterative round 1 step 29: truncated: 100%")


def test_in_a_notebook_one_place_is_drawn_anew_and_not_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    class Place:
        shown: list[tuple[int, str]] = []

        def update(self, drawn: tuple[int, str]) -> None:
            self.shown.append(drawn)

    monkeypatch.setattr(watch, "place", Place)
    shown = watch.Shown("a", 30, draw=lambda rows, steps, title: (len(rows), title))
    for k in range(1, 31):
        shown.tell(curve(healthy=30)[:k])
    assert [number for number, _ in Place.shown] == [1, 30]  # quick steps; the last one always
    assert Place.shown[-1][1] == "a, step 30 of 30: reward 0.60, length 70, truncated 20%"
