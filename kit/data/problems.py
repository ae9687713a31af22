r"""`Problem`, and `load(name)`: the problems of one data set, wherever its rows are.

A name is looked up in this order: `data.files` of the params file; what notebook 01 generated for the run; `data.folder` (data/
in the project), as <name>.jsonl, .json, .csv, .parquet or a folder <name>; the cache; the hub (data/sources). All of the shapes
that these sets go by are read: the hub's columns, the Qwen2.5-Math bundle's, verl's, a JSON list, a user's own rows with
`question` (or `problem`) and `answer`.

- the question: `question`, `problem`, or the user's turn of `prompt`; OlympiadBench's `context`, if any, comes before it;
- the answer: `answer`, `final_answer` or `reward_model.ground_truth`; of a list the first, as the official code grades;
- 025 and 27.0 become 25 and 27 in sets whose answers are whole numbers by definition; all other answers stay as written;
- the id: the source's own, else a hash of the question, so that it does not depend on the order of the rows.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kit.data import sources
from kit.data.sources import SOURCES, Row, Source
from kit.runs import files, paths
from kit.settings import Config, KitError


@dataclass(frozen=True)
class Problem:
    """One question with its gold answer. `core` is the length in tokens of the shortest correct response, if known."""

    id: str
    question: str
    answer: str
    core: int | None = None


@dataclass(frozen=True)
class Loaded:
    """The problems of a set, and what the manifest says of them: where from, at which commit of the hub, how many rows."""

    problems: list[Problem]
    origin: str
    revision: str | None = None
    rows: int = 0
    duplicates: int = 0  # rows whose question stands in a row before: dropped

    @property
    def facts(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "problems"}


def load(name: str, config: Config) -> list[Problem]:
    """The problems of data set `name`. Raises KitError naming the file and row that is not a problem, or what to download."""
    return open_set(name, config).problems


def open_set(name: str, config: Config) -> Loaded:
    """`load`, with where the problems come from and how many rows were dropped."""
    for other in config.data.revisions:
        if other not in SOURCES:
            raise KitError(f"{config.file}: data.revisions.{other} is no set of the hub; there are {', '.join(SOURCES)}")
    given, generated = config.data.files.get(name), paths.of(config).data(name)
    if given is not None:
        path = paths.given(config, given)
        if not path.exists():
            raise KitError(f"{config.file}: data.files.{name}: there is no file or folder {given}")
        return _from_file(path, name, path.name)
    if generated.is_file():
        return _from_file(generated, name, "generated")
    if path := sources.find_in(paths.given(config, config.data.folder), name):
        return _from_file(path, name, f"{config.data.folder}/{path.name}")
    if name in SOURCES:
        return from_hub(name, config.data.revisions.get(name), config.data.folder)
    raise KitError(f"data set {name}: {generated} does not exist; notebook 01 makes the arithmetic sets, the hub's are called "
                   f"{', '.join(SOURCES)}, and a file of your own is named under data.files.{name} in {config.file}")


def from_hub(name: str, revision: str | None, folder: str = "data") -> Loaded:
    """A set of the hub, from the cache, or fetched into it: the problems, not the rows around them.

    `folder` is where the message tells the user to put a copy when the hub cannot be reached.
    """
    kept, source = paths.cached(name, revision), SOURCES[name]
    facts = kept.with_suffix(".json")
    if not (kept.is_file() and facts.is_file()):
        from huggingface_hub import HfApi

        try:
            commit = HfApi().dataset_info(source.hub, revision=revision, timeout=20).sha
            print(f"{name}: fetching from the hub ({source.hub}), once" + (
                "; only some rows are kept, but the whole set is gone through" if source.data_source else ""))
            got = _load(sources.hub_rows(source.hub, source, commit), name, source.hub, source.hub, commit)
        except KitError:
            raise
        except Exception as error:  # whatever goes wrong between here and the hub, the remedy is the same
            raise KitError(sources.not_from_hub(name, revision, folder, error)) from None
        files.write_json(facts, got.facts)
        write(kept, got.problems)
    return Loaded(read(kept), **files.read_json(facts))


def read(path: Path) -> list[Problem]:
    """The problems of one file: JSON lines, a JSON list, CSV or parquet; KitError names the row that is none."""
    return _from_file(path, path.stem, path.name).problems


def write(path: Path, problems: list[Problem]) -> None:
    """The inverse of `read`, as JSON lines."""
    with files.atomic(path) as file:
        file.writelines(json.dumps(asdict(p), ensure_ascii=False) + "\n" for p in problems)


def _from_file(path: Path, name: str, origin: str) -> Loaded:
    return _load(sources.read_local(path, name), name, path.name, origin)


def _load(rows: Iterable[tuple[int, Any]], name: str, shown: str, origin: str, revision: str | None = None) -> Loaded:
    """Rows -> problems without the duplicates (by question); `shown` is what messages call the file."""
    source, count = SOURCES.get(name), 0
    found: dict[str, Problem] = {}
    for number, row in rows:
        try:
            if not isinstance(row, dict):
                raise ValueError("not a JSON object; should be one with `question` and `answer`")
            if sources.wanted(row, source):
                count, problem = count + 1, as_problem(row, name, source)
                found.setdefault(plain(problem.question), problem)
        except ValueError as error:
            raise KitError(f"{shown} row {number}: {error}") from None
    if len({p.id for p in found.values()}) != len(found):
        raise KitError(f"{shown}: two rows have the same id")
    if not found:
        raise KitError(f"{shown}: no problems in this file" + (f" that belong to {name}" if source else ""))
    return Loaded(list(found.values()), origin, revision, count, count - len(found))


# --- a row ------------------------------------------------------------------------------------------------------------


def as_problem(row: Row, name: str, source: Source | None = None) -> Problem:
    """One row as a problem; ValueError says what is wrong with it."""
    question, core = question_of(row), row.get("core") or None
    if row.get("context"):
        question = f"{text_of(row, 'context')}\n\n{question}"
    if core is not None and (type(core) is not int or core < 0):
        raise ValueError("`core` should be a whole number of tokens")
    digest = hashlib.sha256(plain(question).encode()).hexdigest()[:12]
    own = next((row[key] for key in ("id", "unique_id") if row.get(key) not in (None, "")), f"{name}-{digest}")
    if type(own) not in (int, str) or not str(own).strip() or not str(own).isprintable():
        raise ValueError("`id` should be a whole number or a text, of characters that can be printed")
    return Problem(str(own), question, answer_of(row, source is not None and source.integers), core)


# What the training set's questions end in; the training prompt says it in its own words.
INSTRUCTION = re.compile(r"\s*Present the answer in LaTex format: \\boxed\{Your answer\}\s*$")


def question_of(row: Row) -> str:
    """`question` or `problem`; else the user's turn of `prompt`, without the system turn and the instruction at its end."""
    for key in ("question", "problem"):
        if row.get(key) is not None:
            return text_of(row, key)
    turns = row.get("prompt")
    if not isinstance(turns, list):
        raise ValueError("no `question` (or `problem`) in it")
    users = [t.get("content") for t in turns if isinstance(t, dict) and t.get("role") == "user"]
    if len(users) != 1:
        raise ValueError("`prompt` should have one turn of the user")
    return text_of({"prompt": INSTRUCTION.sub("", text_of({"prompt": users[0]}, "prompt"))}, "prompt")


def answer_of(row: Row, integers: bool = False) -> str:
    """The gold answer as one text."""
    model = row.get("reward_model")
    places = (row.get("answer"), row.get("final_answer"), model.get("ground_truth") if isinstance(model, dict) else None)
    answer = next((value for value in places if value is not None), None)
    if answer is None:
        raise ValueError("no `answer` in it")
    if isinstance(answer, list):
        if not answer:
            raise ValueError("`answer` is an empty list")
        answer = answer[0]
    if type(answer) in (int, float):
        if not math.isfinite(answer):
            raise ValueError("`answer` is not a number")
        answer = str(int(answer) if answer == int(answer) and abs(answer) < 2**53 else answer)
    answer = text_of({"answer": answer}, "answer")
    if not integers:
        return answer
    if not re.fullmatch(r"-?[0-9]{1,300}(\.0+)?", answer.strip()):
        raise ValueError(f"`answer` is {answer[:40]!r}; all answers of this set are whole numbers")
    return str(int(answer.strip().split(".")[0]))


def text_of(row: Row, key: str) -> str:
    """row[key] if it is a text with something in it that can be written to a file; ValueError otherwise."""
    value = row[key]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"`{key}` should be a text that is not empty")
    if re.search("[\ud800-\udfff]", value):  # half a character, which JSON can hold and no file
        raise ValueError(f"`{key}` is not Unicode")
    return value


def plain(question: str) -> str:
    """The question with all white space alike: two rows with the same one are duplicates."""
    return " ".join(question.split())


# --- the sets of a run ------------------------------------------------------------------------------------------------


def facts(config: Config) -> dict[str, dict[str, Any]]:
    """What the manifest says of each data set of the run; loading them all shows early what is missing.

    `expected` is how many rows the set of that name is known to have: fewer or more, and it is another one.
    """
    found = {}
    for name in filter(None, (config.data.train, config.data.validation, *config.data.evaluation)):
        got = open_set(name, config)
        expected = {"expected": SOURCES[name].rows} if name in SOURCES else {}
        found[name] = {"problems": len(got.problems), **got.facts, **expected}
    return found


def described(config: Config) -> list[str]:
    """A line per data set of the run: how many problems, from where. Sets that are not here are fetched."""
    lines = []
    for name, f in facts(config).items():
        at = f" at {f['revision']}" if f["revision"] else ""
        known = f"; the set is known to have {f['expected']} rows" if f.get("expected", f["rows"]) != f["rows"] else ""
        lines.append(f"{name}: {f['problems']} problems from {f['origin']}{at}, {f['duplicates']} duplicates dropped{known}")
    return lines
