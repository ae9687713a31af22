"""Phases by cues: what a step is, which cue wins, what is said of a broken cue file, and that hostile text costs no time."""

from __future__ import annotations

import dataclasses
import random
import time
from pathlib import Path

import pytest
from conftest import stage_keys

from kit.behavior import phases
from kit.behavior.phases import (
    ANSWER,
    BREAK_DOWN,
    CHECK_LOCAL,
    CHECK_WHOLE,
    COMPUTE,
    EXPLORE,
    KNOWN,
    PHASES,
    REFORMULATE,
    SUBSTITUTE,
    UNDERSTAND,
    Cues,
)
from kit.chain.stages import stages
from kit.laptop import thinking
from kit.settings import ROOT, Arithmetic, KitError, load

LAPTOP = [
    ("Okay , the problem says start with 17 , first + 28 , second - 9 .", UNDERSTAND),
    ("Compute 17 first + 28 = 35 .", COMPUTE),
    ("Wait , 17 first + 28 : 17 + 20 = 37 , 37 + 8 = 45 .", CHECK_LOCAL),
    ("Compute 45 second - 9 = 46 .", COMPUTE),
    ("That gives 46 .", ANSWER),
    ("Wait , let me double-check .", CHECK_WHOLE),
    ("17 first + 28 = 45 , 45 second - 9 = 36 .", CHECK_WHOLE),  # the check that was announced
    ("That gives 36 , I had 46 : 46 - 36 = 10 .", CHECK_WHOLE),
    ("But wait , not the same .", CHECK_LOCAL),
    ("Let me compute it again .", CHECK_WHOLE),
    ("17 first + 28 : 17 + 20 = 37 , 37 + 8 = 45 , 45 second - 9 = 36 .", CHECK_WHOLE),
    ("That gives 36 .", CHECK_WHOLE),
    ("Alternatively , let me check again .", CHECK_WHOLE),
    ("17 first + 28 = 45 , 45 second - 9 = 36 .", CHECK_WHOLE),
    ("That gives 36 , I had 36 : 36 - 36 = 0 .", CHECK_WHOLE),
    ("Yes .", CHECK_WHOLE),
    ("Therefore , the answer is 36 .", ANSWER),
]
REAL = [
    ("Okay, so I need to find the area of the triangle whose sides are 13, 14 and 15.", UNDERSTAND),
    ("Let me denote the sides by a, b and c.", REFORMULATE),
    ("I remember Heron's formula: the area is \\(\\sqrt{s(s-a)(s-b)(s-c)}\\).", KNOWN),
    ("First, I need to find the semi-perimeter s.", BREAK_DOWN),
    ("\\[\ns = \\frac{13 + 14 + 15}{2} = 21\n\\]", COMPUTE),
    ("Plugging s = 21 back into the formula:", SUBSTITUTE),
    ("21 · 8 · 7 · 6 = 7056, and its square root is 84.", COMPUTE),
    ("Hmm, wait. Is that right? 84 squared is 7056, yes.", CHECK_LOCAL),
    ("Alternatively, I could put the side 14 on the x-axis. Then the height is 12, and 14 · 12 / 2 = 84.", EXPLORE),
    ("Let me go over everything once more from the beginning to make sure I haven't missed anything.", CHECK_WHOLE),
    ("**Final Answer**\n\nThe area is \\boxed{84}.", ANSWER),
]


@pytest.mark.parametrize("trace", [LAPTOP, REAL], ids=["laptop", "real"])
def test_each_step_has_the_phase_a_reader_would_give_it(trace: list[tuple[str, str]], cues: Cues) -> None:
    steps, expected = zip(*trace, strict=True)
    assert phases.label(steps, cues) == list(expected)


def test_a_doubt_wins_over_the_work_in_the_same_step(cues: Cues) -> None:
    steps = ["We need 3 + 4.", "3 + 4 = 8.", "Wait, 3 + 4 = 8? No, 3 + 4 = 7. Then 7 * 2 = 14.", "7 * 2 = 14."]
    assert phases.label(steps, cues)[1:] == [COMPUTE, CHECK_LOCAL, COMPUTE]


def test_a_step_without_a_strong_opening_has_the_commonest_phase_of_its_sentences(cues: Cues) -> None:
    step = "Recall that 2 is prime. Then 3 + 4 = 7. Twice that: 7 * 2 = 14. Wait, is it?"
    assert phases.label(["x", step], cues)[1] == COMPUTE


def test_an_announced_check_ends_where_the_work_goes_on_and_lasts_no_longer_than_a_few_steps(cues: Cues) -> None:
    assert phases.label(["x", "Let me verify:", "2 * 3 = 6", "So 6 * 2 = 12.", "12 + 1 = 13"], cues)[1:] == [
        CHECK_LOCAL, CHECK_LOCAL, COMPUTE, COMPUTE]
    endless = phases.label(["x", "Let me verify:", *["2 * 3 = 6"] * 20], cues)
    assert endless.count(CHECK_LOCAL) == 1 + phases.LASTS


def test_place_decides_where_words_do_not(cues: Cues) -> None:
    assert phases.label(["The sides are 3 and 4.", "12", "Thus it is 12."], cues) == [UNDERSTAND, COMPUTE, ANSWER]
    assert phases.label(["3 * 4 = 12"], cues) == [COMPUTE]  # a pruned trace that starts with the work
    late = phases.label(["I need to find x.", *["1 + 1 = 2"] * 8, "I need to find y."], cues)
    assert (late[0], late[-1]) == (UNDERSTAND, BREAK_DOWN)


def test_every_phase_has_a_kind_and_every_generated_trace_keeps_its_core_steps(cues: Cues) -> None:
    assert set(phases.KINDS) == set(PHASES) and len(PHASES) == 10
    rng, a = random.Random(4), Arithmetic(largest=49)
    for _ in range(50):
        chain = thinking.draw_chain(rng, rng.choice((2, 3, 4)), a.largest)
        trace, _ = thinking.think(rng, chain, a)
        labels = phases.label(phases.steps_of(trace, "sentences"), cues)
        assert labels.count(COMPUTE) == trace.count("Compute ") == len(chain.steps)
        assert labels.count(CHECK_LOCAL) == trace.lower().count("wait , ") - trace.count("let me double-check .")


def test_steps_are_paragraphs_of_the_thinking_or_sentences_where_there_are_none() -> None:
    text = "<think>One. Two is 3.5, e.g. here.\n\nThree?\nFour</think>\n\nFive."
    assert phases.steps_of(text, "paragraphs") == ["One. Two is 3.5, e.g. here.", "Three?\nFour"]
    assert phases.steps_of(text, "sentences") == ["One.", "Two is 3.5, e.g. here.", "Three?", "Four"]
    assert phases.steps_of("a . b = 3 . c", "sentences") == ["a .", "b = 3 .", "c"]
    assert phases.steps_of("<think>\n\n</think> 7", "paragraphs") == []


def test_what_a_step_is_is_decided_for_all_responses_together() -> None:
    assert phases.unit_of(["a\n\nb</think>", "a\n\nb", "short"]) == "paragraphs"
    assert phases.unit_of(["a\n\nb", "a . b", "c . d"]) == "sentences"
    assert phases.unit_of(["a . b </think>\n\nfinal"]) == "sentences"  # only blank lines in the thinking count
    assert phases.unit_of([]) == "sentences"


@pytest.mark.parametrize("text", ["=" * 30000, "so " * 10000, "wait, " * 5000, ". " * 10000, "1. " * 9000, "plug" + " x" * 15000,
                                  "*" * 30000, "let me just " * 3000, " " * 30000 + "!", "\\boxed{" * 4000])
def test_hostile_text_takes_no_time(text: str, cues: Cues) -> None:
    began = time.process_time()
    for unit in ("paragraphs", "sentences"):
        phases.label(phases.steps_of(text, unit), cues)
    assert time.process_time() - began < 2


CUES = (ROOT / "params" / "shared" / "phases.yaml").read_text(encoding="utf-8")


def changed(folder: Path, old: str, new: str) -> Path:
    """A copy of the kit's cues with one text in place of another."""
    assert old in CUES
    path = folder / "mine.yaml"
    path.write_text(CUES.replace(old, new, 1), encoding="utf-8")
    return path


def test_another_opinion_is_another_cue(tmp_path: Path, cues: Cues) -> None:
    mine = phases.read_cues(changed(tmp_path, "    \\bboth (?:methods", "    ^there it is\n    \\bboth (?:methods"))
    steps = ["x", "So there it is: 7.", "7 + 1 = 8"]
    assert phases.label(steps, cues)[1] == COMPUTE and phases.label(steps, mine)[1] == CHECK_WHOLE


@pytest.mark.parametrize(("old", "new", "told"), [
    ("Understanding the Problem:", "A first look:",
     "mine.yaml: `cues` should have the ten phases that params/shared/phases.yaml has; "
     "A first look is none of them"),
    ("    \\bdifferently\\b", "    (differently",
     "mine.yaml: `cues.Exploring Alternative Approaches`: (differently is no regular expression"),
    ("(?:wait|hmm|but|no)", "(?:wait|hmm", "mine.yaml: `words.OPEN`: (?:wait|hmm is no regular expression"),
    ("words:", "wards:", "mine.yaml: should have the tables `words` and `cues`, and `announced`; "
     "it has wards, announced, cues"),
    ("announced: |\n ", "announced: |\n\nexplained: |\n ", "it has words, announced, explained, cues"),
    ("announced: |\n ", "announced: # |\n# ", "mine.yaml: `announced` should have regular expressions, one a line"),
])
def test_a_broken_cue_file_is_told_in_one_line(tmp_path: Path, old: str, new: str, told: str) -> None:
    with pytest.raises(KitError) as error:
        phases.read_cues(changed(tmp_path, old, new))
    assert told in str(error.value)


def test_a_missing_phase_or_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "few.yaml"
    path.write_text("cues: {}\nwords: {}\nannounced: x\n")
    with pytest.raises(KitError, match="few.yaml: `cues` should have the ten phases .*; Applying .* is missing"):
        phases.read_cues(path)
    with pytest.raises(KitError, match=r"no file .*none.yaml; the kit's own is params/shared/phases.yaml"):
        phases.read_cues(tmp_path / "none.yaml")


def test_a_changed_cue_redoes_what_looks_at_phases_and_a_changed_comment_nothing(tmp_path: Path) -> None:
    config = load(ROOT / "params" / "smoke.yaml")
    found = stages(config)

    def keys(old: str, new: str) -> dict[str, str]:
        mine = dataclasses.replace(config.behavior, phases=str(changed(tmp_path, old, new)))
        return stage_keys(dataclasses.replace(config, behavior=mine), found)

    before = stage_keys(config, found)
    assert keys("# A turn to something else.", "# Something else.") == before
    after = keys("\\bdifferently\\b", "\\botherwise\\b")
    assert [name for name in before if before[name] != after[name]] == ["05_behavior", "06_figures"]
