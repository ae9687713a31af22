"""A run's results for other tools: numbers worked out by hand, and Every Eval Ever's own validator where it is installed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kit.chain import commands
from kit.evaluation import evaluate
from kit.report import exports
from kit.rollout import logs
from kit.runs import manifest
from kit.settings import Config, load
from kit.settings.schema import Logs, Model

# Of problem 1 both responses are right, of problem 2 one, of problem 3 none. One has what breaks lines in Unicode.
ROWS = [{"id": f"p{k}", "question": f"question {k}?", "answer": str(k), "finished": [True, False], "model_answer_length": lengths,
         "model_answer": [f"so \\boxed{{{answer}}}" for answer in answers]}
        for k, answers, lengths in ((1, "11", [10, 20]), (2, "29", [30, 30]), (3, "\u20284", [60, 90]))]


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A run of two models by their logs; the second has no lengths."""
    monkeypatch.setenv("KIT_RESULTS", str(tmp_path / "results"))
    for model, fields in (("base", {}), ("other", {"model_answer_length": None})):
        (tmp_path / f"{model}.jsonl").write_text("".join(json.dumps(row | fields) + "\n" for row in ROWS))
    config = dataclasses.replace(load("params/traces.yaml"), run="mine", logs=Logs(
        {model: {"math500": f"{model}.jsonl"} for model in ("base", "other")}, {"other": "the same after RL"}, str(tmp_path)))
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, evaluation=("math500",)))
    manifest.write_manifest(config, {})
    for model in ("base", "other"):
        evaluate.evaluate_model(config, model)
    return config


def read(folder: Path, model: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    (aggregate,), (lines,) = ((folder / "data").rglob(f"*{model}/*{end}") for end in ("[0-9a-f].json", "_samples.jsonl"))
    return json.loads(aggregate.read_text()), [json.loads(line) for line in lines.read_text().splitlines()]


def test_the_command_writes_both_formats_and_the_official_one_reads_back(
    finished: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.main(["export", "mine", "--folder", str(tmp_path / "out"), "--organization", "us"]) == 0
    assert capsys.readouterr().out.endswith("out: 6 files written\n")
    for model in ("base", "other"):
        assert logs.read(tmp_path / "out" / "official" / model / "math500") == logs.read(tmp_path / f"{model}.jsonl")
    assert commands.main(["export", "nobody"]) == 1
    assert "no run with this name" in capsys.readouterr().err
    for params, told in (("traces", "this one has no schedules"), ("smoke", "smoke/notebooks/00_run_all.ipynb: not there yet")):
        assert commands.main(["gallery", f"params/{params}.yaml"]) == 1 and told in capsys.readouterr().err


def test_scores_have_their_standard_error_and_interval(finished: Config, tmp_path: Path) -> None:
    exports.export(finished, tmp_path, "us")
    aggregate, _ = read(tmp_path, "mine-base")
    accuracy, length = aggregate["evaluation_results"]
    assert accuracy["evaluation_name"] == "math500" and accuracy["source_data"]["hf_repo"] == "HuggingFaceH4/MATH-500"
    assert accuracy["score_details"]["score"] == pytest.approx(0.5)  # (1 + 1/2 + 0) / 3
    spread = accuracy["score_details"]["uncertainty"]
    assert spread["standard_error"]["value"] == pytest.approx(0.5 / math.sqrt(3)) and spread["num_samples"] == 3
    n, z = 3, 1.959964  # p (1 - p) / (0.25 / 3): Wilson's interval of 3 observations
    reach = z * math.sqrt(0.25 / n + z * z / (4 * n * n)) / (1 + z * z / n)
    ends = [spread["confidence_interval"][end] for end in ("lower", "upper")]
    assert ends == pytest.approx([0.5 - reach, 0.5 + reach], abs=1e-5)
    assert length["score_details"]["score"] == 40 and length["metric_config"]["lower_is_better"]  # (15 + 30 + 75) / 3
    assert length["score_details"]["uncertainty"]["standard_error"]["value"] == pytest.approx(math.sqrt(975 / 3))
    assert aggregate["source_metadata"]["source_organization_name"] == "us"
    other, _ = read(tmp_path, "mine-other")
    assert [r["metric_config"]["metric_id"] for r in other["evaluation_results"]] == ["accuracy"]  # its lengths are not known
    assert other["model_info"]["name"] == "the same after RL"


def test_each_response_is_a_line_that_belongs_to_its_models_file(finished: Config, tmp_path: Path) -> None:
    exports.export(finished, tmp_path)
    aggregate, lines = read(tmp_path, "mine-base")
    assert [line["evaluation"]["is_correct"] for line in lines] == [True, True, True, False, False, False]
    assert {line["evaluation_id"] for line in lines} == {aggregate["evaluation_id"]}
    assert (lines[2]["input"], lines[2]["output"]) == ({"raw": "question 2?", "reference": ["2"]}, {"raw": ["so \\boxed{2}"]})
    assert lines[2]["answer_attribution"][0]["extracted_value"] == "2"
    assert lines[3]["metadata"] == {"sample": "1", "verdict": "wrong", "tokens": "30", "finished": "False"}
    detail = aggregate["detailed_evaluation_results"]
    content = (tmp_path / detail["file_path"]).read_bytes()
    assert detail["total_rows"] == 6 and detail["checksum"] == hashlib.sha256(content).hexdigest()
    assert len(content.decode().splitlines()) == 6  # also for readers that break lines where Unicode does
    assert exports.every_eval_ever(finished, "base", tmp_path)[1] == tmp_path / detail["file_path"]  # the same name again


@pytest.mark.parametrize(("source", "identity"), [
    ("Qwen/QwQ-32B", "Qwen/QwQ-32B"), ("arithmetic", "thinkprune-kit/mine-base"),
    ("kit/settings", "thinkprune-kit/mine-base"),  # a folder here
])
def test_a_base_model_of_the_hub_keeps_its_name_and_others_are_the_runs(
    finished: Config, tmp_path: Path, source: str, identity: str
) -> None:
    trained = dataclasses.replace(finished, model=Model(source), schedules=load("params/smoke.yaml").schedules, logs=Logs())
    made, _ = exports.every_eval_ever(trained, "base", tmp_path)
    assert json.loads(made.read_text())["model_info"]["id"] == identity
    assert made.parent == tmp_path / "data" / "thinkprune-kit" / identity
    assert json.loads(made.read_text())["evaluation_results"][0]["generation_config"]["generation_args"]["temperature"] == 0.6


def test_its_own_validator_accepts_what_is_written(finished: Config, tmp_path: Path) -> None:
    pytest.importorskip("every_eval_ever", reason="pip install --no-deps every-eval-ever==0.3.0 (Python 3.12 or newer)")
    exports.export(finished, tmp_path, "us")
    made = [str(path) for path in (tmp_path / "data").rglob("*.json*")]
    command = [sys.executable, "-m", "every_eval_ever.validate", "--format", "json", *made]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and len(made) == 4, done.stdout + done.stderr
    assert {(r["valid"], *r["errors"], *r["warnings"]) for r in json.loads(done.stdout)} == {(True,)}
