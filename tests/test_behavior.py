"""Notebook 05 on real responses: two models' logs without token counts as a run of their own, from responses to figures."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kit.behavior import behavior, phases
from kit.evaluation import evaluate
from kit.report import behavior_figures, inputs, sidebyside, style, tables, texts
from kit.reward.grading import extract_answer
from kit.rollout import records
from kit.rollout.records import Rollout
from kit.runs import files, paths
from kit.settings import ROOT, Config, KitError, Schedule, load

DATA = Path(os.environ.get("KIT_DATA", Path(__file__).parents[2] / "shared" / "data"))
MODELS = {"base": "instruct", "iterative/round1": "rlft"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    """A run whose models' responses are real ones: 20 problems of AMC23, half of the lengths unknown; and its folder."""
    folder = DATA / "traces"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent (set KIT_DATA to the folder of the real data)")
    results = tmp_path_factory.mktemp("real")
    smoke = load(ROOT / "params" / "smoke.yaml")
    settings = dataclasses.replace(
        smoke, run="real", data=dataclasses.replace(smoke.data, evaluation=("amc23",)),
        schedules={"iterative": Schedule(limits=(3000,), label="rlft")},
        evaluation=dataclasses.replace(smoke.evaluation, resamples=100),
        behavior=dataclasses.replace(smoke.behavior, reference=""),
        keywords={"hesitation": ("wait", "but wait", "alternatively"), "core": ("therefore", "let me compute")})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIT_RESULTS", str(results))
        fill(settings, folder)
        behavior.write_tables(settings)
    return settings, results


@pytest.fixture
def real(made: tuple[Config, Path], monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("KIT_RESULTS", str(made[1]))
    return made[0]


def fill(settings: Config, folder: Path) -> None:
    run = paths.of(settings)
    for model, file in MODELS.items():
        records = [json.loads(line) for line in (folder / f"qwen2.5_3b_{file}_amc23.jsonl").read_text().splitlines()[:20]]
        made = [
            Rollout(f"amc-{k}", r["question"], str(r["answer"]), None, r["model_answer"],
                    [len(r["model_answer"][0]) // 4 if model == "base" else None], [True])
            for k, r in enumerate(records)
        ]
        path = run.rollouts(model, "amc23")
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(dataclasses.asdict(r)) + "\n" for r in made))
        files.write_csv(run.grades(model, "amc23"), evaluate.grade(made))


def test_every_table_has_a_row_per_model_with_an_interval(real: Config) -> None:
    for name, column in (("keywords", "per_response"), ("phases", "share"), ("first_answer", "share_after"),
                         ("repetition", "repeated")):
        table = inputs.read(real, name)
        assert list(table.model.unique()) == list(MODELS) and list(table.schedule.unique()) == ["base", "iterative"]
        assert (table[f"{column}_low"] <= table[column]).all() and (table[column] <= table[f"{column}_high"]).all()
    assert behavior.step_unit(real) == "paragraphs"
    shares = inputs.read(real, "phases").groupby("model").share.sum()
    assert np.allclose(shares, 100)


def test_what_was_counted_is_kept_per_response(real: Config) -> None:
    kept = pd.read_csv(paths.of(real).traces("base", "amc23"))
    assert len(kept) == 20 and set(phases.PHASES) <= set(kept.columns)
    rollout = behavior.responses(real, "base", "amc23")[0]
    assert kept.steps[0] == len(phases.steps_of(rollout.model_answer[0], "paragraphs"))


def test_every_answer_has_a_first_statement_and_it_is_where_these_models_stop(real: Config) -> None:
    kept = pd.read_csv(paths.of(real).traces("base", "amc23"))
    answered = [bool(extract_answer(r.model_answer[0], finished=True)) for r in behavior.responses(real, "base", "amc23")]
    assert sum(answered) >= 15 and list(kept.stated.notna()) == answered
    assert kept.stated.mean() > 0.8  # they do not go over it again


def test_unknown_lengths_are_declared_and_left_empty(real: Config) -> None:
    (sentence,) = behavior.missing_lengths(real)
    assert sentence.startswith("iterative/round1, amc23: 100% of the responses have no token count")
    words = inputs.read(real, "keywords").set_index(["model", "keywords"])
    assert not math.isnan(words.per_1000_tokens["base", "core"]) and math.isnan(words.per_1000_tokens["iterative/round1", "core"])
    lengths = inputs.read(real, "percentiles").set_index("model").length
    assert lengths["base"].notna().any() and lengths["iterative/round1"].isna().all()


def test_all_figures_and_the_page_are_drawn_from_what_there_is(real: Config) -> None:
    drawn = [draw.__name__ for draw in behavior_figures.available(real) if style.show(draw, real)]
    assert drawn == ["keyword_bars", "phase_donuts", "first_answer_bars", "repetition_bars", "length_curves"]
    folder = paths.of(real).figures
    assert all((folder / f"{name}.{kind}").stat().st_size > 5000 for name in drawn for kind in ("png", "svg"))
    text, path = sidebyside.write(real)
    assert path == folder / "traces.html" and path.read_text() == text
    assert text.count("<section>") == len(sidebyside.pick(sidebyside.cases_of(real, MODELS))) >= 2
    assert "words: the log has no token counts" in text  # a case is compared in one unit


def test_changes_are_told_in_words_and_as_a_table(real: Config) -> None:
    table = tables.behavior_table(real)
    assert list(table.index) == ["base", "rlft, 3000"] and "%" in table.loc["rlft, 3000", "steps"]
    (sentence,) = texts.conclusions(real)["Behavior"]
    assert sentence.startswith("rlft, 3000 against base: ")
    assert all(told in sentence for told in ("core steps", "first statement of the answer", "runs of words seen before"))


def test_without_endpoint_or_reference_there_is_nothing_to_do(real: Config) -> None:
    assert behavior.write_judged_phases(real) is behavior.write_perplexity(real) is None


def test_the_labelling_models_phases_stand_beside_the_rules(
    real: Config, cues: phases.Cues, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = dataclasses.replace(real.behavior.judge, url="http://127.0.0.1:9/v1", model="m", responses=3)
    settings = dataclasses.replace(real, behavior=dataclasses.replace(real.behavior, judge=asked))

    def half(found: list[list[str]], *_: object) -> list[list[str | None]]:
        return [[one if k % 2 else None for k, one in enumerate(phases.label(steps, cues))] for steps in found]

    monkeypatch.setattr(behavior.judge, "label", half)
    table = behavior.write_judged_phases(settings).set_index(["model", "labeller", "phase"]).sort_index()
    left = table.share["base", "model", "unlabelled"]
    assert 45 < left < 65 and table.share["base", "rules", "unlabelled"] == 0 and table.kappa["base", "model"].max() == 1
    assert behavior_figures.judge_donuts(settings).axes


def test_perplexity_of_a_runs_traces_has_a_row_per_set(
    tiny_world: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kit.data.problems import load

    settings = dataclasses.replace(
        tiny_world, schedules={}, behavior=dataclasses.replace(tiny_world.behavior, reference="base"))
    monkeypatch.setattr(behavior, "responses", lambda _, model, name: list(records.read(tmp_path / f"{name}.jsonl")))
    for name in settings.data.evaluation:
        path = tmp_path / f"{name}.jsonl"  # not where other tests keep this run's own responses
        made = [Rollout(p.id, p.question, p.answer, p.core, [f"Compute first 1 + 1 = {k} ."], [8], [True])
                for k, p in enumerate(load(name, settings))]
        path.write_text("".join(json.dumps(dataclasses.asdict(r)) + "\n" for r in made))
    table = behavior.write_perplexity(settings)
    assert list(table.set) == ["two", "three", "mean"] and (table.perplexity_low < table.perplexity).all()
    assert (table.perplexity < table.perplexity_high).all() and (table.perplexity > 1).all() and table.tokens.iloc[0] > 0
    assert behavior_figures.perplexity_points(settings).axes


def test_a_table_of_other_models_or_a_damaged_one_is_told_in_one_line(real: Config) -> None:
    renamed = dataclasses.replace(real, schedules={"other": real.schedules["iterative"]})
    with pytest.raises(KitError, match=r"words.csv: is of iterative/round1, which .* does not name; run the notebook"):
        behavior_figures.keyword_bars(renamed)
    path = paths.of(real).metrics / "words.csv"
    whole = path.read_bytes()
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(KitError, match="words.csv: damaged"):
        behavior_figures.keyword_bars(real)
    path.write_bytes(whole)


def test_tables_of_measures_and_lengths_have_a_row_per_model(real: Config) -> None:
    assert list(tables.measure_table(real).index) == ["base", "rlft, 3000"]
    table = tables.length_table(real).reset_index()
    assert set(table.verdict) == {"correct", "wrong"} and "50 %" in table and set(table.model) == {"base", "rlft, 3000"}


def test_a_run_without_grades_is_told_in_one_line(real: Config) -> None:
    with pytest.raises(KitError, match="amc23.jsonl: not there yet; run notebooks/03"):
        behavior.step_unit(dataclasses.replace(real, run="nothing"))
    with pytest.raises(KitError, match="words.csv: not there yet"):
        behavior_figures.keyword_bars(dataclasses.replace(real, run="nothing"))
