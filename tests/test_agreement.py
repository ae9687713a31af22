"""How far the phases agree with labels that somebody's model gave to real traces: Cohen's kappa, by prompts, with an interval.

The labelled file has R1-distilled models thinking aloud, each sentence or so marked with one of six classes: `["deduction"] So x
is 3. ["end-section"]`. A marked section is taken as a step. The mapping below was made before any number was looked at. The six
classes divide second thoughts by doubt or change of course, the ten phases by what is looked at again, and the labelling model is
not sure there either: `four` counts those two classes as one. Trying out examples is no phase of the ten; it is left out.

The cues were written while looking at the development half of the prompts. No trace of the held-out half was looked at, and that
half is what counts; its kappa on five classes was 0.405, and 0.428 after a last round of cues chosen on the development half.
"""

from __future__ import annotations

import json
import re
import zlib

import numpy as np
import pandas as pd
import pytest
from conftest import real

from kit.behavior import measures, phases
from kit.behavior.phases import Cues

OURS = {
    phases.UNDERSTAND: "initializing", phases.REFORMULATE: "initializing", phases.KNOWN: "adding-knowledge",
    phases.BREAK_DOWN: "deduction", phases.COMPUTE: "deduction", phases.SUBSTITUTE: "deduction", phases.ANSWER: "deduction",
    phases.CHECK_LOCAL: "uncertainty-estimation", phases.CHECK_WHOLE: "uncertainty-estimation", phases.EXPLORE: "backtracking",
}
SECOND_THOUGHTS = dict.fromkeys(("uncertainty-estimation", "backtracking"), "second thoughts")
NO_COUNTERPART = "example-testing"
SEEN = "What's the probability of getting no pairs when dealt 5 cards?"  # its labels were read before the halves were made
MARK = re.compile(r'\[\s*"?\s*(?:\d+\.\s*)?(end-section|' + "|".join({*OURS.values(), NO_COUNTERPART}) + r')\s*"?\s*\]')


def sections(text: str) -> list[tuple[str | None, str]]:
    """(class, text) of each marked section; the class is None where a mark is missing."""
    found: list[tuple[str | None, str]] = []
    label, start = None, 0
    for mark in MARK.finditer(text):
        found.append((label, text[start : mark.start()].strip()))
        label, start = None if mark[1] == "end-section" else mark[1], mark.end()
    return [(one, part) for one, part in [*found, (label, text[start:].strip())] if part]


def labelled(records: list[dict[str, str]], cues: Cues) -> pd.DataFrame:
    """A row per marked section: question, held_out (by the prompt alone), theirs, ours."""
    rows = []
    for record in records:
        question, parts = record["question"], sections(record["annotated_response"])
        held_out = bool(zlib.crc32(question.encode()) % 2) and question != SEEN
        labels = phases.label([text for _, text in parts], cues)
        rows += [(question, held_out, theirs, OURS[phase]) for (theirs, _), phase in zip(parts, labels, strict=True) if theirs]
    return pd.DataFrame(rows, columns=["question", "held_out", "theirs", "ours"])


def kappa(steps: pd.DataFrame, resamples: int = 200) -> tuple[float, float, float]:
    """Kappa of `theirs` and `ours`, with a 95 % interval from a bootstrap over prompts."""
    prompts = [list(zip(own.theirs, own.ours, strict=True)) for _, own in steps.groupby("question")]
    rng = np.random.default_rng(1)
    drawn = [measures.kappa(sum((prompts[k] for k in rng.integers(0, len(prompts), len(prompts))), [])) for _ in range(resamples)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return measures.kappa(sum(prompts, [])), low, high


def test_kappa_is_that_of_the_textbook() -> None:
    def of(table: list[list[int]]) -> float:
        return measures.kappa([("abc"[i], "abc"[k]) for i, row in enumerate(table) for k, n in enumerate(row) for _ in range(n)])

    # observed (20 + 15) / 50 = 0.7; expected (25 * 30 + 25 * 20) / 2500 = 0.5
    assert of([[20, 5], [10, 15]]) == pytest.approx((0.7 - 0.5) / 0.5)
    # observed 9 / 12; expected (5 * 4 + 4 * 5 + 3 * 3) / 144 = 49 / 144
    assert of([[4, 1, 0], [0, 3, 1], [0, 1, 2]]) == pytest.approx((9 / 12 - 49 / 144) / (1 - 49 / 144))
    assert of([[0, 5], [5, 0]]) == pytest.approx(-1.0)
    assert np.isnan(of([[4]]))  # nothing that could be told apart


def test_marks_are_read_in_all_their_spellings() -> None:
    text = '["initializing"] Okay. ["end-section"]\n[deduction]So 2.["end-section"] [1. deduction]So 3.["end-section"] [ 1, 2 ]'
    assert sections(text) == [("initializing", "Okay."), ("deduction", "So 2."), ("deduction", "So 3."), (None, "[ 1, 2 ]")]


def test_the_mapping_covers_all_ten_phases() -> None:
    assert set(OURS) == set(phases.PHASES)


def test_perfect_labels_give_kappa_one_and_a_disagreement_within_second_thoughts_counts_in_five_classes_only(cues: Cues) -> None:
    marked = ('["initializing"] Okay, so I need to find x. ["end-section"] ["deduction"] x = 2 + 2 = 4 ["end-section"] '
              '["uncertainty-estimation"] Wait, is it? ["end-section"]')
    records = [{"question": f"question {k}", "annotated_response": marked} for k in range(40)]
    assert kappa(labelled(records, cues))[0] == 1
    doubted = {**records[0], "annotated_response": marked.replace("uncertainty-estimation", "backtracking")}
    steps = labelled([*records, doubted], cues)
    assert kappa(steps)[0] < 1 and kappa(steps.replace({"theirs": SECOND_THOUGHTS, "ours": SECOND_THOUGHTS}))[0] == 1


def test_the_cues_agree_with_real_labels_on_prompts_they_were_not_written_on(cues: Cues) -> None:
    lines = real("traces/r1_distill_labelled.jsonl").read_text(encoding="utf-8").splitlines()
    steps = labelled([json.loads(line) for line in lines], cues)
    assert len(steps) > 5500 and steps.question.nunique() == 100
    five = steps[steps.held_out & (steps.theirs != NO_COUNTERPART)]
    assert not set(five.question) & set(steps.question[~steps.held_out])
    value, low, high = kappa(five)
    assert value == pytest.approx(0.428, abs=0.005) and low < value < high
    assert kappa(five.replace({"theirs": SECOND_THOUGHTS, "ours": SECOND_THOUGHTS}))[0] > 0.4
