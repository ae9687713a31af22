r"""Where the rows of the paper's data sets come from: the hub, a copy of a hub repository, or a file of the user's.

`SOURCES` are the data sets of the paper and its code. No revision is pinned in it: params may pin one (`data.revisions`), and
without that the hub's newest is taken once, kept in the cache, and its commit recorded.
Rows come as plain dictionaries with the columns they have at home; `kit.data.problems` makes problems of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.runs import files
from kit.settings import KitError

Row = dict[str, Any]
SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")


@dataclass(frozen=True)
class Source:
    """One data set of the hub. `rows` is how many it is known to have."""

    hub: str
    split: str
    rows: int
    config: str | None = None
    data_source: str | None = None  # keep the rows with this value in the column of that name
    columns: tuple[str, ...] = ()  # of a large set, those that are needed
    years: tuple[int, ...] = ()  # keep the rows of these years
    integers: bool = False  # every answer is a whole number by the rules of the contest: 025 and 27.0 are ways of writing one
    lists: bool = False  # the official logs write the answer as a list
    files: tuple[str, ...] = ()  # other names that a file of it goes by

    @property
    def narrow(self) -> dict[str, Any]:
        """What readers of parquet are told so that they read the needed columns and rows of a large set alone."""
        wanted = {"filters": [("data_source", "==", self.data_source)]} if self.data_source else {}
        return wanted | ({"columns": list(self.columns)} if self.columns else {})


OFFICIAL_VALIDATION = "aime22_23_24.parquet"  # AIME 22 to 24 in verl's columns, from the official repository
SOURCES = {
    "eurus-amc-aime": Source("PRIME-RL/Eurus-2-RL-Data", "train", 2470, data_source="numina_amc_aime",
                             columns=("data_source", "prompt", "reward_model")),
    "aime22-23": Source("AI-MO/aimo-validation-aime", "train", 60, years=(2022, 2023), integers=True,
                        files=(OFFICIAL_VALIDATION, "test_aime.parquet")),
    "aime24": Source("HuggingFaceH4/aime_2024", "train", 30, years=(2024,), integers=True, files=(OFFICIAL_VALIDATION,)),
    "amc23": Source("math-ai/amc23", "test", 40, integers=True),
    "math500": Source("HuggingFaceH4/MATH-500", "test", 500),
    "olympiadbench": Source("SumanthRH/olympiadbench_qwen_math", "train", 675, lists=True),
    "olympiadbench-hothan": Source("Hothan/OlympiadBench", "train", 674, config="OE_TO_maths_en_COMP", lists=True),
}


def wanted(row: Row, source: Source | None) -> bool:
    """Whether a row belongs to the set. A file without the columns that tell was narrowed down before.

    ValueError where a column should tell the year of an AIME problem (verl's data_source is AIME22; AI-MO's set, which holds
    AIME24, a test set, has only a url) and does not.
    """
    if source is None:
        return True
    if source.data_source and row.get("data_source", source.data_source) != source.data_source:
        return False
    told = [str(row[key]) for key in ("year", "data_source", "url") if row.get(key)]
    if not source.years or not told:
        return True
    found = re.search(r"(?m)^(?:AIME)?(\d\d|\d{4})$|/(\d{4})_AIME", "\n".join(told))
    if not found:
        raise ValueError("its year cannot be told from `year`, `data_source` or `url`")
    return int((found[1] or found[2])[-2:]) in [year % 100 for year in source.years]


# --- files ------------------------------------------------------------------------------------------------------------


def find_in(folder: Path, name: str) -> Path | None:
    """The file of set `name` in a folder: <name>.jsonl and the like, a name it is known by, or a folder <name>."""
    others = SOURCES[name].files if name in SOURCES else ()
    places = [folder / file for file in (*(f"{name}{suffix}" for suffix in SUFFIXES), *others)]
    return next((p for p in places if p.is_file()), folder / name if (folder / name).is_dir() else None)


def read_local(path: Path, name: str) -> Iterator[tuple[int, Any]]:
    """(row number from 1, row) of a file, or of a folder that holds the set's file or is a copy of its hub repository.

    Read are JSON lines, a JSON list, CSV with a header, and parquet. Raises KitError naming the file, and the row where a line
    is not JSON.
    """
    source, complaint = SOURCES.get(name), f"{path}: not readable as {path.suffix[1:]}"
    if path.is_dir():
        if inside := find_in(path, name):
            return (yield from read_local(inside, name))
        if source is None:
            raise KitError(f"{path}: no file {name}.jsonl, .json, .csv or .parquet in this folder")
        complaint = f"{path}: no file of set {name}, and not a copy of its hub repository {source.hub}"
    elif path.suffix not in SUFFIXES:
        raise KitError(f"{path}: a data set is a file ending in {', '.join(SUFFIXES)}, or a folder with one")
    try:
        yield from _rows(path, source)
    except (OSError, ValueError, RecursionError, TypeError, KeyError) as error:  # so are pandas', pyarrow's and datasets' own
        why = "it should be UTF-8 text" if isinstance(error, UnicodeDecodeError) else files.first_line(error)
        raise KitError(f"{complaint} ({why})") from None
    return None


def _rows(path: Path, source: Source | None) -> Iterator[tuple[int, Any]]:
    """(number, row) of a file, or of a copy of the set's hub repository, with the errors of whatever library."""
    if path.is_dir() and source:
        yield from hub_rows(str(path), source, None)
    elif path.suffix == ".jsonl":
        yield from _json_lines(path)
    elif path.suffix == ".json":
        rows = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(rows, list):
            raise KitError(f"{path.name}: should be a JSON list of problems")
        yield from enumerate(rows, 1)
    elif path.suffix == ".csv":
        import pandas as pd

        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        yield from enumerate(table.to_dict("records"), 1)
    else:  # it may be a part of the 1.7 GB training set
        import pyarrow.parquet as parquet

        narrow = source is not None and set(source.columns) <= set(parquet.read_schema(path).names)
        yield from enumerate(parquet.read_table(path, **(source.narrow if narrow and source else {})).to_pylist(), 1)


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig") as lines:  # some editors write a mark in front
        for number, line in enumerate(lines, 1):
            try:
                if line.strip():
                    yield number, json.loads(line)
            except (ValueError, RecursionError):
                raise KitError(f"{path.name} row {number}: not JSON; should be an object with `question` and `answer`") from None


# --- the hub ----------------------------------------------------------------------------------------------------------


def hub_rows(place: str, source: Source, revision: str | None) -> Iterator[tuple[int, Any]]:
    """Rows of a hub data set (or of a folder with a copy of its repository), streamed; only needed columns and rows."""
    from datasets import load_dataset

    rows = load_dataset(place, source.config, split=source.split, revision=revision, streaming=True, **source.narrow)
    yield from enumerate(rows, 1)


def not_from_hub(name: str, revision: str | None, folder: str, error: BaseException) -> str:
    """Why a set could not be had, what to download, and where to put it."""
    from huggingface_hub import errors

    source, reasons = SOURCES[name], {
        errors.GatedRepoError: "access is gated: accept its terms on the hub and log in with `hf auth login`",
        errors.RevisionNotFoundError: f"it has no revision {revision}; look at data.revisions.{name}",
        errors.RepositoryNotFoundError: "the hub does not know it, or not for you: log in with `hf auth login`",
        errors.OfflineModeIsEnabled: "HF_HUB_OFFLINE is set",
    }
    known = [text for kind, text in reasons.items() if isinstance(error, kind)]
    why = known[0] if known else f"{type(error).__name__}: {files.first_line(error)}"
    pinned = f" --revision {revision}" if revision else ""
    return (
        f"data set {name}: {source.hub} ({source.config or 'default'}, {source.split}) could not be had from the hub ({why}); "
        f"download it elsewhere with `hf download {source.hub} --repo-type dataset{pinned} --local-dir {name}` and put the "
        f"folder at {folder}/{name}, or name the place of a file of it under data.files.{name} in the params file"
    )
