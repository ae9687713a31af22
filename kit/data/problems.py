r"""`Problem`, and `load(name)`: the problems of one data set, wherever its rows are.

A name is looked up in this order: `data.files` of the params file; what notebook 01 generated for the run; `data.folder` (data/
in the project), as <name>.jsonl, .json, .csv, .parquet or a folder <name>; the cache; the hub (data/sources). Whatever columns
these sets go by, `as_problem` reads them.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kit.data import sources
from kit.data.sources import Rows
from kit.runs import files, paths
from kit.settings import HELD_OUT, SOURCES, Config, KitError, SetSource


@dataclass(frozen=True)
class Problem:
    """One question with its gold answer. `core` is the length in tokens of the shortest correct response, if known; `verifier`,
    as JSON, what grades the answer in place of its equality with the gold one (reward/verifiers)."""

    id: str
    question: str
    answer: str
    core: int | None = None
    verifier: str = ""


Loaded = tuple[list[Problem], dict[str, Any]]  # the problems of a set, and what the manifest says of it


def load(name: str, config: Config) -> list[Problem]:
    """The problems of data set `name`. Raises KitError naming the file and row that is not a problem, or what to download."""
    return open_set(name, config)[0]


def open_set(name: str, config: Config) -> Loaded:
    """`load`, with the facts: `problems`, how many; `origin`, where from; `revision`, at which commit of the hub; `rows` that the
    file has, and the set is known to have (`expected`); `duplicates`: rows whose question stands in a row before, dropped but
    from a training set with `data.near_duplicate: null`; `conflicts`: those of them that have another answer."""
    d, generated = config.data, paths.of(config).data(name)
    whole = name == d.train and d.near_duplicate is None
    for other in d.revisions.keys() - SOURCES.keys() - d.sources.keys():
        raise KitError(f"{config.file}: data.revisions.{other} is no set of the hub; there are {', '.join(SOURCES)}")
    if name in d.files:
        path = paths.given(config, d.files[name])
        if not path.exists():
            raise KitError(f"{config.file}: data.files.{name}: there is no file or folder {d.files[name]}")
        return _local(path, name, path.name, whole)
    if generated.is_file():
        return _local(generated, name, "generated", whole)
    if name == HELD_OUT:
        found, told = open_set(d.train, config)
        held = sorted(found, key=lambda p: hashlib.sha256(p.question.encode()).digest())[: max(1, min(60, len(found) // 10))]
        return held, {**told, "problems": len(held), "origin": f"held out of {d.train}", "expected": None}
    asked = d.sources.get(name)
    if asked and asked.reasoning_gym:
        return from_gym(asked)
    if not asked and (path := sources.find_in(paths.given(config, d.folder), name)):
        return _local(path, name, f"{d.folder}/{path.name}", whole)
    if asked or name in SOURCES:
        return from_hub(name, d.revisions.get(name), d.folder, whole, asked)
    raise KitError(f"data set {name}: {generated} does not exist; notebook 01 makes the arithmetic sets, the hub's are called "
                   f"{', '.join(SOURCES)}, and a file of your own is named under data.files.{name} in {config.file}")


def from_hub(
    name: str, revision: str | None, folder: str = "data", whole: bool = False, asked: SetSource | None = None
) -> Loaded:
    """A set of the hub, from the cache, or fetched into it: the problems, not the rows around them. `folder` is where the message
    tells the user to put a copy when the hub cannot be reached; `asked` is the set where the kit does not know the name."""
    source = asked or SOURCES[name]

    def fetched() -> Loaded:
        from huggingface_hub import HfApi

        try:
            commit = HfApi().dataset_info(source.hub, revision=revision, timeout=20).sha
            print(f"{name}: fetching from the hub ({source.hub}), once; of a large set all is gone through, little is kept")
            return _collected(sources.hub_rows(source.hub, source, commit), name, source.hub, source.hub, commit, whole)
        except KitError:
            raise
        except Exception as error:  # whatever goes wrong between here and the hub, the remedy is the same
            pinned = f" --revision {revision}" if revision else ""
            command = f"hf download {source.hub} --repo-type dataset{pinned} --local-dir {name}"
            raise KitError(f"data set {name}: {source.hub} ({source.config or 'default'}, {source.split}) could not be had from "
                           f"the hub; download it elsewhere with `{command}` and put the folder at {folder}/{name}, or name a "
                           f"file of it under data.files.{name} in the params file. The hub said: {str(error)[:400]}") from None

    own = f"-{_digest((source.hub, source.config, source.split, source.question, source.answer))}" if asked else ""
    return _kept(name + own + "-whole" * whole, revision, fetched)


def from_gym(asked: SetSource) -> Loaded:
    """A task of reasoning-gym, from the cache, or made into it: of some tasks two processes draw different problems."""
    task, origin = asked.reasoning_gym, f"reasoning-gym, {asked.reasoning_gym}, seed {asked.seed}"

    def drawn() -> Loaded:
        rows = []
        for number, entry in enumerate(sources.gym_entries(asked), asked.seed):
            question, gold = entry.pop("question"), entry["answer"]
            own = entry["metadata"].get("source_dataset", task)  # of a composite one, that of this problem
            verifier = json.dumps({"reasoning_gym": own, "entry": entry})
            gold = "any that fits" if gold is None else str(gold)
            rows.append((number, Problem(f"{task}-{number}", question, gold, None, verifier)))
        return _collected(rows, task, origin, origin, version("reasoning-gym"))

    return _kept(f"{task}-{_digest(asked)}", None, drawn)


def _digest(asked: SetSource | tuple[str | None, ...]) -> str:
    return hashlib.sha256(repr(asked).encode()).hexdigest()[:8]


def _kept(name: str, revision: str | None, make: Callable[[], Loaded]) -> Loaded:
    """The set that the cache has under this name; `make` makes it where it is not there yet."""
    path = paths.cached(name, revision)
    if not path.is_file():
        found, told = make()
        files.write_json(path, told | {"problems": [asdict(p) for p in found]})
    told = files.read_json(path)
    found = [Problem(**row) for row in told["problems"]]
    return found, {"conflicts": None, **told, "problems": len(found)}


def read(path: Path) -> list[Problem]:
    """The problems of one file: JSON lines, a JSON list, CSV or parquet; KitError names the row that is none."""
    return _local(path, path.stem, path.name)[0]


def write(path: Path, problems: list[Problem]) -> None:
    """The inverse of `read`, as JSON lines."""
    with files.atomic(path) as file:
        file.writelines(json.dumps(asdict(p), ensure_ascii=False) + "\n" for p in problems)


def _local(path: Path, name: str, origin: str, whole: bool = False) -> Loaded:
    return _collected(sources.read_local(path, name), name, path.name, origin, whole=whole)


def _collected(rows: Rows, name: str, shown: str, origin: str, revision: str | None = None, whole: bool = False) -> Loaded:
    """The problems of these rows, without the duplicates unless `whole`; `shown` is what messages call the file."""
    first: dict[str, Problem] = {}
    count = conflicts = 0
    for number, row in rows:
        try:
            if sources.wanted(row, name):
                count, problem = count + 1, row if isinstance(row, Problem) else as_problem(row, name)
                question = plain(problem.question)
                if whole and question in first:
                    question, problem = f"{question} (row {number})", replace(problem, id=f"{problem.id}-row{number}")
                same = first.setdefault(question, problem)
                conflicts += same.answer != problem.answer and not problem.verifier  # which takes any answer that fits
        except ValueError as error:
            raise KitError(f"{shown} row {number}: {error}") from None
    if not first:
        raise KitError(f"{shown}: no problems in this file" + f" that belong to {name}" * (name in SOURCES))
    if twice := [id for id, n in Counter(p.id for p in first.values()).items() if n > 1]:
        raise KitError(f"{shown}: two rows have the id {twice[0]}")
    return list(first.values()), {
        "problems": len(first), "origin": origin, "revision": revision, "rows": count,
        "expected": SOURCES[name].rows if name in SOURCES else None, "duplicates": count - len(first), "conflicts": conflicts}


def facts(config: Config) -> dict[str, dict[str, Any]]:
    """The facts of each data set of the run, for the manifest; loading them all shows early what is missing."""
    names = (config.data.train, config.data.validation, *config.data.evaluation)
    return {name: open_set(name, config)[1] for name in names if name}


# --- a row ------------------------------------------------------------------------------------------------------------

# Of question and answer in a row, upper and lower case alike.
PLACES = (("question", "problem", "prompt", "messages"), ("answer", "final_answer", "reward_model"))
# What the training set's questions end in; the training prompt says it in its own words.
INSTRUCTION = re.compile(r"\s*Present the answer in LaTex format: \\boxed\{Your answer\}\s*$")


def as_problem(row: Any, name: str, golds: bool = True) -> Problem:
    """One row of set `name` as a problem; ValueError says what is wrong with it, such as no answer (without `golds` that is "").

    - the question: of messages (verl's `prompt`) the user's turn; a `context` comes before it (OlympiadBench);
    - the answer: of verl's `reward_model` the `ground_truth`; of a list the first, as the official code grades; of GSM8K's what
      comes behind ####. 025 and 27.0 become 25 and 27 in sets of whole numbers; all other texts stay as written;
    - the id: the source's own, else a hash of the question, so that it does not depend on the order of the rows.
    """
    if not isinstance(row, dict):
        raise ValueError("not a JSON object; should be one with `question` and `answer`")
    row = {str(key).strip().lower(): value for key, value in row.items()}
    question, answer = (next((row[key] for key in places if row.get(key) is not None), None) for places in PLACES)
    if question is None:
        raise ValueError(f"no `question` in it, but {', '.join(row)}")
    if isinstance(question, list):
        said = [turn.get("content") for turn in question if isinstance(turn, dict) and turn.get("role") == "user"]
        question = INSTRUCTION.sub("", said[0]) if len(said) == 1 and isinstance(said[0], str) else None
    if isinstance(answer, dict):
        answer = answer.get("ground_truth")
    if isinstance(answer, list) and answer:
        answer = answer[0]
    if type(answer) in (int, float, Decimal) and abs(answer) < math.inf:
        answer = str(answer).removesuffix(".0")
    question, known = _text(question, "question"), golds or answer is not None
    answer = _text(answer, "answer").rpartition("\n#### ")[2] if known else ""
    if row.get("context"):
        question = f"{_text(row['context'], 'context')}\n\n{question}"
    if known and name in SOURCES and SOURCES[name].integers:
        whole = re.fullmatch(r"\s*(-?[0-9]{1,300})(\.0+)?\s*", answer)
        if not whole:
            raise ValueError(f"`answer` is {answer[:40]!r}; all answers of this set are whole numbers")
        answer = str(int(whole[1]))
    core = row.get("core") or None
    if core is not None and (type(core) is not int or core < 0):
        raise ValueError("`core` should be a whole number of tokens")
    digest = hashlib.sha256(plain(question).encode()).hexdigest()[:12]
    own = next((row[key] for key in ("id", "unique_id") if row.get(key) not in (None, "")), f"{name}-{digest}")
    if type(own) not in (int, str) or not str(own).strip() or not str(own).isprintable():
        raise ValueError("`id` should be a whole number or a text, of characters that can be printed")
    return Problem(str(own), question, answer, core)


def _text(value: Any, key: str) -> str:
    """`value` if it is a text with something in it that can be written to a file."""
    if value is None:
        raise ValueError(f"no `{key}` in it")
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"`{key}` should be a text that is not empty" + " (or a number)" * (key == "answer"))
    if re.search("[\ud800-\udfff]", value):  # half a character, which JSON can hold and no file
        raise ValueError(f"`{key}` is not Unicode")
    return value


def plain(question: str) -> str:
    """The question with all white space alike: two rows with the same one are duplicates."""
    return " ".join(question.split())
