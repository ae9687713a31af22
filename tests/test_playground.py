"""The playground of notebook 08 on a real (hardly trained) model, its controls used as a browser would use them."""

from __future__ import annotations

import time
from typing import Any

import pytest

from kit.data import problems
from kit.report.playground import Playground
from kit.settings import Config


@pytest.fixture(scope="module")
def play(tiny_world: Config) -> Playground:
    return Playground(tiny_world)


def press(widget: Any, name: str) -> None:
    """Press a button, and wait until the answers are there."""
    ask, stop = widget.children[3].children
    {"Ask": ask, "Stop": stop}[name].click()
    begun = time.monotonic()
    while ask.disabled and time.monotonic() < begun + 60:
        time.sleep(0.05)
    assert not ask.disabled and stop.disabled


def test_two_answers_stand_beside_each_other_and_the_limit_stops_both(play: Playground, tiny_world: Config) -> None:
    question = problems.load("two", tiny_world)[0].question
    widget = play.widget(["base", "base"], question, limit=100)
    slider, views = widget.children[2], widget.children[4].children
    assert slider.value == slider.max == 24  # no more than params allow
    slider.value = 5
    press(widget, "Ask")
    ending = tiny_world.prompts.text("forcing_ending")
    for view in views:
        assert "thinking stopped at 5" in view.value and ending.split()[-1] in view.value
    first = [view.value for view in views]
    press(widget, "Ask")
    assert [view.value for view in views] != first  # another response each time


def test_a_problem_that_the_model_cannot_read_is_told_in_its_place(play: Playground) -> None:
    widget = play.widget(["base"], "Wie viel ist <b>zwei</b> ?", limit=5)
    press(widget, "Ask")
    (view,) = widget.children[4].children
    assert "has no token for" in view.value and "<b>zwei" not in view.value


def test_a_model_that_is_not_there_is_told_in_its_place(play: Playground) -> None:
    widget = play.widget(["iterative/round2"], "What is 1 + 1 ?", limit=5)
    press(widget, "Ask")
    assert "selected.json: not there yet" in widget.children[4].children[0].value


def test_without_a_mouse_there_is_a_row_for_each_limit(play: Playground, tiny_world: Config) -> None:
    table = play.compare(["base"], problems.load("two", tiny_world)[0].question, [3, 6])
    assert list(table.index) == [3, 6] and list(table) == ["base"]
    assert "thinking stopped at 3" in table.base[3] and "thinking stopped at 6" in table.base[6]
