r"""Where the rows of a data set come from: the hub, a copy of a hub repository, or a file of the user's.

Of the sets that the kit knows (settings/sets) no revision is pinned: params may pin one (`data.revisions`); without that
the hub's newest is taken once, kept in the cache, and its commit recorded.
"""

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from kit.runs import files
from kit.settings import SOURCES, KitError, SetSource

Rows = Iterable[tuple[int, Any]]  # (number from 1, row)
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet", ".csv")


def wanted(row: Any, name: str) -> bool:
    """Whether a row belongs to set `name`; a file without the columns that tell was narrowed down before. The year of an AIME
    problem is in `year`, verl's `data_source` (AIME22) or the `url` of AI-MO's set, which holds AIME24, a test set, too;
    ValueError where it should be and is not."""
    source = SOURCES.get(name)
    if source is None or not isinstance(row, dict):
        return True
    if source.part and row.get("data_source", source.part) != source.part:
        return False
    told = " ".join(str(row[key]) for key in ("year", "data_source", "url") if row.get(key))
    if not source.years or not told:
        return True
    found = re.search(r"(?:AIME|20)(\d\d)(?!\d)", told)
    if not found:
        raise ValueError("its year cannot be told from `year`, `data_source` or `url`")
    return int(found[1]) in source.years


def find_in(folder: Path, name: str) -> Path | None:
    """The file of set `name` in a folder: <name>.jsonl and the like, or a name it is known by; else its folder <name>."""
    known = [*(name + suffix for suffix in SUFFIXES), *(SOURCES[name].files if name in SOURCES else ()), name]
    return next((folder / file for file in known if (folder / file).exists()), None)


def narrow(source: SetSource | None) -> dict[str, Any]:
    """What readers of parquet are told so that they read the needed columns and rows of a large set alone."""
    part = getattr(source, "part", "")
    return {"filters": [("data_source", "==", part)], "columns": ["data_source", "prompt", "reward_model"]} if part else {}


def read_local(path: Path, name: str) -> Iterator[tuple[int, Any]]:
    """The rows of a file (JSON lines, a JSON list, CSV with a header, parquet), or of a folder that holds the set's file or is a
    copy of its hub repository. KitError names the file, and the row that is not JSON."""
    source = SOURCES.get(name)
    while path.is_dir() and (inside := find_in(path, name)):
        path = inside
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet as parquet

            whole = "data_source" in parquet.read_schema(path).names  # then it may be a part of the 1.7 GB training set
            yield from enumerate(parquet.read_table(path, **(narrow(source) if whole else {})).to_pylist(), 1)
        elif path.is_dir() and source:
            yield from hub_rows(str(path), source, None)
        elif not path.name.endswith(SUFFIXES):
            raise KitError(f"{path}: a data set is a file ending in {', '.join(SUFFIXES)}, or a folder with one of that name")
        elif path.suffix == ".csv":
            yield from csv_rows(path)
        elif path.suffix == ".json" and path.read_text(encoding="utf-8-sig").lstrip().startswith("["):
            yield from enumerate(json.loads(path.read_bytes()), 1)
        else:
            yield from json_lines(path)
    except (OSError, ValueError, RecursionError, TypeError, KeyError) as error:  # so are pyarrow's and datasets' own
        kind = f"a copy of {source.hub}, and no file of set {name}" if path.is_dir() and source else path.suffix[1:]
        raise KitError(f"{path}: not readable as {kind} ({files.first_line(error)})") from None


def json_lines(path: Path, shown: str = "") -> Iterator[tuple[int, Any]]:
    """The rows of a file of JSON lines, without empty ones; KitError names the row that is not JSON, and the file, as `shown`."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
        number = 0
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, json.loads(line)
        except UnicodeDecodeError:
            raise KitError(f"{shown or path.name} row {number}: not UTF-8; save the file as that") from None
        except (ValueError, RecursionError):
            raise KitError(f"{shown or path.name} row {number}: not JSON, one object a line") from None
        except (EOFError, zlib.error):
            raise KitError(f"{shown or path.name}: cut off or damaged; copy or download it again") from None


def csv_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with a header; between its columns is a comma, a semicolon (Excel in Europe) or a tab."""
    csv.field_size_limit(1 << 30)
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline()
        file.seek(0)
        for number, row in enumerate(csv.DictReader(file, delimiter=max(",;\t", key=header.count)), 1):
            if None in row or None in row.values():  # fields that the header does not name, or fewer than it names
                raise KitError(f"{path.name} row {number}: more or fewer fields than the header has; text with a comma in it "
                               "stands in quotes")
            yield number, row


def hub_rows(place: str, source: SetSource, revision: str | None) -> Rows:
    """Rows of a hub data set (or of a folder with a copy of its repository), streamed; only needed columns and rows."""
    from datasets import load_dataset

    named = {ours: theirs for ours, theirs in (("question", source.question), ("answer", source.answer)) if theirs}
    rows = load_dataset(place, source.config, split=source.split, revision=revision, streaming=True, **narrow(source))
    for number, row in enumerate(rows, 1):
        if missing := [theirs for theirs in named.values() if theirs not in row]:
            raise KitError(f"{source.hub}: no column {missing[0]}; there are {', '.join(row)}")
        yield number, row | {ours: row[theirs] for ours, theirs in named.items()}


def gym_entries(asked: SetSource) -> list[dict[str, Any]]:
    """The entries of a task of reasoning-gym: `question`, `answer`, and the `metadata` that its verifier needs."""
    try:
        from reasoning_gym import create_dataset
        from reasoning_gym.composite import DatasetSpec
    except ImportError:
        raise KitError("reasoning-gym is not installed; pip install -e '.[gym]'") from None
    try:
        options = {key: [DatasetSpec(**spec) for spec in value] if key == "datasets" else value  # of several tasks: composite
                   for key, value in asked.options.items()}
        return list(create_dataset(asked.reasoning_gym, seed=asked.seed, size=asked.size, **options))
    except (TypeError, ValueError, AssertionError) as error:
        raise KitError(f"reasoning-gym, {asked.reasoning_gym}: {files.first_line(error)}") from None
