"""The whole chain on params/smoke.yaml, by the command that `make reproduce` runs, and what users do wrong with it."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
from conftest import stage_keys

from kit.chain import commands, runner
from kit.chain.stages import Stage, results_of, settings_of, stages
from kit.report import gallery
from kit.runs import catalog, files, fingerprint, paths
from kit.settings import ROOT, Config, KitError, checks, load


def command(*arguments: str, results: Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "KIT_RESULTS": str(results), "HF_TOKEN": "hf_aSecretThatNobodyShouldSee"}
    line = [sys.executable, "-m", *arguments]
    return subprocess.run(line, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """One smoke run: its folder, and what the command printed."""
    results = tmp_path_factory.mktemp("smoke")
    done = command("kit", "run", "params/smoke.yaml", results=results)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return results / "smoke", done.stdout


@pytest.mark.slow
def test_the_chain_executes_every_notebook_without_error(smoke: tuple[Path, str]) -> None:
    folder, printed = smoke
    settings = load("params/smoke.yaml")
    expected = {stage.name for stage in stages(settings)} | {"00_run_all"}
    copies = {path.stem: json.loads(path.read_text()) for path in (folder / "notebooks").glob("*.ipynb")}
    assert set(copies) == expected
    for name, notebook in copies.items():
        outputs = [out for cell in notebook["cells"] if cell["cell_type"] == "code" for out in cell["outputs"]]
        assert not [out for out in outputs if out["output_type"] == "error"], name
        assert all(cell["execution_count"] for cell in notebook["cells"] if cell["cell_type"] == "code" and cell["source"]), name
    assert all(f"{name}: done in" in printed for name in expected - {"00_run_all"})


@pytest.mark.slow
def test_every_table_figure_and_csv_is_there_and_not_empty(smoke: tuple[Path, str]) -> None:
    folder, _ = smoke
    drawn = ("keyword_bars", "phase_donuts", "first_answer_bars", "repetition_bars", "perplexity_points", "length_curves",
             "relative_trade_off", "budget_forcing", "equal_spend", "efficiency", "problem_changes")
    for name in ("trade_off", "training_curves", "validation_points", *drawn):
        assert (folder / "figures" / f"{name}.png").stat().st_size > 10_000
        assert (folder / "figures" / f"{name}.svg").read_text().lstrip().startswith("<?xml")
    assert (folder / "report.html").stat().st_size > 100_000
    tables = ["main_table", "set_table", "keyword_table", "forcing_table", "gap_table", "one_shot_table", "controls_table",
               "spend_table", "published_paper", "published_autothink", "published_lapo", "published_decs"]
    csvs = [folder / "figures" / f"{name}.csv" for name in tables]
    metrics = ("main", "changes", "training", "validation", "keywords", "words", "phases", "first_answer", "repetition",
               "perplexity", "percentiles", "moves", "forcing", "forcing_gaps", "spend", "caps", "per_problem")
    csvs += [folder / "metrics" / f"{name}.csv" for name in metrics]
    assert "<section>" in (folder / "figures" / "traces.html").read_text()
    for path in csvs:
        assert len(pd.read_csv(path)) > 0, path.name
    assert all((folder / "figures" / f"{name}.md").stat().st_size > 50 for name in tables)
    models = {model.replace("/", "-") for model in catalog.model_names(load("params/smoke.yaml"))}
    assert {path.stem for path in (folder / "metrics").glob("*.csv")} - models <= checks.TABLES
    main = pd.read_csv(folder / "metrics" / "main.csv")
    assert list(main.model.unique()) == ["base", "iterative/round1", "iterative/round2", "one-shot/round1",
                                         "no-limit/round1"]
    assert list(main.set.unique()) == ["two", "three", "mean"]
    assert not list(folder.rglob("*.tmp")) and not [p for p in folder.rglob(".*") if p.is_file()]  # nothing half-written


@pytest.mark.slow
def test_pruning_makes_responses_visibly_shorter(smoke: tuple[Path, str]) -> None:
    main = pd.read_csv(smoke[0] / "metrics" / "main.csv")
    mean = main[main.set == "mean"].set_index("model")
    assert mean.length["iterative/round2"] < 0.7 * mean.length["base"]
    assert mean.length_high["iterative/round2"] < mean.length_low["base"]
    assert mean.accuracy["base"] > 50


@pytest.mark.slow
def test_without_a_limit_the_same_training_shortens_less(smoke: tuple[Path, str]) -> None:
    """So small a model learns too little to hold the control to the laptop run's bound (-8 %); the direction it shows."""
    main = pd.read_csv(smoke[0] / "metrics" / "main.csv")
    mean = main[main.set == "mean"].set_index("model")
    assert mean.length["no-limit/round1"] > mean.length["iterative/round2"]


@pytest.mark.slow
def test_neither_a_token_nor_the_home_is_in_what_a_run_leaves(smoke: tuple[Path, str]) -> None:
    home = str(Path.home())
    texts = {".json", ".ipynb", ".html", ".csv", ".md", ".jsonl", ".svg"}
    for path in [p for p in smoke[0].rglob("*") if p.suffix in texts]:
        text = path.read_text(encoding="utf-8")
        assert "hf_aSecret" not in text and (len(home) < 2 or f"{home}/" not in text), path.name


@pytest.mark.slow
def test_the_manifest_says_what_was_run_and_names_no_home(smoke: tuple[Path, str]) -> None:
    manifest = files.read_json(smoke[0] / "manifest.json")
    limits = load("params/smoke.yaml").schedules["iterative"].limits
    assert manifest["settings"]["schedules"]["iterative"]["limits"] == list(limits)
    assert manifest["versions"]["trl"] and len(manifest["commit"]) >= 7 and manifest["seed"] == 1
    assert "tokens" in manifest["prompts"]["training"] and "tokens" not in manifest["prompts"]["evaluation"]
    assert str(Path.home()) not in (smoke[0] / "manifest.json").read_text()


@pytest.mark.slow
def test_a_finished_run_has_its_gallery(smoke: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIT_RESULTS", str(smoke[0].parent))
    monkeypatch.setattr(gallery, "FOLDER", tmp_path)
    made = gallery.make(load("params/smoke.yaml"))
    assert [page.stem[:8] for page in made] == ["smoke_00", "smoke_02", "smoke_05", "smoke_06"]
    assert [gallery.changed(page) for page in made] == [""] * 4


@pytest.mark.slow
def test_the_same_run_again_skips_everything(
    smoke: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As notebook 00 runs it, in this process."""
    folder, _ = smoke
    monkeypatch.setenv("KIT_RESULTS", str(folder.parent))
    monkeypatch.setattr(runner.kernels, "fork_kernels", lambda: None)  # none is needed
    before = (folder / "metrics" / "main.csv").read_bytes()
    assert list(runner.run_all(load("params/smoke.yaml")).status) == ["skipped"] * 12
    assert capsys.readouterr().out.count("unchanged, skipped") == 12
    assert (folder / "metrics" / "main.csv").read_bytes() == before


def changed_by(params: str = "smoke", **settings: object) -> set[str]:
    """Names of the stages that are redone when these settings of a run change."""
    before = load(f"params/{params}.yaml")
    found = stages(before)
    one, two = (stage_keys(c, found) for c in (before, dataclasses.replace(before, **settings)))
    return {name for name in one if one[name] != two[name]}


def test_every_setting_on_which_results_depend_is_read_by_a_stage() -> None:
    for params in ("smoke", "ds-1.5b"):
        config = load(f"params/{params}.yaml")
        read = {key for stage in stages(config) for key in settings_of(config, stage)}
        assert set(fingerprint.settings(config)) - read == set()


def test_wordings_redo_what_is_asked_in_them() -> None:
    """The laptop's own model learns all of them; another does not."""
    smoke, paper = (load(f"params/{name}.yaml").prompts for name in ("smoke", "ds-1.5b"))
    assert "01_base_model" in changed_by(prompts=dataclasses.replace(smoke, forcing_ending="So </think>"))
    ending = dataclasses.replace(paper, forcing_ending="So </think>")
    assert changed_by("ds-1.5b", prompts=ending) == {"04_budget_forcing", "06_figures"}


def test_a_changed_setting_redoes_what_depends_on_it_and_nothing_else() -> None:
    smoke = load("params/smoke.yaml")
    everything = {stage.name for stage in stages(smoke)}
    longer = dataclasses.replace(smoke.schedules["one-shot"], steps=9)
    assert changed_by(schedules={**smoke.schedules, "one-shot": longer}) == {
        "02_prune_round-one-shot-1", "03_evaluate-one-shot", "04_budget_forcing", "05_behavior", "06_figures"}
    assert changed_by(evaluation=dataclasses.replace(smoke.evaluation, samples=9)) == {
        name for name in everything if name[:2] in ("03", "04", "05", "06")}
    faster = dataclasses.replace(smoke.training, learning_rate=0.1)
    assert changed_by(training=faster) == everything - {"01_base_model", "03_evaluate-base"}
    assert changed_by(keywords={"core": ("compute",)}) == {"05_behavior", "06_figures"}
    assert changed_by(behavior=dataclasses.replace(smoke.behavior, ngram=5)) == {"05_behavior", "06_figures"}
    assert changed_by(forcing=dataclasses.replace(smoke.forcing, budgets=(5,))) == {"04_budget_forcing", "06_figures"}
    assert changed_by(seed=9) == everything
    assert changed_by(parallel=1, file="elsewhere.yaml") == set()


def test_a_running_stage_tells_how_much_is_done_of_how_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Smoke: 6 steps in a round of `iterative`; each of its two rounds' models answers the problems of two sets."""
    monkeypatch.setenv("KIT_RESULTS", str(tmp_path))
    config = load("params/smoke.yaml")
    a_round = Stage("02_prune_round-iterative-1", "02_prune_round", {"schedule": "iterative", "round": 1})
    assert runner.progress(config, a_round) == (0, 0, "runs")
    log = {"step": [1, 2], "reward": [0.1, 0.5], "length": [60.0, 41.2], "truncated": [0.9, 0.25]}
    files.write_csv(paths.of(config).training("iterative", 1) / "log.csv", pd.DataFrame(log))
    assert runner.progress(config, a_round) == (2, 6, "step 2 of 6: reward 0.50, length 41, truncated 25%")
    for name in config.data.evaluation:
        with files.atomic(paths.of(config).data(name)) as file:
            file.writelines(f'{{"question": "{name} {k}", "answer": "1"}}\n' for k in range(10))
    with files.atomic(paths.of(config).rollouts("iterative/round2", "two")) as file:
        file.write("{}\n" * 7)
    evaluation = Stage("03_evaluate-iterative", "03_evaluate", {"schedule": "iterative"})
    assert runner.progress(config, evaluation) == (7, 40, "7 of 40 problems answered")


def test_one_stage_is_run_with_those_that_it_needs_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(runner, "run_stages", lambda config, found, _: asked.extend(stage.name for stage in found))
    config = load("params/smoke.yaml")
    runner.run_all(config, "02_prune_round-iterative-2")
    assert asked == ["01_base_model", "02_prune_round-iterative-1", "02_prune_round-iterative-2"]
    with pytest.raises(KitError, match=r"smoke.yaml has no stage 02_prune_round; it has 01_base_model, 02_prune_round-"):
        runner.run_all(config, "02_prune_round")


def test_a_stage_begins_as_soon_as_what_it_needs_is_done_and_a_failure_lets_none_begin() -> None:
    begun, released, failed, asked = [], threading.Event(), threading.Event(), threading.Event()
    tasks = {"long": lambda: released.wait(20), "short": lambda: 7, "after": released.set}  # the long one ends only after `after`
    assert runner.side_by_side(2, tasks, asked, {"after": ["short"]}) == {"long": True, "short": 7, "after": None}

    def fails() -> None:
        failed.set()
        raise KitError("no room")

    def beside() -> None:
        failed.wait(20)
        time.sleep(0.3)
        begun.append("beside")

    tasks = {"fails": fails, "beside": beside, "later": lambda: begun.append("later")}
    with pytest.raises(KitError, match="no room"):
        runner.side_by_side(2, tasks, asked, {"later": ["beside"]})
    assert begun == ["beside"]


def test_rounds_come_first_where_two_stages_run_at_a_time_and_each_schedules_numbers_where_one_does() -> None:
    names = [stage.name for stage in stages(load("params/laptop.yaml"))]
    rounds = [*(f"02_prune_round-iterative-{k}" for k in (1, 2, 3)), "02_prune_round-one-shot-1"]
    evaluations = [f"03_evaluate-{own}" for own in ("base", "no-limit", "iterative", "one-shot")]
    assert names == ["01_base_model", "02_prune_round-no-limit-1", *rounds, *evaluations,
                     "04_budget_forcing", "05_behavior", "06_figures"]
    one = [stage.name for stage in stages(dataclasses.replace(load("params/laptop.yaml"), parallel=1))]
    assert one.index("03_evaluate-no-limit") < one.index("02_prune_round-iterative-1") and sorted(one) == sorted(names)


def test_what_a_round_writes_beside_the_problems_is_no_result_of_the_stage_that_made_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else notebook 01, when it goes on after the rounds, has one file more than before, and every round starts again."""
    monkeypatch.setenv("KIT_RESULTS", str(tmp_path))
    config = load("params/smoke.yaml")
    files.write_text(paths.of(config).data("two"), "{}")
    files.write_text(paths.of(config).contamination, "train_id")
    assert results_of(config, stages(config)[0]) == [paths.of(config).data("two")]


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_runs_of_several_seeds_go_side_by_side_and_the_first_ones_figures_come_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three seeds, two at a time: all stages of each, a lane each, but for notebook 06 of the first, which shows all of them."""
    monkeypatch.setenv("KIT_RESULTS", str(tmp_path))
    config = dataclasses.replace(load("params/smoke.yaml"), seeds=(2, 3), parallel=2)
    both, seen = threading.Barrier(2, timeout=20), []

    def note(run: Config, found: list[Stage], _: threading.Event) -> pd.DataFrame:
        names = [stage.name for stage in found]
        if run.run in ("smoke", "smoke-seed2") and run.parallel == 1:
            both.wait()  # the first two are at work at the same time
        seen.append((run.run, run.parallel, names[-1]))
        return pd.DataFrame({"stage": names})

    monkeypatch.setattr(runner, "run_stages", note)
    monkeypatch.setattr(runner.kernels, "fork_kernels", lambda: None)  # none is needed
    table = runner.run_all(config)
    assert sorted(seen[:3]) == [("smoke", 1, "05_behavior"), ("smoke-seed2", 1, "06_figures"), ("smoke-seed3", 1, "06_figures")]
    assert seen[3] == ("smoke", 2, "06_figures")
    assert {"smoke/01_base_model", "smoke-seed3/06_figures", "06_figures"} <= set(table.stage)


def test_a_misspelt_params_key_is_one_line_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text(f"extends: {ROOT / 'params' / 'smoke.yaml'}\nsead: 3\n")
    monkeypatch.setenv("KIT_RESULTS", str(tmp_path / "results"))
    assert commands.main(["run", str(tmp_path / "mine.yaml")]) == 1
    assert capsys.readouterr() == ("", "error: mine.yaml: unknown key `sead`; did you mean `seed`?\n")
    assert not (tmp_path / "results").exists()


def test_a_failing_stage_is_told_by_name_with_the_notebook_to_look_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIT_RESULTS", str(tmp_path))
    settings: Config = load("params/smoke.yaml")
    missing = r"03_evaluate-base: .*no base model yet; run notebooks/01_base_model.ipynb .*03_evaluate-base.ipynb"
    with pytest.raises(KitError, match=missing):
        runner.execute(Stage("03_evaluate-base", "03_evaluate", {"schedule": "base"}), settings)
    with pytest.raises(KitError, match="x: this notebook has no parameter model"):
        runner.execute(Stage("x", "03_evaluate", {"model": "base"}), settings)
