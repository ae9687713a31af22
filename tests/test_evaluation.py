"""Metrics against numbers worked out by hand, and rollouts that survive interruption."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kit.data import problems
from kit.evaluation import comparisons, evaluate, metrics
from kit.reward import grading
from kit.rollout import engines, records
from kit.rollout.records import Response, Rollout, Sampling
from kit.runs import catalog, paths
from kit.settings import Config, KitError, load


def graded(rows: list[tuple[str, int, str, int, bool]]) -> pd.DataFrame:
    """(id, sample, verdict, length, finished) -> grades as `evaluate.grade` makes them; the core is 10 tokens."""
    return pd.DataFrame([(i, s, v, "", n, f, 10) for i, s, v, n, f in rows], columns=evaluate.GRADE_COLUMNS)


TWO_PROBLEMS = graded([
    ("a", 0, "correct", 10, True), ("a", 1, "correct", 30, True),
    ("b", 0, "wrong", 60, True), ("b", 1, "correct", 20, False),
])


def test_accuracy_length_truncation_and_multiple_are_what_one_works_out_by_hand() -> None:
    row = metrics.measure({"set": TWO_PROBLEMS}, resamples=200, seed=0).iloc[0]
    assert row.accuracy == pytest.approx(75.0)  # a: 100, b: 50
    assert row.length == pytest.approx(30.0)  # a: 20, b: 40
    assert row.multiple == pytest.approx(3.0)
    assert row.truncated == pytest.approx(25.0)
    assert row.length_correct == pytest.approx(20.0) and row.length_wrong == pytest.approx(60.0)
    assert (row.n_correct, row.n_wrong, row.n_timeout) == (3, 1, 0)
    # Wilson's interval; with half a problem's worth of failures a problem counts as one observation, so n = 2.
    middle, reach, below = 0.75 + 1.96**2 / 4, 1.96 * math.sqrt(0.75 * 0.25 / 2 + 1.96**2 / 16), 1 + 1.96**2 / 2
    expected = (100 * (middle - reach) / below, 100 * (middle + reach) / below)
    assert (row.accuracy_low, row.accuracy_high) == pytest.approx(expected, rel=1e-4)


def test_the_mean_over_sets_weighs_each_set_equally() -> None:
    one = graded([("c", 0, "wrong", 100, True), ("c", 1, "wrong", 100, True)])
    table = metrics.measure({"x": TWO_PROBLEMS, "y": one}, resamples=200, seed=0).set_index("set")
    assert table.loc["mean", "accuracy"] == pytest.approx((75 + 0) / 2)
    assert table.loc["mean", "length"] == pytest.approx((30 + 100) / 2)
    assert table.loc["mean", "problems"] == 3


def test_the_interval_is_over_problems_not_over_samples() -> None:
    """100 problems, half always right, half always wrong: the standard error is 5 points however many samples there are."""
    rows = [(f"p{i:03}", s, "correct" if i % 2 else "wrong", 10, True) for i in range(100) for s in range(16)]
    row = metrics.measure({"set": graded(rows)}, resamples=4000, seed=0).iloc[0]
    assert (row.accuracy_high - row.accuracy_low) / 2 == pytest.approx(1.96 * 5.0, rel=0.1)


def test_a_model_compared_with_itself_shows_no_difference() -> None:
    row = comparisons.compare({"s": TWO_PROBLEMS}, {"s": TWO_PROBLEMS}, resamples=200, seed=0).iloc[0]
    assert (row.accuracy_change, row.accuracy_change_low, row.accuracy_change_high) == (0, 0, 0)
    assert row.length_change == 0 and row.p_value == 1.0


def test_comparisons_are_paired_on_problems() -> None:
    """Every problem gains exactly 10 points: the interval is narrow, Wilson's of 60 in 60, however different they are."""
    rng = np.random.default_rng(0)
    right = rng.integers(0, 9, 60)
    base = [(f"p{i}", s, "correct" if s < k else "wrong", 100, True) for i, k in enumerate(right) for s in range(10)]
    more = [(i, s, "correct" if s == 9 else v, 50, True) for i, s, v, _, _ in base]
    row = comparisons.compare({"s": graded(base)}, {"s": graded(more)}, resamples=500, seed=0).iloc[0]
    interval = row.accuracy_change, row.accuracy_change_low, row.accuracy_change_high
    assert interval == pytest.approx((10, 9.398, 10.602), abs=1e-3)
    assert row.length_change == pytest.approx(-50) and row.p_value < 0.01


def test_models_evaluated_on_different_problems_are_not_compared() -> None:
    with pytest.raises(KitError, match="not evaluated on the same problems"):
        comparisons.compare({"s": TWO_PROBLEMS}, {"s": TWO_PROBLEMS.replace("b", "c")}, resamples=10, seed=0)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """400 simulated evaluations of 100 problems x 4 samples; the true accuracy is 60 %."""
    rng, covered = np.random.default_rng(1), 0
    for k in range(400):
        p = rng.beta(3, 2, size=100)
        right = rng.random((100, 4)) < p[:, None]
        rows = [(f"p{i:03}", s, "correct" if right[i, s] else "wrong", 10, True) for i in range(100) for s in range(4)]
        row = metrics.measure({"set": graded(rows)}, resamples=400, seed=k).iloc[0]
        covered += row.accuracy_low <= 60.0 <= row.accuracy_high
    assert 0.915 <= covered / 400 <= 0.98


def test_a_response_gets_the_verdict_in_evaluation_that_its_reward_was_in_training() -> None:
    """No box: an answer in words counts where the response ended by itself, not where it was cut off."""
    text = "2 + 2 makes 4 .\nThe answer is 4"
    said = Rollout("p", "2 + 2?", "4", 3, [text, text], [9, 9], [True, False])
    assert list(evaluate.grade([said]).verdict) == ["correct", "no answer"]
    for finished, verdict in zip(said.finished, evaluate.grade([said]).verdict, strict=True):
        assert grading.grade(text, "4", finished=finished).verdict == verdict


def test_the_official_reading_asks_for_a_box_and_says_when_that_costs_many_answers(capsys: pytest.CaptureFixture[str]) -> None:
    said = Rollout("p", "2 + 2?", "4", 3, ["The answer is 4.", r"So \boxed{4}."], [9, 9], [True, True])
    assert list(evaluate.grade([said], "official").verdict) == ["no answer", "correct"]
    assert "1 of 2 responses answer without a box" in (told := capsys.readouterr().out) and "reading: last-number" in told


def test_evaluation_prompts_begin_with_a_second_beginning_token_where_params_ask_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the official evaluation of the DeepSeek family: its template writes one, its tokenizer adds another."""
    from families import make_tokenizer

    monkeypatch.setenv("KIT_RESULTS", str(tmp_path))
    tok, asked = make_tokenizer("deepseek", ["What is 1 + 1?"]), []

    class Recorder:
        tokenizer, batch_size = tok, 8

        def generate(self, prompts: list[list[int]], *_: object) -> Iterator[tuple[int, list[Response]]]:
            asked.extend(prompts)
            yield 0, [Response("4", 1, True)]

    monkeypatch.setattr(problems, "load", lambda name, config: PROBLEMS[:1])
    for second in (False, True):
        config = load("params/ds-1.5b.yaml")
        config = dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, second_bos=second))
        evaluate.respond(config, Recorder, "s", Sampling(1, 0.6, 0.95, 9), tmp_path / f"{second}.jsonl", "title")
    assert asked[1] == [tok.bos_token_id, *asked[0]] and asked[0][0] == tok.bos_token_id != asked[0][1]


# --- rollouts ---------------------------------------------------------------------------------------------------------

PROBLEMS = [problems.Problem(f"p{i}", f"question {i}", str(i), 5) for i in range(7)]


class Parrot:
    """An engine whose responses depend on the prompts and seeds alone; stops after `allowed` calls, as if killed."""

    batch_size: int | None = 4

    def __init__(self, allowed: int = 99) -> None:
        self.allowed = allowed

    def generate(self, prompts: list[list[int]], how: Sampling, seeds: list[int]) -> Iterator[tuple[int, list[Response]]]:
        if self.allowed == 0:
            raise KeyboardInterrupt
        self.allowed -= 1
        for k, p in enumerate(prompts):
            yield k, [Response(f"{p} {seeds[0]} {s}", seeds[0] % 50 + 1, True) for s in range(how.samples)]


class Stream(Parrot):
    """An engine that draws each prompt by itself and gives out the last one first; stops after `allowed` prompts."""

    batch_size = None

    def generate(self, prompts: list[list[int]], how: Sampling, seeds: list[int]) -> Iterator[tuple[int, list[Response]]]:
        for k in reversed(range(len(prompts))):
            if self.allowed == 0:
                raise KeyboardInterrupt
            self.allowed -= 1
            yield k, [Response(f"{prompts[k]} {seeds[k]} {s}", 7, True) for s in range(how.samples)]


def collect(path: Path, engine: Parrot, samples: int = 2) -> list[Rollout]:
    how = Sampling(samples, 0.6, 0.95, 50)
    return records.collect(lambda: engine, PROBLEMS, lambda p: [int(p.answer)], how, path, seed=3)


def test_an_interrupted_collection_ends_with_the_same_responses(tmp_path: Path) -> None:
    whole = collect(tmp_path / "whole.jsonl", Parrot())
    torn = tmp_path / "torn.jsonl"
    with pytest.raises(KeyboardInterrupt):
        collect(torn, Parrot(allowed=2))
    assert len(torn.read_text().splitlines()) == 4
    torn.write_text(torn.read_text()[:-20])  # the last line was being written
    assert collect(torn, Parrot()) == whole
    assert sorted(torn.read_text().splitlines()) == sorted((tmp_path / "whole.jsonl").read_text().splitlines())
    assert collect(torn, Parrot(allowed=0)) == whole  # all there: the engine is not asked again


def test_an_engine_that_streams_is_given_all_problems_and_after_a_stop_only_those_that_are_missing(tmp_path: Path) -> None:
    whole = collect(tmp_path / "whole.jsonl", Stream())
    assert [r.id for r in whole] == [p.id for p in PROBLEMS]  # in order, though they came in another
    assert len({r.model_answer[0].split()[1] for r in whole}) == 7  # each with a seed of its own
    torn = tmp_path / "torn.jsonl"
    with pytest.raises(KeyboardInterrupt):
        collect(torn, Stream(allowed=3))
    assert [json.loads(line)["id"] for line in torn.read_text().splitlines()] == ["p6", "p5", "p4"]  # written as they came
    engine = Stream(allowed=4)
    assert collect(torn, engine) == whole and engine.allowed == 0
    assert records.collect(Stream, [], lambda p: [0], Sampling(2, 0.6, 0.95, 50), tmp_path / "none.jsonl", seed=3) == []


def test_a_rollout_file_is_a_superset_of_the_official_log_format(tmp_path: Path) -> None:
    collect(tmp_path / "r.jsonl", Parrot())
    line = json.loads((tmp_path / "r.jsonl").read_text().splitlines()[0])
    assert {"question", "answer", "model_answer", "model_answer_length"} <= set(line)
    assert len(line["model_answer"]) == len(line["model_answer_length"]) == 2


def test_rollouts_of_other_problems_are_not_mixed_in(tmp_path: Path) -> None:
    collect(tmp_path / "r.jsonl", Parrot())
    with pytest.raises(KitError, match="another number of samples; move it away"):
        collect(tmp_path / "r.jsonl", Parrot(), samples=3)


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    collect(tmp_path / "r.jsonl", Parrot())
    lines = (tmp_path / "r.jsonl").read_text().splitlines()
    (tmp_path / "r.jsonl").write_text("\n".join([lines[0], "{", *lines[2:]]) + "\n")
    with pytest.raises(KitError, match=f"{tmp_path}/r.jsonl row 2: not JSON"):
        list(records.read(tmp_path / "r.jsonl"))
    (tmp_path / "r.jsonl").write_text("\n".join([lines[0], lines[1].replace('"finished"', '"ended"')]) + "\n")
    with pytest.raises(KitError, match=r"r.jsonl row 2: not a rollout record \(.* unexpected keyword argument 'ended'\)"):
        list(records.read(tmp_path / "r.jsonl"))


def test_the_engine_gives_the_same_responses_for_the_same_seed_and_counts_their_tokens(tiny_world: Config) -> None:
    engine = engines.get_engine(catalog.base_model(tiny_world), tiny_world)
    prompt = [5, 6, 7, 8]
    how = Sampling(3, 1.0, 1.0, 12)
    one, two, other = (dict(engine.generate([prompt, prompt[:2]], how, [seed, 9])) for seed in (1, 1, 2))
    assert one == two != other
    assert [len(group) for group in one.values()] == [3, 3]
    for response in [r for group in one.values() for r in group]:
        assert response.length <= 12 and (response.finished or response.length == 12)


def test_a_second_end_token_is_a_finish_not_a_truncation() -> None:
    class Words:
        def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
            return " ".join(map(str, ids))

    assert records.as_response([7, 8, 2, 0, 0], {1, 2}, Words()) == Response("7 8 2", 3, True)
    assert records.as_response([7, 8, 9], {1, 2}, Words()) == Response("7 8 9", 3, False)


def test_greedy_generation_does_not_depend_on_the_batch(tiny_world: Config) -> None:
    engine = engines.get_engine(catalog.base_model(tiny_world), tiny_world)
    how = Sampling(1, 0.0, 1.0, 10)
    alone = dict(engine.generate([[5, 6, 7, 8]], how, [0]))[0]
    together = dict(engine.generate([[9, 10, 11, 12, 13, 14], [5, 6, 7, 8]], how, [0, 0]))[1]
    assert alone == together


def test_a_folder_that_is_no_model_is_told_in_one_line(tiny_world: Config, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(KitError) as caught:
        engines.get_engine(tmp_path, tiny_world)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(KitError, match="run notebooks/01_base_model.ipynb"):
        catalog.base_model(dataclasses.replace(tiny_world, run="elsewhere"))


def test_a_model_is_evaluated_on_every_set(tiny_world: Config) -> None:
    table = evaluate.evaluate_model(tiny_world, "base")
    run = paths.of(tiny_world)
    assert list(table.set) == [*tiny_world.data.evaluation, "mean"]
    for name in tiny_world.data.evaluation:
        rows = list(records.read(run.rollouts("base", name)))
        assert len(rows) == 8 and all(len(r.model_answer) == tiny_world.evaluation.samples for r in rows)
        assert len(pd.read_csv(run.grades("base", name))) == 8 * tiny_world.evaluation.samples
    first = (run.metrics / "base.csv").read_bytes()
    evaluate.evaluate_model(tiny_world, "base")
    assert (run.metrics / "base.csv").read_bytes() == first
    with pytest.raises(KitError, match="there is no model iterative/round9"):
        catalog.model_source(tiny_world, "iterative/round9x")
