"""Generation logs in the official format: read as if the kit had made them, and written."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import real, stage_keys
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit.behavior import behavior
from kit.chain import runner, verify
from kit.chain.stages import Stage, stages
from kit.evaluation import comparisons, evaluate
from kit.report import behavior_figures, style, tables, texts, trade_off
from kit.rollout import logs, models, records
from kit.rollout.records import Rollout
from kit.runs import catalog, files, manifest, paths
from kit.settings import ROOT, Config, KitError, load
from kit.settings.schema import Logs

SETS = {"aime24": 30, "amc23": 40, "olympiadbench": 675}
ROLLOUTS = [Rollout(f"p{i}", f"question {i}?", str(i), None, [f"\\boxed{{{i}}}", "hm"], [3, 1], [True, False]) for i in range(7)]


def official(folder: Path, *ranks: list[dict[str, Any]]) -> Path:
    """Rank files with these rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, rows in enumerate(ranks):
        (folder / f"rank{k}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def row(number: int = 1, **fields: Any) -> dict[str, Any]:
    return {"question": f"question {number}?", "answer": [str(number), "x"], "model_answer": ["\\boxed{1}", "\\boxed{2}"],
            "model_answer_length": [5, 7], **fields}


# --- reading ----------------------------------------------------------------------------------------------------------


def test_rank_files_are_read_in_order_and_of_a_list_of_answers_the_first_is_the_gold_one(tmp_path: Path) -> None:
    folder = official(tmp_path, *([row(10 * k), row(10 * k + 1)] for k in range(11)))  # rank10 comes after rank9, not rank1
    got = logs.read(folder)
    assert [r.answer for r in got] == [str(10 * k + i) for k in range(11) for i in (0, 1)]
    assert got[0].model_answer_length == [5, 7] and got[0].finished == [None, None]
    assert got[0].id.startswith("log-") and len({r.id for r in got}) == 22
    assert logs.read(folder / "rank3.jsonl") == got[6:8]


def test_a_missing_rank_file_is_told_instead_of_leaving_its_problems_out(tmp_path: Path) -> None:
    official(tmp_path, [row(1)], [row(2)], [row(3)])
    (tmp_path / "rank1.jsonl").unlink()
    with pytest.raises(KitError, match="rank0.jsonl, rank1.jsonl, … without a gap; there is rank0.jsonl, rank2.jsonl"):
        logs.read(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(KitError, match="without a gap; there is nothing"):
        logs.read(tmp_path / "empty")


@pytest.mark.parametrize(("bad", "message"), [
    (3, "not a JSON object"), (row(model_answer=[]), "`model_answer` should be a list of texts"),
    (row(model_answer="text"), "for each of the 1 responses"), (row(model_answer=[1, 2]), "`model_answer` should be a list"),
    *((row(model_answer_length=lengths), "`model_answer_length` should be a list with a token count for each of the 2 responses")
      for lengths in ([5], [5, "7"], [5, True], [5, -1], [5, 10**400])),
    (row(id="a\rb"), "`id` should be a whole number or a text, of characters"), (row(core=-1), "`core` should be a whole number"),
    (row(finished=[1, 0]), "`finished` should be a list with true or false"), (row(answer=None), "no `answer`"),
    (row(7, model_answer=["a", "b"]), "a problem that was there before; is there another run's file in the folder?"),
])
def test_a_bad_line_is_told_by_file_and_row(tmp_path: Path, bad: Any, message: str) -> None:
    with pytest.raises(KitError) as caught:
        logs.read(official(tmp_path, [row(7)], [row(8), bad]))
    assert str(caught.value).startswith("rank1.jsonl row 2: ") and message in str(caught.value)


def test_responses_in_lines_of_their_own_are_one_problems_and_rows_that_pad_a_batch_count_once(tmp_path: Path) -> None:
    single = [row(1, model_answer=f"\\boxed{{{k}}}", model_answer_length=float(k)) for k in (7, 8)]
    (got,) = logs.read(official(tmp_path / "single", single))
    assert got.model_answer == ["\\boxed{7}", "\\boxed{8}"] and got.model_answer_length == [7, 8]
    padded = logs.read(official(tmp_path / "padded", [row(1), row(2)], [row(3), row(1)]))
    assert [r.question for r in padded] == [row(k)["question"] for k in (1, 2, 3)]


values = st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | st.text(max_size=4) | st.lists(
    st.none() | st.booleans() | st.integers(-2, 9) | st.text(max_size=4) | st.just("\ud83d"), max_size=3)
rows = values | st.dictionaries(st.sampled_from(list(row())), values) | st.builds(
    row, st.integers(0, 3), model_answer_length=values, finished=values, id=values)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=st.lists(rows, max_size=4))
def test_any_lines_at_all_are_either_rollouts_or_refused_in_one_line(tmp_path: Path, made: list[Any]) -> None:
    folder = official(tmp_path, made)
    try:
        got = logs.read(folder)
    except KitError as error:
        told = str(error)
        assert any(words in told for words in ("rank0.jsonl row ", "no rollouts", "have the id")) and "\n" not in told
        return
    assert all(len(r.model_answer) == len(r.model_answer_length) == len(r.finished) > 0 for r in got)


# --- writing ----------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    for lists in (False, True):  # as the official code wants it of some sets
        path = tmp_path / str(lists) / "rank0.jsonl"
        logs.write(path, ROLLOUTS, lists)
        assert logs.read(path.parent) == ROLLOUTS
        first = json.loads(path.read_text().splitlines()[0])
        assert first["answer"] == (["0"] if lists else "0") and first["model_answer_length"] == [3, 1]
        with pytest.raises(KitError, match="there are rank files already"):
            logs.write(path, ROLLOUTS, lists)


# --- as models of a run -----------------------------------------------------------------------------------------------


def plain_logs(world: Config, folder: Path, *also: str, **change: Any) -> Config:
    """`world`, in another run, with its base model's rollouts as an official log, of the kit's fields only those in `also`."""
    run = paths.of(world)
    for name in world.data.evaluation:
        lines = [json.loads(line) for line in run.rollouts("base", name).read_text().splitlines()]
        fields = ("question", "answer", "model_answer", "model_answer_length", *also)
        kept = [{k: line[k] for k in fields} | change for line in lines]
        official(folder / name, kept[:3], kept[3:])
    given = Logs({"base": {name: str(folder / name) for name in world.data.evaluation}})
    return dataclasses.replace(world, run=f"logs-{len(change)}", schedules={}, logs=given)


@pytest.fixture(scope="module")
def evaluated(tiny_world: Config) -> pd.DataFrame:
    return evaluate.evaluate_model(tiny_world, "base")


def test_a_log_is_measured_like_the_rollouts_it_was_made_from(
    tiny_world: Config, evaluated: pd.DataFrame, tmp_path: Path
) -> None:
    columns = ["set", "problems", "samples", "accuracy", "length", "truncated", "length_correct", "length_wrong", "n_correct",
               "n_wrong"]
    table = evaluate.evaluate_model(plain_logs(tiny_world, tmp_path / "all", "finished"), "base")
    pd.testing.assert_frame_equal(table[columns], evaluated[columns])
    settings = plain_logs(tiny_world, tmp_path / "plain")
    table = evaluate.evaluate_model(settings, "base")
    assert list(table.length) == list(evaluated.length)
    assert table.truncated.isna().all() and not evaluated.truncated.isna().any()  # unknown is not "finished"
    again = evaluate.load_grades(settings, "base")["two"]
    assert again.finished.isna().all() and again.length.dtype.kind in "if"


def test_missing_lengths_are_unknown_everywhere_and_never_a_crash(
    tiny_world: Config, evaluated: pd.DataFrame, tmp_path: Path
) -> None:
    settings = plain_logs(tiny_world, tmp_path, "finished", model_answer_length=None)
    table = evaluate.evaluate_model(settings, "base")
    assert table[["length", "length_low", "length_high", "length_wrong"]].isna().all(axis=None)
    assert list(table.accuracy) == list(evaluated.accuracy) and not table.accuracy_low.isna().any()
    comparisons.compare_models(settings)
    behavior.write_tables(settings)
    assert tables.main_table(settings).loc["base", "length (tokens)"] == "unknown"
    assert set(tables.keyword_table(settings)["core per 1,000 tokens"]) == {"unknown"}
    style.show(trade_off.trade_off, settings)


def test_missing_lengths_are_counted_with_the_tokenizer_that_params_name(
    tiny_world: Config, evaluated: pd.DataFrame, tmp_path: Path
) -> None:
    settings = plain_logs(tiny_world, tmp_path, "finished", model_answer_length=None)
    settings = dataclasses.replace(settings, logs=dataclasses.replace(
        settings.logs, tokenizer=str(paths.of(tiny_world).base_model)))
    evaluate.evaluate_model(settings, "base")
    for name in tiny_world.data.evaluation:
        made = list(records.read(paths.of(tiny_world).rollouts("base", name)))
        read = list(records.read(paths.of(settings).rollouts("base", name)))
        tokenizer = models.load_tokenizer(paths.of(tiny_world).base_model, tiny_world)
        assert [r.model_answer_length for r in read] == [[len(tokenizer(t)["input_ids"]) for t in r.model_answer] for r in made]
    nowhere = dataclasses.replace(settings, logs=dataclasses.replace(settings.logs, tokenizer=str(tmp_path)))
    with pytest.raises(KitError, match="its tokenizer cannot be loaded"):
        evaluate.evaluate_model(nowhere, "base")


def test_beside_models_of_the_run_a_log_gets_the_ids_of_its_data_set(
    tiny_world: Config, evaluated: pd.DataFrame, tmp_path: Path
) -> None:
    given = plain_logs(tiny_world, tmp_path).logs.models["base"]
    mixed = dataclasses.replace(tiny_world, logs=Logs({"theirs": given}))
    assert catalog.model_names(mixed) == ["base", "iterative/round1", "iterative/round2", "theirs"]
    evaluate.evaluate_model(mixed, "theirs")
    both = [evaluate.load_grades(mixed, model) for model in ("base", "theirs")]
    assert set(comparisons.compare(*both, 100, 0).accuracy_change) == {0.0}
    with pytest.raises(KitError, match="of theirs there are logs only .* cannot be asked anything new"):
        catalog.model_source(mixed, "theirs")
    lines = (tmp_path / "two" / "rank0.jsonl").read_text().replace("Start with", "Begin with")
    (tmp_path / "two" / "rank0.jsonl").write_text(lines)
    with pytest.raises(KitError, match="3 of the data set are not in its log, such as .Start.*; 3 of its log .* such as .Begin"):
        evaluate.evaluate_model(mixed, "theirs")


def test_a_run_of_logs_has_only_stages_that_read_and_a_changed_log_redoes_them(tmp_path: Path) -> None:
    for model in ("base", "other"):
        for name in ("two", "three"):
            official(tmp_path / model / name, [row(1)])
    lines = ["run: mine", "data: {evaluation: [two, three]}", f"logs: {{folder: {tmp_path}, models: {{",
             "base: {two: base/two, three: base/three}, other: {two: other/two, three: other/three}}}"]
    (tmp_path / "mine.yaml").write_text("\n  ".join(lines[2:]).join(["\n".join(lines[:2]) + "\n", "\n"]))
    settings = load(tmp_path / "mine.yaml")
    found = stages(settings)
    assert [s.name for s in found] == ["03_evaluate-base", "03_evaluate-other", "05_behavior", "06_figures"]
    before = stage_keys(settings, found)
    official(tmp_path / "other" / "two", [row(1), row(2)])
    after = stage_keys(settings, found)
    assert {name for name in before if before[name] != after[name]} == {"03_evaluate-other", "05_behavior", "06_figures"}


def of_logs(folder: Path, base: list[dict[str, Any]], other: list[dict[str, Any]], **more: Any) -> Config:
    """A run of two models by their logs of one set."""
    official(folder / "base", base)
    official(folder / "other", other)
    settings = {"run": "mine", "data": {"evaluation": ["two"]},
                "logs": {"folder": str(folder), "models": {"base": {"two": "base"}, "other": {"two": "other"}}}, **more}
    (folder / "mine.yaml").write_text(json.dumps(settings))
    return load(folder / "mine.yaml")


def test_models_by_their_logs_are_matched_by_question_and_graded_against_the_bases_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KIT_RESULTS", str(tmp_path / "results"))
    settings = of_logs(tmp_path, [row(1, id="a1"), row(2, id="a2")], [row(2, id="z2", answer="999"), row(1, id="z1")])
    for model in ("base", "other"):
        evaluate.evaluate_model(settings, model)
    assert "warning: other, two: 1 gold answers are not those of base's log, such as '999', there '2'" in capsys.readouterr().out
    both = [evaluate.load_grades(settings, model)["two"] for model in ("base", "other")]
    assert [set(table.id) for table in both] == [{"a1", "a2"}] * 2
    comparisons.compare_models(settings)
    assert list(pd.read_csv(paths.of(settings).metrics / "changes.csv").accuracy_change) == [0]


def test_a_log_without_gold_answers_is_graded_against_the_data_set_that_params_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIT_RESULTS", str(tmp_path / "results"))
    (tmp_path / "two.csv").write_text("question,answer\nquestion 1?,1\nquestion 2?,2\n")
    told = {"evaluation": ["two"], "files": {"two": str(tmp_path / "two.csv")}}
    asked = [row(k, question=f"Box it. question {k}?", answer=None) for k in (1, 2)]
    config = of_logs(tmp_path, asked, asked, data=told)
    assert list(evaluate.evaluate_model(config, "base").accuracy) == [50]  # of the boxes 1 and 2 one is right each time
    with pytest.raises(KitError, match="rank0.jsonl row 1: no `answer`"):
        evaluate.evaluate_model(of_logs(tmp_path, asked, asked), "base")


def test_the_numbers_of_a_run_of_logs_are_verified_from_the_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIT_RESULTS", str(tmp_path / "results"))
    config = of_logs(tmp_path, [row(1), row(2)], [row(2), row(1)])
    manifest.write_manifest(config, {})
    for model in ("base", "other"):
        evaluate.evaluate_model(config, model)
    comparisons.compare_models(config)
    behavior.write_tables(config)
    differences, cells = verify.verify(paths.of(config).root)
    assert differences == [] and cells > 100
    official(tmp_path / "other", [row(2, model_answer=["\\boxed{-1}"] * 2), row(1)])
    changed, _ = verify.verify(paths.of(config).root)
    assert any(line.startswith("metrics/main.csv line ") and ", accuracy: " in line for line in changed)
    path = paths.of(config).manifest
    made = files.read_json(path)
    files.write_json(path, made | {"commit": "abcdef0123", "settings": made["settings"] | {"old": 1}})
    with pytest.raises(KitError, match="another version of the kit made this run; check out its commit, abcdef0, .*key `old`"):
        verify.verify(paths.of(config).root)
    files.write_json(path, made)
    paths.of(config).grades("base", "two").unlink()
    with pytest.raises(KitError, match=rf"^{config.run}/grades/base/two.csv: not there yet.* \({config.run} is not finished"):
        verify.verify(paths.of(config).root)


@pytest.mark.parametrize(("other", "told"), [
    ([row(1)], r"other, two: of the problems 1 of base's log are not in its log, such as 'question 2\?'"),
    ([row(1), row(2), row(3)], r"other, two: of the problems 1 of its log are not in base's log, such as 'question 3\?'"),
])
def test_logs_of_other_problems_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: list, told: str) -> None:
    monkeypatch.setenv("KIT_RESULTS", str(tmp_path / "results"))
    with pytest.raises(KitError, match=told):
        evaluate.evaluate_model(of_logs(tmp_path, [row(1), row(2)], other), "other")


def test_an_answer_with_a_carriage_return_is_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIT_RESULTS", str(tmp_path / "results"))
    odd = row(1, model_answer=["so \\boxed{1\r\r cm}", "\\boxed{\0\n2}"])
    settings = of_logs(tmp_path, [odd, row(2)], [row(1), row(2)])
    first = evaluate.evaluate_model(settings, "base")
    pd.testing.assert_frame_equal(evaluate.evaluate_model(settings, "base"), first)
    assert first.problems[0] == 2 and len(evaluate.load_grades(settings, "base")["two"]) == 4


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe", b"id,sample\n", b"twice"])
def test_damaged_grades_are_told_and_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes) -> None:
    monkeypatch.setenv("KIT_RESULTS", str(tmp_path / "results"))
    settings = of_logs(tmp_path, [row(1), row(2)], [row(1), row(2)])
    first = evaluate.evaluate_model(settings, "base")
    path = paths.of(settings).grades("base", "two")
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*whole[:-1], whole[1]]) if damage == b"twice" else damage)
    with pytest.raises(KitError, match=r"two.csv: damaged; run notebooks/03_evaluate.ipynb again"):
        evaluate.load_grades(settings, "base")
    pd.testing.assert_frame_equal(evaluate.evaluate_model(settings, "base"), first)
    assert path.read_bytes() == b"".join(whole)


@pytest.mark.parametrize("keywords", [{}, {"hesitation": []}, {"hesitation": [" "]}])
def test_lists_of_words_without_words_are_refused(tmp_path: Path, keywords: dict) -> None:
    with pytest.raises(KitError, match="`keywords"):
        of_logs(tmp_path, [row(1)], [row(1)], keywords=keywords)


@pytest.mark.parametrize(("change", "message"), [
    ({"models": {"other": {"two": "a", "three": "b"}}}, "`logs.models` has no `base`"),
    ({"models": {"base": {"two": "a"}}}, "should name a log for each set of data.evaluation, and no other: three"),
    ({"models": {"base": {"two": "a", "three": "b"}}, "labels": {"x": "y"}}, "`logs.labels.x` is not in logs.models"),
    ({"models": {"base": {"two": "a", "three": "b", "four": "c"}}}, "for each set of data.evaluation, and no other: four"),
    ({"models": {"base": {"two": "a", "three": "b"}, "main": {"two": "a", "three": "b"}}},
     "`logs.models.main`: a schedule or a table in metrics/ is called so"),
    ({"models": {"base": {"two": "a", "three": "b"}, "y": {"two": "a", "three": "b"}}, "labels": {"y": "base"}},
     "`logs.labels` calls two models the same: base, base"),
    ({"models": {"base": {"two": "a", "three": "b"}}, "pairs": ["other"]}, "`behavior.pairs` names other; there are base"),
    ({"models": {"../x": {"two": "a", "three": "b"}}}, "`logs.models.../x` is '../x'; should be a name of letters"),
])
def test_a_bad_logs_section_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    change = dict(change)
    table = {"run": "x", "data": {"evaluation": ["two", "three"]}, "behavior": {"pairs": change.pop("pairs", [])}, "logs": change}
    (tmp_path / "mine.yaml").write_text(json.dumps(table))
    with pytest.raises(KitError) as caught:
        load(tmp_path / "mine.yaml")
    assert message in str(caught.value)


# --- the real logs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["instruct", "rlft"])
@pytest.mark.parametrize("name", list(SETS))
def test_every_real_log_loads_with_all_its_rows(model: str, name: str) -> None:
    got = logs.read(real(f"traces/qwen2.5_3b_{model}_{name}.jsonl"), name)
    assert len(got) == SETS[name] and all(len(r.model_answer) == 1 and r.model_answer_length == [None] for r in got)


def test_the_labelled_traces_have_no_gold_answers_and_are_refused_in_one_line() -> None:
    with pytest.raises(KitError, match="r1_distill_labelled.jsonl row 1: no `answer`"):
        logs.read(real("traces/r1_distill_labelled.jsonl"))


def test_the_evaluation_notebook_turns_the_logs_of_both_real_models_into_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """params/traces.yaml as it is, but for the folder, which has at most 100 responses of each set; then the tables and figures
    that notebook 06 draws."""
    monkeypatch.setenv("KIT_RESULTS", str(tmp_path))
    (tmp_path / "traces").mkdir()
    for log in real("traces").glob("qwen2.5_3b_*.jsonl"):
        with log.open(encoding="utf-8") as rows:
            (tmp_path / "traces" / log.name).write_text("".join(itertools.islice(rows, 100)), encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(f"extends: {ROOT}/params/traces.yaml\nlogs: {{folder: {tmp_path / 'traces'}}}\n")
    mine = load(tmp_path / "mine.yaml")
    evaluate.evaluate_model(mine, "base")
    runner.execute(Stage("03_evaluate-rlft", "03_evaluate", {"schedule": "rlft"}), mine)
    copy = (paths.of(mine).notebooks / "03_evaluate-rlft.ipynb").read_text()
    assert "lengths unknown for 100" in copy and "lengths unknown." in copy and "Sampling(" not in copy
    comparisons.compare_models(mine)
    behavior.write_tables(mine)
    main = pd.read_csv(paths.of(mine).metrics / "main.csv")
    assert list(main.model) == ["base"] * 4 + ["rlft"] * 4 and list(main.set) == [*SETS, "mean"] * 2
    assert list(main.problems[:3]) == [min(rows, 100) for rows in SETS.values()]
    assert main.length.isna().all() and main.truncated.isna().all()
    assert ((main.accuracy_low <= main.accuracy) & (main.accuracy <= main.accuracy_high)).all()
    assert (main.accuracy_high - main.accuracy_low)[main.set == "olympiadbench"].between(11, 14).all()  # 100 problems, 10 to 14 %
    for r in main[main.set != "mean"].itertuples():  # by the harness's own verdicts, which are wrong both ways, but not by much
        file = tmp_path / "traces" / f"qwen2.5_3b_{'instruct' if r.model == 'base' else 'rlft'}_{r.set}.jsonl"
        theirs = [json.loads(line)["harness_verdicts"][0] for line in file.read_text().splitlines()]
        assert abs(r.accuracy - 100 * sum(theirs) / len(theirs)) < 8
    table = tables.main_table(mine)
    assert list(table.index) == ["Qwen2.5-3B-Instruct", "the same after RL"]
    assert table.loc["the same after RL", "length (tokens)"] == table.loc["the same after RL", "length change (%)"] == "unknown"
    assert "length unknown, accuracy +" in texts.conclusions(mine)["Against the base model"][0]
    drawn = (trade_off.trade_off, trade_off.relative_trade_off, trade_off.efficiency, trade_off.equal_spend,
             trade_off.problem_changes)
    for draw in (*drawn, *behavior_figures.available(mine)):  # with no length known, each says so or stays empty
        assert style.show(draw, mine).alt
