"""Generation logs in the official format, read as if the kit had made them, and the kit's rollouts written in it.

A log is a file of JSON lines, or a folder of rank files `rank0.jsonl`, `rank1.jsonl`, … (a problem stands in one of them). A line
has the question's own fields, `answer` (of a list the first element is graded), `model_answer` (list of texts) and
`model_answer_length` (list of token counts). Other harnesses leave the counts out: they are counted with the tokenizer that
params name (`logs.tokenizer`; the end token is not in the text, so one less than what the engine counted), or are None. Whether
a response ended by itself is not in this format: `finished` is None, unless the kit wrote the file.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kit.data import problems, sources
from kit.data.problems import Problem
from kit.data.sources import SOURCES
from kit.rollout import models, records
from kit.rollout.records import Rollout
from kit.runs import files, paths
from kit.settings import Config, KitError

Counter = Callable[[Sequence[str]], list[int]]  # texts -> tokens


def read_official(path: Path, name: str = "log", count: Counter | None = None) -> list[Rollout]:
    """The rollouts of a log of data set `name`; `count` counts the tokens of responses without a length.

    Raises KitError naming the file and the row that is wrong.
    """
    found: dict[str, Rollout] = {}
    for file in rank_files(path):
        for number, row in sources.read_local(file, file.stem):
            try:
                made = as_rollout(row, name, count)
                if found.setdefault(problems.plain(made.question), made) is not made:
                    raise ValueError("a problem that was there before; is there another run's file in the folder?")
            except ValueError as error:
                raise KitError(f"{file.name} row {number}: {error}") from None
    if not found:
        raise KitError(f"{path}: no rollouts in this log")
    if len({r.id for r in found.values()}) != len(found):
        raise KitError(f"{path}: two problems have the same id")
    return list(found.values())


def rank_files(path: Path) -> list[Path]:
    """A log's files in the order of their ranks; KitError when one is missing between them."""
    if path.is_file():
        return [path]
    ranks = {int(m[1]): p for p in path.glob("rank*.jsonl") if (m := re.fullmatch(r"rank(\d+)\.jsonl", p.name))}
    if not ranks:
        why = "no rank0.jsonl, rank1.jsonl, … in this folder" if path.is_dir() else "no such file or folder"
        raise KitError(f"{path}: {why}")
    missing = [f"rank{k}.jsonl" for k in range(max(ranks)) if k not in ranks]
    if missing:
        raise KitError(f"{path}: {', '.join(missing)} missing, but there is rank{max(ranks)}.jsonl; problems would be left out")
    return [ranks[k] for k in sorted(ranks)]


def as_rollout(row: Any, name: str, count: Counter | None = None) -> Rollout:
    """One line of a log; ValueError says what is wrong with it."""
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    problem = problems.as_problem(row, name, SOURCES.get(name))
    texts = row.get("model_answer")
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError("`model_answer` should be a list of texts")
    texts = [text.encode("utf-8", "replace").decode() for text in texts]  # half an emoji cannot be written to a file
    parts = []
    for key, kind, what in (("model_answer_length", int, "token counts, 0 to 2147483647"), ("finished", bool, "true or false")):
        values = [None] * len(texts) if row.get(key) is None else row[key]
        if not isinstance(values, list) or len(values) != len(texts):
            raise ValueError(f"`{key}` should be a list with one value for each of the {len(texts)} responses")
        if any(value is not None and (type(value) is not kind or not 0 <= value < 2**31) for value in values):
            raise ValueError(f"`{key}` should hold {what}")
        parts.append(values)
    lengths, finished = parts
    if count and None in lengths:
        lengths = [n if own is None else own for own, n in zip(lengths, count(texts), strict=True)]
    return Rollout(problem.id, problem.question, problem.answer, problem.core, texts, lengths, finished)


def write_official(rollouts: Sequence[Rollout], folder: Path, ranks: int = 1, lists: bool = False) -> list[Path]:
    """Rollouts as rank files, in order; `lists` writes the answer as a list, as the official code wants it for OlympiadBench.

    The official tools do not look at the fields that the kit adds (`id`, `core`, `finished`); `read_official` does.
    """
    if any(folder.glob("rank*.jsonl")):
        raise KitError(f"{folder}: there are rank files already; name another folder, or move them away")
    size = -(-len(rollouts) // ranks)
    written = [folder / f"rank{k}.jsonl" for k in range(ranks)]
    for k, path in enumerate(written):
        with files.atomic(path) as file:
            for r in rollouts[k * size : (k + 1) * size]:
                record = {**dataclasses.asdict(r), "answer": [r.answer] if lists else r.answer}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return written


# --- the models of a run ----------------------------------------------------------------------------------------------


def responses(config: Config, model: str, name: str) -> list[Rollout]:
    """The responses of a model that params know by its logs (`logs.models`) to data set `name`, kept like the kit's own.

    Says in a line what the log does not tell. Ids and gold answers are those of the data set where the run has models of its own
    or params say where the set is (`data.files`), else those of the base's log: some harnesses mangle the answers.
    """
    given = str(Path(config.logs.folder) / config.logs.models[model][name])
    path = paths.given(config, given)
    if not path.exists():
        raise KitError(f"{config.file}: logs.models.{model}.{name}: there is no file or folder {given}")
    found = read_official(path, name, counter(config))
    if config.schedules or name in config.data.files:
        found = matched(found, problems.load(name, config), f"{model}, {name}", "the data set")
    elif model != "base" and "base" in config.logs.models:
        base = paths.given(config, str(Path(config.logs.folder) / config.logs.models["base"][name]))
        found = matched(found, read_official(base, name), f"{model}, {name}", "base's log")
    with files.atomic(paths.of(config).rollouts(model, name)) as file:
        file.writelines(records.as_line(r) for r in found)
    flat = [(n, f) for r in found for n, f in zip(r.model_answer_length, r.finished, strict=True)]
    lacking = {"lengths": sum(n is None for n, _ in flat), "truncation": sum(f is None for _, f in flat)}
    told = [f"{what} unknown for {count}" for what, count in lacking.items() if count]
    print(f"{model}, {name}: {len(flat)} responses to {len(found)} problems from {path.name}" + "".join(f"; {t}" for t in told))
    return found


def matched(found: Sequence[Rollout], known: Sequence[Problem | Rollout], told: str, whose: str) -> list[Rollout]:
    """Rollouts with the ids and gold answers that `known` has, matched by question; KitError when one has a problem that the
    other lacks."""
    golds = {problems.plain(p.question): p for p in known}
    own = {problems.plain(r.question): r for r in found}
    for there, here, lacking in ((whose, "its log", golds.keys() - own.keys()), ("its log", whose, own.keys() - golds.keys())):
        if lacking:
            raise KitError(f"{told}: {len(lacking)} problems of {there} are not in {here}, such as {min(lacking)[:80]!r}; "
                           "models are compared on the same problems")
    differ = [(r.answer, golds[q].answer) for q, r in own.items() if r.answer != golds[q].answer]
    if differ:
        print(f"warning: {told}: {len(differ)} gold answers are not those of {whose}, such as {differ[0][0][:40]!r}, there "
              f"{differ[0][1][:40]!r}; all are graded against the latter")
    return [dataclasses.replace(r, id=golds[q].id, answer=golds[q].answer, core=golds[q].core) for q, r in own.items()]


def counter(config: Config) -> Counter | None:
    """Counts tokens with the tokenizer of `logs.tokenizer`; None when none is named."""
    source = config.logs.tokenizer
    if source is None:
        return None
    here = paths.given(config, source)
    tokenizer = models.load_tokenizer(here if here.is_dir() else source, config)
    return lambda texts: [len(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]


def export(config: Config, model: str, folder: Path, ranks: int) -> list[Path]:
    """Write a model's rollouts in the official format, folder/<set>/rank<k>.jsonl; returns the folders of the sets."""
    for name in config.data.evaluation:
        found = list(records.read(paths.of(config).rollouts(model, name)))
        lists = name in SOURCES and SOURCES[name].lists
        write_official(found, folder / name, max(1, ranks), lists)
    return [folder / name for name in config.data.evaluation]
