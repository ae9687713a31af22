"""Budget forcing: what is cut, what is left alone, and where a model lies against the curve, by hand and with a real model."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import families
import pandas as pd
import pytest
from fake_run import MIDDLE, Thinker

from kit.data import problems, prompts
from kit.evaluation import evaluate, forcing
from kit.laptop import arithmetic
from kit.rollout import engines, records
from kit.rollout.records import Response, Rollout, Sampling
from kit.runs import catalog, paths
from kit.settings import Config, KitError, load
from kit.settings.schema import Forcing

# How far the ends of an interval of two problems lie out, in the distance of the resamples' extremes: a t interval's.
WIDE = math.sqrt(2) * 12.7062 / 1.959964


LAPTOP = load("params/laptop.yaml")
SHORT = Forcing(budgets=(5, 12, 20), models=("base",), samples=2, answer_tokens=4)


def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **changes: object) -> Config:
    """A run whose problems exist; `Thinker` stands for its model."""
    monkeypatch.setenv("KIT_RESULTS", str(tmp_path))
    smoke = load("params/smoke.yaml")
    small = dataclasses.replace(smoke.arithmetic, train_problems=20, validation_problems=5, evaluation_problems=6)
    made = dataclasses.replace(smoke, run="forced", arithmetic=small, **{"forcing": SHORT, **changes})
    arithmetic.make_data(made)
    return made


def ids_of(folder: Path) -> dict[str, list[list[int]]]:
    return {r.id: r.model_answer_ids for r in records.read(folder / "thinking.jsonl")}


# --- where thinking ends ----------------------------------------------------------------------------------------------


def test_the_end_of_thinking_is_counted_in_tokens_of_the_model() -> None:
    tok = arithmetic.make_tokenizer()
    ids = tok("Compute first 2 + 3 = 5 . </think> \\boxed{ 5 }")["input_ids"]
    assert forcing.thinking_end(ids, True, tok) == 9  # eight words, and the tag
    assert forcing.thinking_end(ids[:8], False, tok) == math.inf  # still thinking
    assert forcing.thinking_end(ids[:6], True, tok) == 6  # ended without the tag


def test_the_tag_is_found_as_one_token_and_when_the_model_spells_it() -> None:
    tok = families.make_tokenizer("deepseek", ["some text to learn from"])
    tag = tok.convert_tokens_to_ids("</think>")
    letters = [tok.convert_tokens_to_ids(c) for c in "</think>"]
    text = tok("2+3 is 5", add_special_tokens=False)["input_ids"]
    assert forcing.thinking_end([*text, tag, *text], True, tok) == len(text) + 1
    assert forcing.thinking_end([*text, *letters, *text], True, tok) == len(text) + len(letters)
    assert forcing.thinking_end([*text, *letters[:-1]], False, tok) == math.inf


# --- cutting ----------------------------------------------------------------------------------------------------------


class Script:
    """An engine that gives prepared token ids: first the thinking, afterwards always the same answer. Keeps its prompts."""

    batch_size = 2

    def __init__(self, tokenizer: object, thinking: list[list[int]], answer: list[int]) -> None:
        self.tokenizer, self.thinking, self.answer = tokenizer, thinking, answer
        self.asked: list[list[list[int]]] = []

    def generate(self, asked: Sequence[list[int]], how: Sampling, seeds: Sequence[int]) -> Iterator[tuple[int, list[Response]]]:
        self.asked.append([list(p) for p in asked])
        rows = self.thinking if how.samples > 1 else [self.answer]
        for k in reversed(range(len(asked))):  # engines may answer in any order
            yield k, [records.as_response(ids, {self.tokenizer.eos_token_id}, self.tokenizer) for ids in rows]


def test_a_response_is_cut_on_the_tokens_it_was_written_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model wrote `abc` letter by letter; encoding that text again gives another number of tokens."""
    tok = families.make_tokenizer("deepseek", ["abc abc abc", *(LAPTOP.prompts.text("forcing_user"),)])
    made = world(tmp_path, monkeypatch)
    letters = [tok.convert_tokens_to_ids(c) for c in "abcabcabc"]
    assert len(tok("abcabcabc", add_special_tokens=False)["input_ids"]) < 9
    done = [*letters[:3], tok.convert_tokens_to_ids("</think>"), letters[0], tok.eos_token_id]
    engine = Script(tok, [letters, done], [letters[1], tok.eos_token_id])
    one = dataclasses.replace(made, data=dataclasses.replace(made.data, evaluation=("two",)))
    forcing.force(one, "base", engine)
    ending = prompts.tokenize(tok, made.prompts.text("forcing_ending"))
    question = forcing.prompt(made, problems.load("two", made)[0].question, tok)
    assert engine.asked[0] == [question]
    first_forced = engine.asked[6][0]  # six problems were asked to think; then budget 5
    assert first_forced == question + letters[:5] + ending
    r = next(records.read(paths.of(made).forcing("base", "two") / "budget5.jsonl"))
    assert r.model_answer_length == [5 + len(ending) + 2, 6] and r.model_answer[1] == "abc</think>a"
    assert r.model_answer[0] == "abcab" + tok.decode(ending) + "b" and r.finished == [True, True]


def test_a_line_break_before_the_tag_is_added_only_where_the_thinking_does_not_end_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the official code does."""
    tok = families.make_tokenizer("deepseek", ["abc\nabc", "</think>\n"])
    made = world(tmp_path, monkeypatch)
    words = dataclasses.replace(made.prompts, forcing_ending="\n</think>\n\n")
    made = dataclasses.replace(made, prompts=words, data=dataclasses.replace(made.data, evaluation=("two",)))
    a, broken = tok.convert_tokens_to_ids("a"), tok("\n", add_special_tokens=False)["input_ids"]
    assert len(broken) == 1 and tok.decode(broken) == "\n"
    engine = Script(tok, [[a] * 30, [*[a] * 4, *broken, *[a] * 30]], [a, tok.eos_token_id])
    forcing.force(made, "base", engine)
    assert next(records.read(paths.of(made).forcing("base", "two") / "budget5.jsonl")).model_answer == [
        "aaaaa\n</think>\n\na", "aaaa\n</think>\n\na"]


def test_what_ended_within_the_budget_is_left_alone_and_the_rest_is_answered(tmp_path: Path,
                                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    made = world(tmp_path, monkeypatch, forcing=dataclasses.replace(SHORT, budgets=(10, 40, 100), answer_tokens=8))
    engine = Thinker(made, MIDDLE)
    forcing.force(made, "base", engine)
    table = forcing.measure_forced(made, "base")
    seen = {"left": 0, "forced": 0}
    for name in made.data.evaluation:
        folder = paths.of(made).forcing("base", name)
        ids, thinking = ids_of(folder), {r.id: r for r in records.read(folder / "thinking.jsonl")}
        for budget in made.forcing.budgets:
            grades = pd.read_csv(folder / f"budget{budget}.csv").set_index(["id", "sample"])
            for r in records.read(folder / f"budget{budget}.jsonl"):
                for s, own in enumerate(ids[r.id]):
                    end = forcing.thinking_end(own, thinking[r.id].finished[s], engine.tokenizer)
                    assert grades.forced[r.id, s] == (end > budget)
                    if end <= budget:
                        assert r.model_answer[s] == thinking[r.id].model_answer[s] == engine.tokenizer.decode(own[:-1])
                        assert r.model_answer_length[s] == len(own)
                    else:
                        words = engine.tokenizer.decode(own[:budget]) + " </think> The final answer is \\boxed{"
                        assert r.model_answer[s].startswith(words)
                        assert r.model_answer_length[s] == budget + 5 + 4  # the ending; box, number, brace, end
                    seen["forced" if end > budget else "left"] += 1
    assert min(seen.values()) > 3
    at = table.set_index(["budget", "set"])
    assert at.forced[10, "mean"] == 100 and at.length[10, "mean"] == 19 and at.forced[100, "mean"] < 100


def test_thinking_is_generated_once_not_once_per_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = world(tmp_path, monkeypatch)
    engine = Thinker(made)
    forcing.force(made, "base", engine)
    long = [count for count, most in engine.calls if most == 24]  # the largest budget, 20, and 4 tokens for the answer
    assert sum(long) == 12 and {most for _, most in engine.calls} == {24, 4}  # two sets of six problems, each asked once
    calls = len(engine.calls)
    forcing.force(made, "base", engine)
    assert len(engine.calls) == calls and len(forcing.measure_forced(made, "base")) == 9  # all on file: nothing is made again


def test_the_evaluations_responses_are_cut_where_both_ask_with_the_same_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are sampled alike; so only the answers are asked for. With another wording, or without ids, thinking is generated."""
    made = world(tmp_path, monkeypatch, evaluation=dataclasses.replace(load("params/smoke.yaml").evaluation, samples=3))
    engine = Thinker(made)
    monkeypatch.setattr(catalog, "model_source", lambda config, model: model)
    monkeypatch.setattr(evaluate.engines, "get_engine", lambda source, config: engine)
    evaluate.evaluate_model(made, "base")
    engine.calls.clear()
    forcing.force(made, "base", engine)
    assert {most for _, most in engine.calls} == {4}  # tokens of an answer
    folder, evaluated = paths.of(made).forcing("base", "two"), list(records.read(paths.of(made).rollouts("base", "two")))
    assert all(r.model_answer_ids is not None and len(r.model_answer_ids) == 2 for r in evaluated)  # of three responses
    for r in records.read(folder / "budget12.jsonl"):
        own = next(e for e in evaluated if e.id == r.id)
        assert len(r.model_answer) == 2 < len(own.model_answer)
        for text, ids in zip(r.model_answer, own.model_answer_ids, strict=True):
            assert text.startswith(engine.tokenizer.decode(ids[:12]))
    kept = (folder / "budget12.csv").read_bytes()
    files = {path: path.read_bytes() for path in folder.glob("*.jsonl")}
    for r in evaluated:  # evaluated anew by hand: what was forced stays as it was
        r.model_answer_ids[0][0] += 1
    paths.of(made).rollouts("base", "two").write_text("".join(map(records.as_line, evaluated)))
    forcing.force(made, "base", engine)
    assert (folder / "budget12.csv").read_bytes() == kept and all(path.read_bytes() == files[path] for path in files)

    other = dataclasses.replace(made, run="other", prompts=dataclasses.replace(made.prompts, forcing_user="{question} Think ."))
    arithmetic.make_data(other)
    evaluate.evaluate_model(other, "base")
    assert next(records.read(paths.of(other).rollouts("base", "two"))).model_answer_ids is None
    engine.calls.clear()
    forcing.force(other, "base", engine)
    assert {most for _, most in engine.calls} == {24, 4}


@pytest.mark.parametrize(("forced", "evaluation", "count"), [
    ({}, {}, 2), ({"samples": None}, {}, 3), ({"samples": 4}, {}, 0),  # more than there are
    ({"budgets": (5, 200)}, {}, 2), ({"budgets": (5, 201)}, {}, 0),  # longer than they can be
    ({"models": ("pruned",)}, {}, 0), ({"budgets": ()}, {}, 0), ({}, {"second_bos": True}, 0),
    ({}, {"samples_by_set": {"two": 1}}, 0), ({"samples": None}, {"samples_by_set": {"two": 1}}, 1),
])
def test_responses_of_the_evaluation_serve_where_they_are_what_forcing_would_ask_for(
    forced: dict, evaluation: dict, count: int
) -> None:
    smoke = load("params/smoke.yaml")
    how = dataclasses.replace(smoke.evaluation, **{"samples": 3, "max_new_tokens": 200} | evaluation)
    made = dataclasses.replace(smoke, evaluation=how, forcing=dataclasses.replace(SHORT, **forced))
    assert evaluate.forced_samples(made, "base", "two") == count


def test_an_interrupted_forcing_ends_with_the_same_responses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = world(tmp_path / "a", monkeypatch)
    forcing.force(whole, "base", Thinker(whole))
    expected = forcing.measure_forced(whole, "base")
    torn = world(tmp_path / "b", monkeypatch)

    class Stops(Thinker):
        def generate(self, *arguments: object) -> Iterator[tuple[int, list[Response]]]:
            if len(self.calls) == 5:
                raise KeyboardInterrupt
            yield from super().generate(*arguments)

    with pytest.raises(KeyboardInterrupt):
        forcing.force(torn, "base", Stops(torn))
    forcing.force(torn, "base", Thinker(torn))
    pd.testing.assert_frame_equal(forcing.measure_forced(torn, "base"), expected)


def test_an_engine_that_keeps_no_token_ids_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = world(tmp_path, monkeypatch)

    class Forgets(Thinker):
        def generate(self, *arguments: object) -> Iterator[tuple[int, list[Response]]]:
            for k, group in super().generate(*arguments):
                yield k, [dataclasses.replace(r, ids=[]) for r in group]

    with pytest.raises(KitError, match="thinking.jsonl: the token ids of two-0 are missing"):
        forcing.force(made, "base", Forgets(made))


def test_a_real_model_answers_from_the_tokens_it_thought(tiny_world: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy: a forced response is what the model says to prompt + first tokens + ending, nothing else; also piece by piece."""
    monkeypatch.setattr(forcing, "CHUNK", 2)
    run = paths.of(tiny_world)
    how = dataclasses.replace(tiny_world.evaluation, temperature=0.0)
    made = dataclasses.replace(tiny_world, evaluation=how, forcing=Forcing((3, 6), ("base",), 1, 5))
    engine = engines.TransformersEngine(catalog.base_model(made), made)
    forcing.force(made, "base", engine)
    forced = 0
    for p in problems.load("two", made):
        thinking = next(r for r in records.read(run.forcing("base", "two") / "thinking.jsonl") if r.id == p.id)
        r = next(r for r in records.read(run.forcing("base", "two") / "budget6.jsonl") if r.id == p.id)
        ids, = thinking.model_answer_ids
        if forcing.thinking_end(ids, thinking.finished[0], engine.tokenizer) <= 6:
            assert r.model_answer == thinking.model_answer
            continue
        forced += 1
        begin = [*ids[:6], *prompts.tokenize(engine.tokenizer, made.prompts.text("forcing_ending"))]
        start = forcing.prompt(made, p.question, engine.tokenizer) + begin
        (_, (answer,)), = engine.generate([start], Sampling(1, 0.0, 1.0, 5), [0])
        assert r.model_answer == [engine.tokenizer.decode([*begin, *answer.ids], skip_special_tokens=True)]
        assert r.model_answer_length == [len(begin) + answer.length]
        *grown, (last, cut) = forcing.stream_forced(made, engine, p.question, 6, 0)
        assert [now.length for now, _ in grown[:3]] == [2, 4, 6] and cut and not grown[0][1]
        assert [last.text] == r.model_answer and [last.length] == r.model_answer_length
    assert forced
    line = json.loads((run.forcing("base", "two") / "budget6.jsonl").read_text().splitlines()[0])
    assert line["model_answer_ids"] is None and set(line) == set(Rollout.__dataclass_fields__)


# --- against the curve ------------------------------------------------------------------------------------------------


def grades(accuracies: list[int], length: int) -> pd.DataFrame:
    """Ten samples a problem, `accuracies` tenths of them right, all of one length."""
    rows = [(f"p{i}", s, "correct" if s < a else "wrong", "", length, True, 5)
            for i, a in enumerate(accuracies) for s in range(10)]
    return pd.DataFrame(rows, columns=evaluate.GRADE_COLUMNS)


def test_the_curve_is_read_off_at_the_models_own_length() -> None:
    curve = [{"s": grades([1, 3], 10)}, {"s": grades([5, 7], 30)}]  # 20 % at 10 tokens, 60 % at 30
    row = forcing.against_curve(curve, {"s": grades([6, 8], 20)}, 200, 0).iloc[0]
    assert (row.length, row.accuracy, row.forced, row.gap) == pytest.approx((20, 70, 40, 30))
    assert (row.gap_low, row.gap_high) == pytest.approx((30, 30))  # every problem gains as much: paired, no width
    # Wilson's intervals of two problems: 20 % [1.76, 77.70], 60 % [13.16, 93.69]; half way between them
    assert row.shared and (row.forced_low, row.forced_high) == pytest.approx((7.46, 85.69), abs=0.01)
    assert not row.above  # two problems are no evidence
    models = [g["s"] for g in (*curve, {"s": grades([6, 8], 20)})]
    many = [{"s": pd.concat([g.assign(id=g.id + str(k)) for k in range(50)])} for g in models]
    assert forcing.against_curve(many[:2], many[2], 200, 0).iloc[0].above  # 70 ± 2 against 40 ± 2


def test_a_point_within_the_curves_interval_is_not_called_above() -> None:
    curve = [{"s": grades([1, 9], 10)}, {"s": grades([1, 9], 30)}]
    row = forcing.against_curve(curve, {"s": grades([3, 9], 20)}, 200, 0).iloc[0]
    assert row.gap == pytest.approx(10) and not row.above


def test_a_curve_at_zero_percent_has_an_interval_all_the_same() -> None:
    """0 of 30 problems: a bootstrap would say [0, 0], Wilson says up to 11 %; 13 % of 30 problems is not above that."""
    curve = [{"s": grades([0] * 30, 10)}, {"s": grades([0] * 30, 30)}]
    row = forcing.against_curve(curve, {"s": grades([10] * 4 + [0] * 26, 20)}, 200, 0).iloc[0]
    assert (row.forced, row.forced_low) == (0, 0) and 11 < row.forced_high < 12 and 5 < row.accuracy_low < 7
    assert row.gap_low > 0 and not row.above


def test_the_example_is_one_response_at_every_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = world(tmp_path, monkeypatch, forcing=dataclasses.replace(SHORT, budgets=(10, 40, 100), answer_tokens=8, samples=1))
    with pytest.raises(KitError, match="budget10.csv: not there yet; run notebooks/04"):
        forcing.example(made)
    engine = Thinker(made, MIDDLE)
    forcing.force(made, "base", engine)
    table = forcing.example(made)
    folder = paths.of(made).forcing("base", "two")
    whole = {r.model_answer[0]: r.id for r in records.read(folder / "thinking.jsonl")}
    assert list(table.index) == [10, 40, 100] and table.forced[10]
    cut = table.response[10].partition(" </think>")[0]
    (problem,) = {id for text, id in whole.items() if text.startswith(cut)}
    for budget in table.index:
        assert table.response[budget] in [r.model_answer[0] for r in records.read(folder / f"budget{budget}.jsonl")
                                          if r.id == problem]


def test_a_length_that_the_curve_does_not_reach_is_not_compared() -> None:
    curve = [{"s": grades([1, 3], 10)}, {"s": grades([5, 7], 30)}]
    row = forcing.against_curve(curve, {"s": grades([6, 8], 31)}, 50, 0).iloc[0]
    assert not row.shared and not row.above and math.isnan(row.gap) and row.accuracy == pytest.approx(70)


def test_the_mean_over_sets_is_compared_at_its_own_mean_length() -> None:
    curve = [{"s": grades([2], 10), "t": grades([0], 20)}, {"s": grades([6], 30), "t": grades([4], 40)}]
    point = {"s": grades([9], 20), "t": grades([3], 30)}  # mean length 25; the curve's means: 10 % at 15, 50 % at 35
    row = forcing.against_curve(curve, point, 50, 0).set_index("set").loc["mean"]
    assert (row.length, row.accuracy, row.forced) == pytest.approx((25, 60, 30))
