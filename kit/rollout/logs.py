"""Generation logs, read as if the kit had made them, and written in the official format.

A log is a file, a folder of rank files (a problem stands in one of them), or another folder whose files are one log. The official
format is in params/README; a problem's responses may also stand in lines of their own. `rollout/formats` reads what other tools
write. Token counts that are not there are made with a tokenizer (the end token is not in the text, so one less than what the
engine counted), or are None, like `finished` where a log does not say whether a response ended by itself.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kit.data import problems, sources
from kit.data.problems import Problem
from kit.rollout import formats, models, records
from kit.rollout.records import Rollout
from kit.runs import files, paths
from kit.settings import Config, KitError

RESPONSES = ("model_answer", "model_answer_length", "finished")


def read(path: Path, name: str = "log", tokenizer: Any = None, golds: bool = True) -> list[Rollout]:
    """The rollouts of a log of data set `name`; `tokenizer` counts the tokens of responses without a length. Raises KitError
    naming the file and the row that is wrong; a missing gold answer is (`golds`), or it is ""."""
    ranks = [path] if path.is_file() else [path / f"rank{k}.jsonl" for k in range(len(list(path.glob("rank*.jsonl"))))]
    ranks = ranks or sorted(path.glob("samples_*.jsonl"))  # lm-evaluation-harness puts its results beside them
    ranks = ranks or sorted(file for file in path.glob("[!.]*") if file.name.endswith((*sources.SUFFIXES, ".eval")))
    if not ranks or not all(file.is_file() for file in ranks):
        there = ", ".join(sorted(file.name for file in path.glob("*"))[:5]) or "nothing"
        raise KitError(f"{path}: should be a file, or a folder with the files of one log ({', '.join(sources.SUFFIXES)}, .eval), "
                       f"rank0.jsonl, rank1.jsonl, … without a gap; there is {there}")
    found: dict[str, tuple[Rollout, Any, Path]] = {}  # question -> its responses so far, the last row of it, the file of that
    for file, number, given in formats.rows(ranks):
        try:
            row = formats.as_official(given)
            made = as_rollout(row, name, tokenizer, golds)
            key = problems.plain(made.question)
            before, last, there = found.get(key, (made, row, file))
            # Samplers pad the last batch with rows that were there. A row with one response is another response, be it the same.
            if key in found and (row != last or isinstance(row["model_answer"], str)):
                if len(made.model_answer) > 1 or there != file:
                    raise ValueError("a problem that was there before; is there another run's file in the folder?")
                before = dataclasses.replace(before, **{part: getattr(before, part) + getattr(made, part) for part in RESPONSES})
            found[key] = before, row, file
        except ValueError as error:
            raise KitError(f"{file.name} row {number}: {error}") from None
    rollouts = [rollout for rollout, *_ in found.values()]
    if not rollouts or len({r.id for r in rollouts}) != len(rollouts):
        twice = sorted(id for id, n in Counter(r.id for r in rollouts).items() if n > 1)
        raise KitError(f"{path}: two problems have the id {twice[0]}" if found else f"{path}: no rollouts in this log")
    return rollouts


def as_rollout(row: Any, name: str, tokenizer: Any = None, golds: bool = True) -> Rollout:
    """One row in the official format; ValueError says what is wrong with it."""
    problem, parts = problems.as_problem(row, name, golds), {key: _flat(row.get(key)) for key in RESPONSES}
    texts = parts["model_answer"]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError("`model_answer` should be a list of texts")
    parts["model_answer"] = texts = [text.encode("utf-8", "replace").decode() for text in texts]  # no file takes half an emoji
    for key, kind, what in (("model_answer_length", int, "a token count"), ("finished", bool, "true or false")):
        values = [int(v) if isinstance(v, float) and v.is_integer() else v for v in parts[key]]  # 4.0: a column that had gaps
        values = parts[key] = [None] * len(texts) if row.get(key) is None else values
        if len(values) != len(texts) or not all(value is None or type(value) is kind and 0 <= value < 2**31 for value in values):
            raise ValueError(f"`{key}` should be a list with {what} for each of the {len(texts)} responses")
    if tokenizer and None in parts["model_answer_length"]:
        counted = map(len, tokenizer(texts, add_special_tokens=False)["input_ids"])
        parts["model_answer_length"] = [n if own is None else own
                                        for own, n in zip(parts["model_answer_length"], counted, strict=True)]
    return Rollout(**vars(problem), **parts)


def _flat(value: Any) -> list[Any]:
    """The responses of a row: one, a list, or a list of lists, as some harnesses have them."""
    return [each for part in (value if isinstance(value, list) else [value])
            for each in (part if isinstance(part, list) else [part])]


def write(path: Path, rollouts: Iterable[Rollout], lists: bool = False) -> None:
    """A log in the official format, its answers as `lists` where the official code has them so. The official tools do not look at
    the fields that the kit adds (`id`, `core`, `finished`); `read` does. KitError where the folder has rank files already: they
    would be read as one log."""
    if any(path.parent.glob("rank*.jsonl")):
        raise KitError(f"{path.parent}: there are rank files already; name another folder, or move them away")
    with files.atomic(path) as file:
        for r in rollouts:
            own = {"answer": [r.answer] if lists else r.answer, "model_answer_ids": None}
            file.write(json.dumps(vars(r) | own, ensure_ascii=False) + "\n")


# --- the models of a run ----------------------------------------------------------------------------------------------


def responses(config: Config, model: str, name: str) -> list[Rollout]:
    """The responses of a model that params know by its logs (`logs.models`) to data set `name`, kept like the kit's own. Says in
    a line what the log does not tell. Ids and gold answers are those of the data set where the run has models of its own or
    params say where the set is (`data.files`), else those of the base's log: some harnesses mangle the answers."""
    check(config)
    path, source = _place(config, model, name), config.logs.tokenizer
    here = source and paths.given(config, source)
    tokenizer = models.load_tokenizer(here if here.is_dir() else source, config) if source else None
    known: Sequence[Problem | Rollout] = ()
    if config.schedules or name in config.data.files:
        known, whose = problems.load(name, config), "the data set"
    elif model != "base" and "base" in config.logs.models:
        known, whose = read(_place(config, "base", name), name), "base's log"
    found = read(path, name, tokenizer, golds=not known)
    if known:
        found = matched(found, known, f"{model}, {name}", whose)
    with files.atomic(paths.of(config).rollouts(model, name)) as file:
        file.writelines(map(records.as_line, found))
    lengths, ends = ([value for r in found for value in getattr(r, key)] for key in ("model_answer_length", "finished"))
    told = [f"; {what} unknown for {values.count(None)}" for what, values in (("lengths", lengths), ("truncation", ends))
            if None in values]
    print(f"{model}, {name}: {len(ends)} responses to {len(found)} problems from {path.name}{''.join(told)}")
    return found


def check(config: Config) -> None:
    """KitError, a line for each log of the run that is not there."""
    missing = [f"{config.file}: logs.models.{model}.{name}: there is no file or folder {Path(config.logs.folder) / log}"
               for model, logs in config.logs.models.items() for name, log in logs.items()
               if not _place(config, model, name).exists()]
    if missing:
        raise KitError(*missing)


def _place(config: Config, model: str, name: str) -> Path:
    return paths.given(config, str(Path(config.logs.folder) / config.logs.models[model][name]))


def matched(found: Sequence[Rollout], known: Sequence[Problem | Rollout], told: str, whose: str) -> list[Rollout]:
    """Rollouts with the ids and gold answers that `known` has, matched by question: it is the rollout's, or stands in it with
    instructions around it. KitError when one has a problem that the other lacks."""
    golds = {problems.plain(p.question): p for p in known}
    own: dict[str, Rollout] = {}
    twice: set[str] = set()
    for r in found:
        question = problems.plain(r.question)
        inside = [] if question in golds else [gold for gold in golds if gold in question]
        key = max(inside, key=len, default=question)
        twice |= {question} if own.setdefault(key, r) is not r else set()
    lacking, strange = golds.keys() - own.keys(), own.keys() - golds.keys() | twice
    if sides := [f"{len(only)} {what}, such as {min(only)[:80]!r}" for only, what in (
            (lacking, f"of {whose} are not in its log"), (strange, f"of its log are not in {whose}")) if only]:
        raise KitError(f"{told}: of the problems {'; '.join(sides)}; models are compared on the same problems")
    differ = [(r.answer, golds[q].answer) for q, r in own.items() if r.answer not in ("", golds[q].answer)]
    if differ:
        print(f"warning: {told}: {len(differ)} gold answers are not those of {whose}, such as {differ[0][0][:40]!r}, there "
              f"{differ[0][1][:40]!r}; all are graded against the latter")
    taken = ("id", "answer", "core", "verifier")
    return [dataclasses.replace(r, **{key: getattr(golds[q], key) for key in taken}) for q, r in own.items()]
