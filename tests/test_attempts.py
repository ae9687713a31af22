"""Solution attempts: where a trace arrives at a candidate, which of them is right first, and what comes after."""

from __future__ import annotations

import random
import time

import pytest

from kit.behavior import attempts
from kit.laptop import thinking
from kit.settings import Arithmetic

FIRST_PASS = "Compute 17 first * 4 = 68 . Compute 68 second - 39 = 29 ."
CHECK = ("That gives 29 . Wait , let me double-check . 17 first * 4 = 68 , 68 second - 39 = 29 . "
         "That gives 29 , I had 29 : 29 - 29 = 0 . Yes .")
AGAIN = CHECK.removeprefix("That gives 29 . ").replace("Wait , let me double-check", "Alternatively , let me check again")
ANSWER = "Therefore , the answer is 29 ."


def one(thinking: str, gold: str = "29", final: str = "29") -> attempts.Attempts:
    return attempts.find([f"{thinking} </think> \\boxed{{ {final} }}"], [gold])[0]


def test_a_trace_without_checks_is_one_attempt_and_its_answer_sentence_is_none_of_its_own() -> None:
    found = one(f"{FIRST_PASS} {ANSWER}")
    assert found.count == 1
    assert found.first_correct == pytest.approx(len(FIRST_PASS) / len(f"{FIRST_PASS} {ANSWER}"))


def test_every_whole_check_is_an_attempt_and_what_follows_the_first_is_redundant() -> None:
    text = f"{FIRST_PASS} {CHECK} {AGAIN} {ANSWER}"
    found = one(text)
    assert found.count == 3
    assert found.first_correct == pytest.approx(len(f"{FIRST_PASS} That gives 29 .") / len(text))


def test_a_check_of_one_step_is_no_attempt_unless_it_changes_the_result() -> None:
    checked = f"{FIRST_PASS} Wait , 68 second - 39 : 68 - 30 = 38 , 38 - 9 = 29 ."
    assert one(f"{checked} That gives 29 . {ANSWER}").count == 1
    mended = f"{FIRST_PASS.replace('29', '39')} Wait , 68 second - 39 : 68 - 30 = 38 , 38 - 9 = 29 ."
    found = one(f"{mended} {ANSWER}")
    assert found.count == 1 and found.first_correct == pytest.approx(len(mended) / len(f"{mended} {ANSWER}"))


def test_a_wrong_first_attempt_counts_and_a_right_one_can_be_lost() -> None:
    wrong = "Compute 17 first * 4 = 68 . Compute 68 second - 39 = 39 . That gives 39 ."
    turn = "Wait , let me double-check . 17 first * 4 = 68 , 68 second - 39 = 29 . That gives 29 , I had 39 : 39 - 29 = 10 ."
    found = one(f"{wrong} {turn} {ANSWER}")
    assert found.count == 2
    assert found.first_correct == pytest.approx(len(f"{wrong} {turn}") / len(f"{wrong} {turn} {ANSWER}"))
    right = wrong.replace("= 39", "= 29").replace("gives 39", "gives 29")
    lost = "Wait , let me double-check . 17 first * 4 = 68 , 68 second - 39 = 39 . That gives 39 , I had 29 : 39 - 29 = 10 ."
    found = one(f"{right} {lost} Therefore , the answer is 39 .", final="39")
    assert found.count == 2 and found.first_correct == pytest.approx(len(right) / len(f"{right} {lost} {ANSWER}"))


def test_real_traces_say_it_in_many_ways() -> None:
    text = ("We need the sum.\n\nFirst, 3x = 12, so x = 4.\n\nTherefore, the total is \\(\\frac{1}{2} \\cdot 4 + 5 = 7\\).\n\n"
            "Wait, let me verify.\n\n\\[\n2 + 5 = 7\n\\]\n\nSo the answer is $7$.\n\nAlternatively, add 4 and 3: 4 + 3 = 7.\n\n"
            "So I'm confident that the answer is **7**.")
    found = attempts.find([f"<think>{text}</think>\n\nThe sum is \\boxed{{7}}."], ["7.0"])[0]
    assert found.count == 3  # x = 4 is a step
    first = text.index("7\\).") + 4
    assert found.first_correct == pytest.approx((first + 0) / len(text), abs=0.01)


def test_values_are_compared_by_the_grader_and_not_by_their_letters() -> None:
    assert one("So x = \\dfrac{3}{6}. Wait, let me check.", gold="0.5", final="\\frac{1}{2}").count == 0  # nowhere said outright
    found = one("So the answer is \\frac{3}{6}. Then 1 + 1 = 2.", gold="0.5", final="1/2")
    assert found.count == 1 and found.first_correct is not None


def test_without_a_gold_answer_or_any_text_there_is_no_correct_attempt() -> None:
    assert attempts.find([f"{FIRST_PASS} {ANSWER}", ""], ["", "29"]) == [attempts.Attempts(1, None), attempts.Attempts(0, None)]


def test_attempts_are_those_the_generator_wrote() -> None:
    rng, a = random.Random(11), Arithmetic(largest=49)
    right = 0
    for _ in range(100):
        chain = thinking.draw_chain(rng, rng.choice((2, 3, 4, 5)), a.largest)
        trace, value = thinking.think(rng, chain, a)
        written = 1 + sum(trace.count(said) for said in ("let me double-check .", "let me check again .", "compute it again ."))
        right += one(trace, gold=str(chain.answer), final=str(value)).count == written
    assert right >= 95  # results on the way that happen to equal an answer can mislead


@pytest.mark.parametrize("text", [
    "= " + "1" * 30000 + "x", "= " + "1," * 15000 + "!", "\\boxed{" * 4000, "\\boxed{" + "{" * 20000,
    "answer is " * 3000, "a again " * 4000, "3 is not " * 3000, "is (" * 10000])
def test_hostile_text_takes_no_time(text: str) -> None:
    began = time.process_time()
    attempts.candidates(text)
    assert time.process_time() - began < 2
