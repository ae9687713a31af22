"""Notebook 05's analyses: what a model spends its tokens on, before and after pruning.

Responses are read once, into a row per response (behavior/measures); the tables in metrics/ are made of those rows. The keyword
lists are values of the params file (`keywords`): the paper's hesitation words ("Wait", "Alternatively", …) against words of
core computation. A keyword counts as whole words, longest match first, so "But wait" is not also a "wait".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from kit.behavior import agreement, judge, measures, perplexity, phases
from kit.behavior.measures import MEAN, UNLABELLED
from kit.evaluation import evaluation
from kit.rollout import records
from kit.rollout.records import Rollout
from kit.runs import catalog, files, paths
from kit.settings import Config, KitError


def step_unit(config: Config) -> str:
    """What a step is in this run, the same for all its models: as in the params, or as the first of them writes."""
    if config.behavior.steps != "auto":
        return config.behavior.steps
    model = catalog.model_names(config)[0]
    first = (r for name in config.data.evaluation for r in responses(config, model, name))
    return phases.unit_of(text for r in first for text in r.model_answer)


def responses(config: Config, model: str, name: str) -> list[Rollout]:
    """The stored responses of a model to a data set."""
    return list(records.read(paths.of(config).rollouts(model, name)))


def facts(config: Config) -> dict[str, dict[str, object]]:
    """Model -> its columns in every table: model, schedule, round, limit (tokens; NaN for the base)."""
    known = catalog.facts(config)
    return {model: dict(zip(("model", "schedule", "round", "limit"), (model, *known[model]), strict=True))
            for model in catalog.model_names(config)}


def _collect(config: Config, name: str, parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """metrics/<name>.csv: the tables of all models, each with its model's columns in front."""
    table = pd.concat([part.reset_index() for part in parts], ignore_index=True)
    keys = ("model", "schedule", "round", "limit", "set", "keywords", "labeller", "phase", "kind", "quantity")
    table = table[[*(c for c in keys if c in table), *(c for c in table if c not in keys)]]
    files.write_csv(paths.of(config).metrics / f"{name}.csv", table)
    return table


def summarize(config: Config) -> dict[str, pd.DataFrame]:
    """Read the traces of every model and write metrics/keywords.csv, phases.csv, attempts.csv, repetition.csv, percentiles.csv
    and moves.csv (the changes against the first model). What was counted in each response is kept in traces/<model>/<set>.csv.
    """
    from tqdm.auto import tqdm

    unit, names = step_unit(config), config.data.evaluation
    parts: dict[str, list[pd.DataFrame]] = {}
    first: dict[str, pd.DataFrame] = {}
    for model, columns in tqdm(facts(config).items(), desc="traces"):
        graded = evaluation.load_grades(config, model)
        traces = {name: measures.read_traces(config, responses(config, model, name), unit) for name in names}
        for name, table in traces.items():
            files.write_csv(paths.of(config).traces(model, name), table)
        correct = {name: g.set_index(["id", "sample"]).verdict == "correct" for name, g in graded.items()}
        found = {
            "keywords": measures.keywords(traces, config), "phases": measures.phase_shares(traces, config),
            "attempts": measures.attempt_table(traces, config, correct), "repetition": measures.repetition(traces, config),
            "percentiles": measures.percentiles(graded, config),
        }
        if first:
            found["moves"] = measures.changes(first, traces, config)
        first = first or traces
        for key, table in found.items():
            parts.setdefault(key, []).append(table.assign(**columns))
    return {key: _collect(config, key, tables) for key, tables in parts.items()}


def missing_lengths(config: Config) -> list[str]:
    """A sentence per model and data set without token counts."""
    found = []
    for model in catalog.model_names(config):
        for name, grades in evaluation.load_grades(config, model).items():
            gone = pd.to_numeric(grades.length, errors="coerce").isna().mean()
            if gone:
                found.append(f"{model}, {name}: {gone:.0%} of the responses have no token count in their log; "
                             "what is counted per token is empty, percentiles leave them out")
    return found


def summarize_perplexity(config: Config) -> pd.DataFrame | None:
    """Perplexity of every model's traces under `behavior.reference`; writes metrics/perplexity.csv. None without a reference."""
    b = config.behavior
    if not b.reference:
        return None
    model, tokenizer = perplexity.reference(config)
    parts = []
    for name, columns in facts(config).items():
        sums = {key: perplexity.of_rollouts(model, tokenizer, config, responses(config, name, key), f"{name}: {key}")
                for key in b.reference_sets or config.data.evaluation}
        table = np.exp(measures.estimate(sums, "perplexity", config))
        if MEAN in table.index:
            table["tokens"] = [s[1].sum() for s in sums.values()] + [sum(s[1].sum() for s in sums.values())]
        else:
            table["tokens"] = [s[1].sum() for s in sums.values()]
        parts.append(table.assign(reference=b.reference, **columns))
    return _collect(config, "perplexity", parts)


def summarize_agreement(config: Config) -> pd.DataFrame | None:
    """Kappa of the rules with the labels of `behavior.labelled`; writes metrics/agreement.csv and agreement_steps.csv.

    None where no file is named or it is not there.
    """
    path = paths.given(config, config.behavior.labelled)
    if not config.behavior.labelled or not path.is_file():
        return None
    steps = agreement.steps(agreement.read(path))
    table = agreement.compare(steps, config.evaluation.resamples, config.seed)
    crossed = steps.groupby(["half", "phase", "theirs"]).size().rename("steps").reset_index()
    files.write_csv(paths.of(config).metrics / "agreement.csv", table)
    files.write_csv(paths.of(config).metrics / "agreement_steps.csv", crossed)
    return table


def summarize_judge(config: Config) -> pd.DataFrame | None:
    """Phases by the language model of `behavior.judge`, for the first response of some problems of each set.

    Writes metrics/phases_judge.csv: shares by the model, `unlabelled` among them, and beside them the rules' shares of the same
    steps; and kappa of the two. None when no endpoint is named.
    """
    if not config.behavior.judge.url:
        return None
    unit, ask, parts = step_unit(config), config.behavior.judge, []
    for model, columns in facts(config).items():
        by: dict[str, dict[str, pd.DataFrame]] = {"rules": {}, "model": {}}
        both = []
        for name in config.data.evaluation:
            some = sorted(responses(config, model, name), key=lambda r: r.id)[: ask.responses]  # the same problems of all
            steps = [phases.steps_of(r.model_answer[0], unit) for r in some]
            given = judge.label(steps, ask, paths.of(config).root / "judge.jsonl")
            labels = {"model": given, "rules": [phases.label(s) for s in steps]}
            for labeller, found in labels.items():
                named = [[one or UNLABELLED for one in trace] for trace in found]
                by[labeller][name] = pd.DataFrame([
                    {"id": r.id, "steps": len(t), **{p: t.count(p) for p in (*phases.PHASES, UNLABELLED)}}
                    for r, t in zip(some, named, strict=True)])
            traces = zip(given, labels["rules"], strict=True)
            both += [pair for trace in traces for pair in zip(*trace, strict=True) if pair[0]]
        if not both:
            raise KitError(f"`behavior.judge`: {ask.model} at {ask.url} gave no usable answer for any step of {model}")
        table = pd.DataFrame(both, columns=["model", "rules"])
        crossed = pd.crosstab(table.model, table.rules).reindex(index=phases.PHASES, columns=phases.PHASES, fill_value=0)
        agreed = float(agreement.kappa(crossed.to_numpy(float)))
        parts += [measures.phase_shares(t, config, labeller).assign(kappa=agreed, **columns) for labeller, t in by.items()]
    return _collect(config, "phases_judge", parts)
