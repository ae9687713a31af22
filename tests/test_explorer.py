"""The explorer of notebook 05, its controls turned as a browser would turn them."""

from __future__ import annotations

from html import unescape
from pathlib import Path
from typing import Any

import fake_run
import pytest

from kit.report import explorer
from kit.report.sidebyside import Case, Side
from kit.runs import paths
from kit.settings import Config


def case(id: str, *sides: tuple[int, str]) -> Case:
    return Case("", "two", id, 0, "q", "7", tuple(Side("m", "x", length, verdict) for length, verdict in sides), "tokens")


CASES = [case("a", (100, "correct"), (90, "correct")), case("b", (100, "correct"), (20, "correct"), (95, "correct")),
         case("c", (100, "correct"), (10, "correct"), (10, "wrong")), case("d", (100, "wrong"), (5, "correct"))]


@pytest.mark.parametrize(("wanted", "ids"), [("all", "abcd"), ("broke", "c"), ("saved most", "ba")])
def test_filters(wanted: str, ids: str) -> None:
    assert "".join(c.id for c in explorer.kept(CASES, wanted)) == ids


@pytest.fixture(scope="module")
def made(results: Path) -> Config:
    return fake_run.make(fake_run.settings(results, "explored"))


def found(widget: Any, kind: str) -> list[Any]:
    """The controls of a kind, in order."""
    own = [widget] if type(widget).__name__ == kind else []
    return own + [one for child in getattr(widget, "children", ()) for one in found(child, kind)]


def test_what_is_picked_is_what_is_shown(made: Config) -> None:
    shown = explorer.explorer(made)
    (models,), (name, wanted, problem, sample) = found(shown, "SelectMultiple"), found(shown, "Dropdown")
    count, view = found(shown, "HTML")
    assert count.value == "20 problems, 80 samples" and unescape(view.value).count('<td class="side">') == 2
    models.value = ("iterative/round1", "iterative/round2")
    assert unescape(view.value).count('<td class="side">') == 3
    first = view.value
    problem.value = problem.options[3][1]
    assert view.value != first and f"problem {problem.value}," in unescape(view.value)
    sample.value = 2
    assert "sample 3." in unescape(view.value)
    wanted.value = "broke"
    assert sample.options[0][0].split(", ")[0].endswith("correct") and "wrong" in sample.options[0][0]
    name.value = "three"
    assert problem.value.startswith("three")
    made_of = [label for label, _ in models.options]
    assert made_of[:2] == ["iterative, 60", "iterative, 30"]


def test_models_that_nobody_has_evaluated_yet_are_told(made: Config) -> None:
    path = paths.of(made).grades("one-shot/round1", "two")
    content = path.read_bytes()
    path.unlink()
    shown = explorer.explorer(made)
    found(shown, "SelectMultiple")[0].value = ("one-shot/round1",)
    count, view = found(shown, "HTML")
    path.write_bytes(content)
    assert "not there yet" in count.value and view.value == ""
