"""A finished run's results for other tools: the official log format, and Every Eval Ever (github.com/evaleval/every_eval_ever).

Every Eval Ever has two files for each model: its accuracy and length on each data set, with standard error and 95 % interval,
and a line for each response with its verdict. `python -m kit export RUN` writes both formats; CSV the run has, in `metrics/`.
"""

import hashlib
import json
import math
import re
import time
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from kit.evaluation import evaluate, metrics, uncertainty
from kit.rollout import logs, records
from kit.runs import catalog, files, paths
from kit.settings import SOURCES, Config, folder_of

VERSION = "0.3.0"  # of the schema
OURS = "thinkprune-kit"
# Column of metrics/<model>.csv -> (what it is divided by, its description, how its interval is made)
MEASURES: dict[str, tuple[float, dict[str, Any], str]] = {
    "accuracy": (100, {
        "metric_id": "accuracy", "metric_name": "accuracy (pass@1: mean over problems of the share of correct responses)",
        "metric_kind": "accuracy", "metric_unit": "proportion", "lower_is_better": False, "score_type": "continuous",
        "min_score": 0, "max_score": 1}, "Wilson's score interval, problems as observations"),
    "length": (1, {
        "metric_id": f"{OURS}.response_tokens", "metric_name": "length (mean over problems of a response's tokens)",
        "metric_kind": "tokens", "metric_unit": "tokens", "lower_is_better": True, "score_type": "continuous", "min_score": 0,
        "max_score": "Infinity"}, "studentized bootstrap over problems, of the logarithm"),
}


def export(config: Config, folder: Path, organization: str = "unknown") -> list[Path]:
    """Write every model of a run into `folder`: official/<model>/<set>/rank0.jsonl, and the two files of Every Eval Ever in
    data/, laid out as its store wants them. Returns what was written; KitError when a model has not been evaluated."""
    written = []
    for model in catalog.model_names(config):
        for name in config.data.evaluation:
            written.append(folder / "official" / model / name / "rank0.jsonl")
            rollouts = records.read(paths.of(config).rollouts(model, name))
            logs.write(written[-1], rollouts, lists=name in SOURCES and SOURCES[name].lists)
        written += every_eval_ever(config, model, folder, organization)
    return written


def every_eval_ever(config: Config, model: str, folder: Path, organization: str = "unknown") -> list[Path]:
    """The aggregate file and the instances of one model, data/thinkprune-kit/<developer>/<model>/<uuid>…; a later export of the
    same results has the same name. `organization`: who evaluated."""
    run, logged, source = paths.of(config), model in config.logs.models, config.model.source
    facts, graded = files.read_json(run.manifest), evaluate.load_grades(config, model)
    table = files.read_csv(run.metrics / f"{model.replace('/', '-')}.csv").set_index("set")
    hub = model == "base" and config.schedules and re.fullmatch(r"[\w-]+/[\w.-]*[\w-]", source) and not folder_of(source).is_dir()
    identity = source if hub else f"{OURS}/{re.sub(r'[^A-Za-z0-9_-]+', '-', f'{config.run}-{model}')}"
    stamp = f"{datetime.fromisoformat(facts['written']).timestamp():.0f}"
    link = {"schema_version": VERSION, "evaluation_id": f"{OURS}/{identity}/{config.run}/{stamp}"}
    name = uuid.UUID(bytes=hashlib.sha256(link["evaluation_id"].encode()).digest()[:16], version=4)
    path, lines = (Path("data", OURS, identity, f"{name}{end}") for end in (".json", "_samples.jsonl"))
    instances = (row for name, grades in graded.items() for row in _instances(config, model, name, grades))
    # In ASCII: there are readers, its validator too, that break lines where Unicode does.
    content = "".join(json.dumps({**link, "model_id": identity, **row}) + "\n" for row in instances)
    engine = "unknown" if logged else config.engine.name
    aggregate = {
        **link, "evaluation_timestamp": stamp, "retrieved_timestamp": f"{time.time():.0f}",
        "model_info": {
            "name": catalog.label(config, model), "id": identity, "developer": identity.partition("/")[0],
            "inference_engine": {"name": engine, "version": facts["versions"].get(engine, "unknown")},
            "additional_details": {"deployment_type": "unknown" if logged else "self_deployed",
                                   "model_availability": "open_weights" if hub else "unknown"}},
        "source_metadata": {"source_name": OURS, "source_type": "evaluation_run", "source_organization_name": organization,
                            "evaluator_relationship": "third_party" if hub else "other" if logged else "first_party"},
        "eval_library": {"name": OURS, "version": facts["commit"]},
        "evaluation_results": [
            row for name, grades in graded.items() for row in _results(config, name, table.loc[name], grades, logged)],
        "detailed_evaluation_results": {
            "format": "jsonl", "file_path": lines.as_posix(), "hash_algorithm": "sha256",
            "checksum": hashlib.sha256(content.encode()).hexdigest(), "total_rows": content.count("\n")}}
    files.write_json(folder / path, aggregate)
    return [folder / path, files.write_text(folder / lines, content)]


def _results(config: Config, name: str, row: pd.Series, grades: pd.DataFrame, logged: bool) -> Iterator[dict[str, Any]]:
    """Accuracy, and the length where it is known, of one data set."""
    source, problems, how = SOURCES.get(name), metrics.per_problem(grades), evaluate.sampling(config, name)
    told = {"source_type": "hf_dataset", "hf_repo": source.hub, "hf_split": source.split} if source else {"source_type": "other"}
    asked = {"temperature": how.temperature, "top_p": how.top_p, "max_tokens": how.max_new_tokens}
    for column, (scale, described, method) in MEASURES.items():
        score, low, high = (float(row[key]) / scale for key in (column, f"{column}_low", f"{column}_high"))
        error, spread = float(problems[column].sem()) / scale, {"num_samples": len(problems)}
        if math.isfinite(error):
            spread["standard_error"] = {"value": error, "method": "analytic, over the means of problems"}
        if math.isfinite(low):
            spread["confidence_interval"] = {"lower": low, "upper": high, "confidence_level": uncertainty.LEVEL, "method": method}
        if math.isfinite(score):
            yield {"evaluation_result_id": f"{name}/{column}", "evaluation_name": name, "metric_config": described,
                   "source_data": {"dataset_name": name, **told}, "score_details": {"score": score, "uncertainty": spread},
                   **({} if logged else {"generation_config": {"generation_args": asked}})}


def _instances(config: Config, model: str, name: str, grades: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """A line per response, which belongs to its data set's accuracy."""
    stored = {rollout.id: rollout for rollout in records.read(paths.of(config).rollouts(model, name))}
    for grade in grades.itertuples():
        rollout, k = stored[grade.id], grade.sample
        asked = {"raw": rollout.question, "reference": [rollout.answer]}
        key = hashlib.sha256(json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
        told = {"sample": k, "verdict": grade.verdict, "tokens": rollout.model_answer_length[k], "finished": rollout.finished[k]}
        found = {"turn_idx": 0, "source": "output.raw", "extracted_value": grade.answer, "is_terminal": True,
                 "extraction_method": f"{OURS}, reading {config.training.reading}"}
        yield {
            "evaluation_name": name, "evaluation_result_id": f"{name}/accuracy", "sample_id": rollout.id, "sample_hash": key,
            "interaction_type": "single_turn", "input": asked, "output": {"raw": [rollout.model_answer[k]]},
            "answer_attribution": [found],
            "evaluation": {"score": float(grade.verdict == "correct"), "is_correct": grade.verdict == "correct"},
            "metadata": {what: str(value) for what, value in told.items() if value is not None}}
