"""Generation logs in the official format, read as if the kit had made them, and the kit's rollouts written in it.

A log is a file of JSON lines, or a folder of rank files `rank0.jsonl`, `rank1.jsonl`, … (a problem stands in one of them). A line
has the question's own fields, `answer` (of a list the first element is graded), `model_answer` (list of texts) and
`model_answer_length` (list of token counts); or one response, and the problem's others stand in lines of their own. The lines of
lm-evaluation-harness, of verl's rollout dump and of Qwen2.5-Math's evaluation are read as well. Counts that are not there are
made with the tokenizer that params name (`logs.tokenizer`; the end token is not in the text, so one less than what the engine
counted), or are None. Whether a response ended by itself is not in this format: `finished` is None, unless the kit wrote it.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kit.data import problems, sources
from kit.data.problems import Problem
from kit.data.sources import SOURCES
from kit.rollout import models, records
from kit.rollout.records import Rollout
from kit.runs import files, paths
from kit.settings import Config, KitError


def read_official(path: Path, name: str = "log", tokenizer: Any = None) -> list[Rollout]:
    """The rollouts of a log of data set `name`; `tokenizer` counts the tokens of responses without a length.

    Raises KitError naming the file and the row that is wrong.
    """
    ranks = [path] if path.is_file() else [path / f"rank{k}.jsonl" for k in range(len(list(path.glob("rank*.jsonl"))))]
    if not ranks or not all(file.is_file() for file in ranks):
        there = ", ".join(sorted(file.name for file in path.glob("rank*.jsonl"))) or "none"
        raise KitError(f"{path}: should be a file, or a folder with rank0.jsonl, rank1.jsonl, … without a gap; there is {there}")
    found: dict[str, Rollout] = {}
    rows: dict[str, Any] = {}
    files_of: dict[str, Path] = {}
    for file in ranks:
        for number, row in sources.json_lines(file):
            try:
                made = as_rollout(row, name, tokenizer)
                key = problems.plain(made.question)
                before = found.setdefault(key, made)
                if before is not made and row != rows.get(key):  # samplers pad the last batch with rows that were there
                    if len(made.model_answer) > 1 or files_of[key] != file:
                        raise ValueError("a problem that was there before; is there another run's file in the folder?")
                    found[key] = dataclasses.replace(before, **{
                        part: getattr(before, part) + getattr(made, part) for part in RESPONSES})
                rows[key], files_of[key] = row, file
            except ValueError as error:
                raise KitError(f"{file.name} row {number}: {error}") from None
    if not found or len({r.id for r in found.values()}) != len(found):
        raise KitError(f"{path}: two problems have the same id" if found else f"{path}: no rollouts in this log")
    return list(found.values())


RESPONSES = ("model_answer", "model_answer_length", "finished")
_USER = re.compile(r"(?:<\|im_start\|>user\n|<｜User｜>)(.*?)(?:<\|im_end\|>|<｜Assistant｜>)", re.DOTALL)


def as_official(row: Any) -> Any:
    """A line of another harness in the official format; others as they are."""
    if not isinstance(row, dict):
        return row
    if isinstance(row.get("doc"), dict) and isinstance(row.get("resps"), list):  # lm-evaluation-harness
        texts = [text for said in row["resps"] for text in (said if isinstance(said, list) else [said])]
        return {"answer": row.get("target"), **row["doc"], "model_answer": texts}
    if {"input", "output", "gts"} <= row.keys():  # verl's trainer.rollout_data_dir; its input is the rendered prompt
        asked = _USER.findall(str(row["input"])) or [row["input"]]
        return {"question": asked[-1], "answer": row["gts"], "model_answer": row["output"]}
    if {"code", "gt"} <= row.keys():  # Qwen2.5-Math
        return {**row, "answer": row["gt"], "model_answer": row["code"]}
    return row


def as_rollout(row: Any, name: str, tokenizer: Any = None) -> Rollout:
    """One line of a log; ValueError says what is wrong with it."""
    row = as_official(row)
    problem = problems.as_problem(row, name)
    texts = row.get("model_answer")
    if isinstance(texts, str):  # one response
        row, texts = {**row, **{key: [row[key]] for key in RESPONSES if row.get(key) is not None}}, [texts]
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError("`model_answer` should be a list of texts")
    texts = [text.encode("utf-8", "replace").decode() for text in texts]  # half an emoji cannot be written to a file
    parts = {}
    for key, kind, what in (("model_answer_length", int, "a token count"), ("finished", bool, "true or false")):
        values = [None] * len(texts) if row.get(key) is None else row[key]
        if kind is int and isinstance(values, list):  # pandas writes a column with gaps as 4.0
            values = [int(v) if isinstance(v, float) and v.is_integer() else v for v in values]
        parts[key] = values
        if not isinstance(values, list) or len(values) != len(texts) or not all(
                value is None or type(value) is kind and 0 <= value < 2**31 for value in values):
            raise ValueError(f"`{key}` should be a list with {what} for each of the {len(texts)} responses")
    if tokenizer and None in parts["model_answer_length"]:
        counted = map(len, tokenizer(texts, add_special_tokens=False)["input_ids"])
        parts["model_answer_length"] = [n if own is None else own
                                        for own, n in zip(parts["model_answer_length"], counted, strict=True)]
    return Rollout(**vars(problem), model_answer=texts, **parts)


def export(config: Config, model: str, folder: Path) -> list[Path]:
    """Write a model's rollouts in the official format, folder/<set>/rank0.jsonl; returns these files.

    The official tools do not look at the fields that the kit adds (`id`, `core`, `finished`); `read_official` does.
    """
    written = [folder / name / "rank0.jsonl" for name in config.data.evaluation]
    for name, path in zip(config.data.evaluation, written, strict=True):
        if any(path.parent.glob("rank*.jsonl")):
            raise KitError(f"{path.parent}: there are rank files already; name another folder, or move them away")
        lists = name in SOURCES and SOURCES[name].lists
        with files.atomic(path) as file:
            for r in records.read(paths.of(config).rollouts(model, name)):
                file.write(json.dumps({**vars(r), "answer": [r.answer] if lists else r.answer}, ensure_ascii=False) + "\n")
    return written


# --- the models of a run ----------------------------------------------------------------------------------------------


def responses(config: Config, model: str, name: str) -> list[Rollout]:
    """The responses of a model that params know by its logs (`logs.models`) to data set `name`, kept like the kit's own.

    Says in a line what the log does not tell. Ids and gold answers are those of the data set where the run has models of its own
    or params say where the set is (`data.files`), else those of the base's log: some harnesses mangle the answers.
    """
    path, source = _place(config, model, name), config.logs.tokenizer
    here = source and paths.given(config, source)
    tokenizer = models.load_tokenizer(here if here.is_dir() else source, config) if source else None
    found = read_official(path, name, tokenizer)
    if config.schedules or name in config.data.files:
        found = matched(found, problems.load(name, config), f"{model}, {name}", "the data set")
    elif model != "base" and "base" in config.logs.models:
        found = matched(found, read_official(_place(config, "base", name), name), f"{model}, {name}", "base's log")
    with files.atomic(paths.of(config).rollouts(model, name)) as file:
        file.writelines(map(records.as_line, found))
    lengths, ends = ([value for r in found for value in getattr(r, key)] for key in ("model_answer_length", "finished"))
    told = [f"; {what} unknown for {values.count(None)}" for what, values in (("lengths", lengths), ("truncation", ends))
            if None in values]
    print(f"{model}, {name}: {len(ends)} responses to {len(found)} problems from {path.name}{''.join(told)}")
    return found


def _place(config: Config, model: str, name: str) -> Path:
    given = str(Path(config.logs.folder) / config.logs.models[model][name])
    path = paths.given(config, given)
    if not path.exists():
        raise KitError(f"{config.file}: logs.models.{model}.{name}: there is no file or folder {given}")
    return path


def matched(found: Sequence[Rollout], known: Sequence[Problem | Rollout], told: str, whose: str) -> list[Rollout]:
    """Rollouts with the ids and gold answers that `known` has, matched by question; KitError when one has a problem that the
    other lacks."""
    golds, own = ({problems.plain(p.question): p for p in some} for some in (known, found))
    if single := golds.keys() ^ own.keys():
        raise KitError(f"{told}: {len(single)} problems are only in one of its log and {whose}, such as {min(single)[:80]!r}; "
                       "models are compared on the same problems")
    differ = [(r.answer, golds[q].answer) for q, r in own.items() if r.answer != golds[q].answer]
    if differ:
        print(f"warning: {told}: {len(differ)} gold answers are not those of {whose}, such as {differ[0][0][:40]!r}, there "
              f"{differ[0][1][:40]!r}; all are graded against the latter")
    return [dataclasses.replace(r, id=golds[q].id, answer=golds[q].answer, core=golds[q].core) for q, r in own.items()]
