"""Where a response first states its own final answer, and how much comes after; in the laptop's words and in other models'."""

from __future__ import annotations

import random
import time

import pytest

from kit.behavior import first_answer
from kit.behavior.first_answer import first_answers
from kit.laptop import thinking
from kit.settings import Arithmetic

FIRST_PASS = "Compute 17 first * 4 = 68 . Compute 68 second - 39 = 29"
CHECKED = " . That gives 29 . Wait , let me double-check . 17 first * 4 = 68 , 68 second - 39 = 29 . Yes . </think> \\boxed{ 29 }"


def first(text: str, finished: bool | None = None) -> str:
    """The text up to the first statement of its answer."""
    (share,) = first_answers([text], [finished])
    return text[: round(share * len(text))].rstrip()


def test_what_comes_after_the_first_statement_is_checking_and_presenting() -> None:
    assert first(FIRST_PASS + CHECKED) == FIRST_PASS
    assert first_answers([FIRST_PASS + CHECKED], [True]) == [pytest.approx((len(FIRST_PASS) + 1) / len(FIRST_PASS + CHECKED))]


def test_the_answer_given_counts_right_or_wrong_and_the_one_that_was_mended_does_not() -> None:
    wrong = "17 * 4 = 68 . 68 - 39 = 39 . That gives 39 ."
    mended = f"{wrong} Wait , no : 68 - 39 = 29"
    assert first(f"{mended} . </think> \\boxed{{ 29 }}") == mended
    assert first(f"{wrong} </think> \\boxed{{ 39 }}") == "17 * 4 = 68 . 68 - 39 = 39"


@pytest.mark.parametrize(("start", "rest"), [
    ("We need the sum. First, 3x = 12, so x = 4. The total is \\(5 + 2 = 7", "\\). Wait, let me verify: 2 + 5 = 7. \\boxed{7}"),
    ("Adding them, we get\n\n\\[\n\\frac{1}{2} + \\frac{1}{3} = \\frac{5}{6}", "\n\\]\nSo the answer is 5/6."),
    ("So the answer is **7**", ", and the rest follows. Let me check. \\boxed{7}"),
    ("I think it is 12", " dollars, in all. Let me count again. Yes. The answer is 12."),
    ("Hence x equals 0.5", ". Let me see: 2x = 1, yes. </think> So \\boxed{\\dfrac{1}{2}}"),  # by the grader
    ("The number is 1,234", ". Is it? Yes. \\boxed{1234}"),
    ("The point is (3, 2)", ". Check: 3 + 2 = 5. \\boxed{(3,2)}"),
    ("That is \\boxed{2x+1}", ", hm, is it? Derivative: 2. Yes: \\boxed{1 + 2x}"),
    ("So it is \\boxed{7}", " . Or is it? \\boxed{7}"),
    ("Answer: C", "\n\nB and D are too large. </think> The answer is C."),
])
def test_any_models_way_of_stating_it_is_read(start: str, rest: str) -> None:
    assert first(start + rest) == start


def test_assumptions_and_sums_yet_to_be_done_state_nothing() -> None:
    for before in ("Let x = 7. ", "If we try n = 7, ", "For n = 7 it is odd. ", "It is 6 + 1. ", "We have 7 of them and 2. "):
        assert first(before + "So it is 7. Is it? \\boxed{7}") == before + "So it is 7"


def test_an_answer_that_is_nowhere_stated_before_is_stated_at_the_end_and_no_answer_has_no_place() -> None:
    texts = ["Let me think. \\boxed{\\text{blue}}", "so x is 3 or", "", "cut: x = 3. Then"]
    assert first_answers(texts, [None, None, None, False]) == [1.0, None, None, None]


def test_the_laptops_traces_state_it_at_the_end_of_the_first_chain_that_gives_it() -> None:
    rng, settings, early = random.Random(11), Arithmetic(largest=49), 0
    for _ in range(100):
        chain = thinking.draw_chain(rng, rng.choice((2, 3, 4, 5)), settings.largest)
        trace, value = thinking.think(rng, chain, settings)
        text = f"{trace} </think> \\boxed{{ {value} }}"
        assert first(text).endswith(f" {value}")
        early += first(text).count("Compute ") < len(chain.steps)
    assert early <= 25  # a result on the way can equal the answer


@pytest.mark.parametrize("text", [
    "= " + "1" * 30000 + "x", "= " + "1," * 15000 + "!", "\\boxed{" * 4000, "\\boxed{" + "{" * 20000, "= $" * 9000,
    "answer is " * 3000, "is (" * 10000, "let " * 8000 + "= 3.", "= " + "(1" * 9000, "=" + "\n" * 20000, "= 3 a" * 6000])
def test_hostile_text_takes_no_time(text: str) -> None:
    began = time.process_time()
    list(first_answer.statements(text))
    assert time.process_time() - began < 2
