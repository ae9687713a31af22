"""What tables, figures and sentences are made from: the CSV files of a run, and the published numbers."""

import functools
from pathlib import Path
from typing import Any

import pandas as pd

from kit.runs import catalog, files, manifest, paths
from kit.settings import ROOT, Config, KitError, read_yaml


def read(config: Config, name: str, overall: bool = False) -> pd.DataFrame:
    """metrics/<name>.csv of the run, with what its models are called in `label` and `against_label`; `overall`: only the rows of
    the mean over the data sets, or of the only set. KitError where it is missing, damaged, or of models not in the params."""
    path, called = paths.of(config).metrics / f"{name}.csv", catalog.labels(config)
    table = files.read_csv(path)
    for column, label in (("model", "label"), ("against", "against_label")):
        if column in table:
            if strange := sorted(set(table[column]) - set(called)):
                raise KitError(f"{path}: is of {', '.join(map(str, strange))}, which {config.file} does not name; "
                               "run the notebook that makes it (03, 04 or 05) again")
            table[label] = table[column].map(called)
    if overall and len(table):
        table = table[table.set == ("mean" if "mean" in set(table.set) else table.set.iloc[-1])]
    return table


def has(config: Config, name: str) -> bool:
    """Whether metrics/<name>.csv is there and has rows, and the params still ask for it."""
    asked = {"phases_judge": config.behavior.judge.url, "perplexity": config.behavior.reference}.get(name, True)
    path = paths.of(config).metrics / f"{name}.csv"
    return bool(asked) and path.is_file() and not files.read_csv(path).empty


def rows_of(config: Config, name: str, overall: bool = True) -> list[Any]:
    """The rows of `read` as named tuples; none where the run does not have the table."""
    return list(read(config, name, overall).itertuples()) if has(config, name) else []


def published() -> dict[str, Any]:
    """params/published.yaml: tables, the paper's validation curve, which models they are of. Read again only where it has
    changed."""
    path = ROOT / "params" / "published.yaml"
    return _published(path, path.stat().st_mtime_ns)


@functools.lru_cache(1)
def _published(path: Path, changed: int) -> dict[str, Any]:
    return read_yaml(path)


def set_label(config: Config, name: str) -> str:
    """What a data set, or the mean over them, is called."""
    return "mean of the sets" if name == "mean" else config.set_labels.get(name, name)


def origin(config: Config, name: str) -> tuple[str, str, str]:
    """Where a table or figure is from: its title with the run's name, the commit that drew it, the date."""
    return f"{name}, run {config.run}", f"commit {manifest.commit()}", files.now()
