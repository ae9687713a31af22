"""Cohen's kappa by hand, the marks of the labelled file, and how far the rules agree with it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from kit.behavior import agreement, phases
from kit.settings import KitError

DATA = Path(os.environ.get("KIT_DATA", Path(__file__).parents[2] / "shared" / "data"))


def test_kappa_is_that_of_the_textbook() -> None:
    # observed (20 + 15) / 50 = 0.7; expected (25 * 30 + 25 * 20) / 2500 = 0.5
    assert agreement.kappa(np.array([[20, 5], [10, 15]])) == pytest.approx((0.7 - 0.5) / 0.5)
    # observed 9 / 12; expected (5 * 4 + 4 * 5 + 3 * 3) / 144 = 49 / 144
    assert agreement.kappa(np.array([[4, 1, 0], [0, 3, 1], [0, 1, 2]])) == pytest.approx((9 / 12 - 49 / 144) / (1 - 49 / 144))
    assert agreement.kappa(np.array([[0, 5], [5, 0]])) == pytest.approx(-1.0)
    assert np.isnan(agreement.kappa(np.zeros((2, 2))))


def test_marks_are_read_in_all_their_spellings() -> None:
    text = '["initializing"] Okay. ["end-section"]\n[deduction]So 2.["end-section"] [1. deduction]So 3.["end-section"] left over'
    assert agreement.sections(text) == [
        ("initializing", "Okay."), ("deduction", "So 2."), ("deduction", "So 3."), (None, "left over")]


def test_the_mapping_covers_all_ten_phases_and_five_of_the_six_classes() -> None:
    assert set(agreement.SIX_OF_TEN) == set(phases.PHASES)
    assert set(agreement.SIX) - set(agreement.SIX_OF_TEN.values()) == {agreement.NO_COUNTERPART}


def made_up(questions: int) -> list[agreement.Labelled]:
    right = [("initializing", "Okay, so I need to find x."), ("deduction", "x = 2 + 2 = 4"),
             ("uncertainty-estimation", "Wait, is it?")]
    return [agreement.Labelled("m", f"question {k}", right) for k in range(questions)]


def test_perfect_labels_give_kappa_one_and_halves_do_not_share_a_prompt() -> None:
    steps = agreement.steps(made_up(40))
    table = agreement.compare(steps, 100, 1)
    assert (table.kappa == 1).all() and set(table.half) == {"development", "held out"}
    assert not set(steps.question[steps.half == "held out"]) & set(steps.question[steps.half == "development"])


def test_a_disagreement_counts_once_in_five_classes_and_not_where_both_are_second_thoughts() -> None:
    traces = [*made_up(40), agreement.Labelled("m", "question 0", [("deduction", "1 + 1 = 2"), ("backtracking", "Wait, is it?")])]
    steps = agreement.steps(traces)
    table = agreement.compare(steps, 100, 1).set_index(["half", "classes"])
    half = traces[-1].half
    assert table.kappa[half, "five"] < 1 and table.kappa[half, "four"] == 1


def test_a_row_that_is_none_is_told_by_its_number(tmp_path: Path) -> None:
    file = tmp_path / "labelled.jsonl"
    file.write_text(json.dumps({"model": "m", "question": "q", "annotated_response": ""}) + "\n{}\n")
    with pytest.raises(KitError, match="labelled.jsonl row 2: should have model, question and annotated_response"):
        agreement.read(file)


def test_the_rules_agree_with_real_labels_on_prompts_they_were_not_written_on() -> None:
    file = DATA / "traces" / "r1_distill_labelled.jsonl"
    if not file.exists():
        pytest.skip(f"{file} is absent (set KIT_DATA to the folder of the real data)")
    steps = agreement.steps(agreement.read(file))
    assert len(steps) > 5500 and steps.question.nunique() == 100
    table = agreement.compare(steps, 200, 1).set_index(["half", "classes"])
    assert table.kappa["held out", "five"] > 0.4
    assert table.kappa["held out", "four"] > 0.4
    assert table.kappa_low["held out", "five"] < table.kappa["held out", "five"] < table.kappa_high["held out", "five"]
