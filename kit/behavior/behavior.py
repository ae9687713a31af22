"""Notebook 05's analyses: what a model spends its tokens on, before and after pruning.

Responses are read once, into a row per response (`count`); the tables in metrics/ are made of those rows (behavior/measures). The
keyword lists are values of the params file: the paper's hesitation words ("Wait", "Alternatively", …) against words of core
computation.
"""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import pandas as pd

from kit.behavior import judge, measures, perplexity, phases
from kit.behavior.first_answer import first_answers
from kit.data import prompts
from kit.evaluation import evaluate
from kit.reward.token_limit import ends_in_loop
from kit.rollout import records
from kit.rollout.records import Rollout
from kit.runs import catalog, files, paths
from kit.settings import Config, KitError

TABLES = (*measures.TABLES, "moves", "phases_judge", "perplexity")  # in metrics/
KEYS = ("model", "schedule", "round", "limit", "set", "keywords", "word", "labeller", "phase", "kind", "quantity")  # stand first
CLOSE = prompts.TAGS[1]
BATCH = 256  # problems that are read at a time: there may be more text than memory


def responses(config: Config, model: str, name: str) -> list[Rollout]:
    """The stored responses of a model to a data set."""
    return list(records.read(paths.of(config).rollouts(model, name)))


def step_unit(config: Config) -> str:
    """What a step is in this run, the same for all its models: as in the params, or as the first of them writes."""
    if config.behavior.steps != "auto":
        return config.behavior.steps
    model = catalog.model_names(config)[0]
    return phases.unit_of(text for name in config.data.evaluation for r in responses(config, model, name)
                          for text in r.model_answer)


@lru_cache
def keyword_pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    """Any of `words`: whole words and phrases, longest first ("But wait" is not also a "wait"), upper and lower case alike."""
    longest_first = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return re.compile(r"(?<!\w)(" + longest_first.replace(r"\ ", r"\s+") + r")(?!\w)", re.IGNORECASE)


def repeated_runs(words: Sequence[str], n: int) -> tuple[int, int]:
    """(runs of n words that occurred before in the same text, all runs of n words)."""
    runs = list(zip(*(words[i:] for i in range(n)), strict=False))
    return len(runs) - len(set(runs)), len(runs)


def count(config: Config, rollouts: Sequence[Rollout], unit: str, cues: phases.Cues) -> pd.DataFrame:
    """A row per response (the first `behavior.samples` of each problem): id, sample, length (tokens, NaN where the log has none),
    a count per keyword list (`words <list>`) and word (`word <word>`), steps, a count per phase, thought (share of the characters
    up to `</think>`, 1 without one), stated (share of the response at whose end its final answer has been stated first, NaN
    without an answer), repeats and runs (of n words), loop (whether it ends in one)."""
    flat = [(r, i) for r in rollouts for i in range(min(len(r.model_answer), config.behavior.samples))]
    stated = first_answers([r.model_answer[i] for r, i in flat], [r.finished[i] for r, i in flat])
    rows = []
    for (r, i), share in zip(flat, stated, strict=True):
        text = r.model_answer[i]
        labels, words = phases.label(phases.steps_of(text, unit), cues), text.split()
        repeats, runs = repeated_runs(words, config.behavior.ngram)
        found = {name: Counter(" ".join(word.lower().split()) for word in keyword_pattern(listed).findall(text))
                 for name, listed in config.keywords.items()}
        rows.append({
            "id": r.id, "sample": i, "length": r.model_answer_length[i],
            **{f"words {name}": counter.total() for name, counter in found.items()},
            **{f"word {word}": found[name][word.lower()] for name, listed in config.keywords.items() for word in listed},
            "steps": len(labels), **{phase: labels.count(phase) for phase in phases.PHASES},
            "thought": (text.find(CLOSE) + len(CLOSE)) / len(text) if CLOSE in text else 1.0, "stated": share,
            "repeats": repeats, "runs": runs, "loop": ends_in_loop(words),
        })
    return pd.DataFrame(rows).astype({"length": float, "stated": float})


def _write(config: Config, name: str, tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """metrics/<name>.csv: the tables of all models, one below the other; a limit is in tokens, NaN for the base."""
    facts = catalog.facts(config)
    table = pd.concat([
        table.reset_index().assign(model=model, schedule=facts[model][0], round=facts[model][1], limit=facts[model][2])
        for model, table in tables.items()], ignore_index=True)
    table = table[[*(c for c in KEYS if c in table), *(c for c in table if c not in KEYS)]]
    files.write_csv(paths.of(config).metrics / f"{name}.csv", table)
    return table


def write_tables(config: Config) -> dict[str, pd.DataFrame]:
    """Read the responses of every model and write measures.TABLES into metrics/, and moves.csv, the changes against the first
    model. What was counted is kept in traces/<model>/<set>.csv."""
    from tqdm.auto import tqdm

    unit, cues = step_unit(config), phases.cues_of(config)
    made: dict[str, dict[str, pd.DataFrame]] = defaultdict(dict)
    first: measures.Counts = {}
    for model in tqdm(catalog.model_names(config), desc="traces", leave=False, delay=2):
        counts, graded = {}, evaluate.load_grades(config, model)
        for name in config.data.evaluation:
            stored, parts = records.read(paths.of(config).rollouts(model, name)), []
            while some := list(itertools.islice(stored, BATCH)):
                parts.append(count(config, some, unit, cues))
            counts[name] = pd.concat(parts, ignore_index=True)
            files.write_csv(paths.of(config).traces(model, name), counts[name])
        for name, make in measures.TABLES.items():
            made[name][model] = make(graded if make in measures.OF_GRADES else counts, config)
        if first:
            made["moves"][model] = measures.changes(first, counts, config)
        first = first or counts
    return {name: _write(config, name, tables) for name, tables in made.items()}


def missing_lengths(config: Config) -> list[str]:
    """A sentence per model and data set without token counts."""
    shares = {(model, name): grades.length.isna().mean() for model in catalog.model_names(config)
              for name, grades in evaluate.load_grades(config, model).items()}
    return [f"{model}, {name}: {gone:.0%} of the responses have no token count in their log; what is counted per token is empty, "
            "percentiles leave them out" for (model, name), gone in shares.items() if gone]


def write_perplexity(config: Config) -> pd.DataFrame | None:
    """Perplexity of every model's traces under `behavior.reference`; writes metrics/perplexity.csv. None without a reference."""
    from tqdm.auto import tqdm

    b, made = config.behavior, {}
    if not b.reference:
        return None
    reference = perplexity.reference(config)
    for model in tqdm(catalog.model_names(config), desc="perplexity", leave=False, delay=2):
        sums = {name: perplexity.of_rollouts(*reference, config, responses(config, model, name))
                for name in b.reference_sets or config.data.evaluation}
        read = pd.Series({name: table.tokens.sum() for name, table in sums.items()})
        read["mean"] = read.sum()
        table = np.exp(measures.ratios(sums, config, perplexity=("loss", "tokens", 1.0)))
        made[model] = table.assign(tokens=read, reference=b.reference)  # without `mean` where there is one set
    return _write(config, "perplexity", made)


def write_judged_phases(config: Config) -> pd.DataFrame | None:
    """Phases by the language model of `behavior.judge`, for the first response of some problems of each set: its shares,
    `unlabelled` among them, the rules' shares of the same steps, and Cohen's kappa of the two. Writes metrics/phases_judge.csv;
    None when no endpoint is named."""
    ask = config.behavior.judge
    if not ask.url:
        return None
    unit, cues, made = step_unit(config), phases.cues_of(config), {}
    for model in catalog.model_names(config):
        counts: dict[str, measures.Counts] = {"rules": {}, "model": {}}
        pairs: list[tuple[str, str]] = []
        for name in config.data.evaluation:
            some = sorted(responses(config, model, name), key=lambda r: r.id)[: ask.responses]  # the same problems of all
            steps = [phases.steps_of(r.model_answer[0], unit) for r in some]
            labels = {"model": judge.label(steps, ask, paths.of(config).root / "judge.jsonl"),
                      "rules": [phases.label(s, cues) for s in steps]}
            for labeller, found in labels.items():
                counts[labeller][name] = pd.DataFrame([
                    {"id": r.id, "steps": len(own), measures.UNLABELLED: own.count(None),
                     **{phase: own.count(phase) for phase in phases.PHASES}} for r, own in zip(some, found, strict=True)])
            one, other = (itertools.chain.from_iterable(found) for found in labels.values())
            pairs += [pair for pair in zip(one, other, strict=True) if pair[0]]
        if not pairs:
            raise KitError(f"`behavior.judge`: {ask.model} at {ask.url} gave no usable answer for any step of {model}")
        shares = [measures.phase_shares(table, config, labeller) for labeller, table in counts.items()]
        made[model] = pd.concat(shares).assign(kappa=measures.kappa(pairs))
    return _write(config, "phases_judge", made)
