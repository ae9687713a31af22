"""What a params file may leave out: the run's name, prompts, a validation set, budgets, since something else in it tells; and
where the data sets of the paper are.

The former are filled in before the file is checked, so the manifest of a run has them written out.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

from kit.settings.schema import SetSource

_KIT = Path(__file__).resolve().parents[1]
ROOT = _KIT.parent if (_KIT.parent / "params" / "laptop.yaml").is_file() else _KIT  # has params/, notebooks/; _KIT: installed
HOME = ROOT if ROOT != _KIT else Path.cwd()  # has results/, cache/ and data/
HELD_OUT = "held-out"  # the validation set where none is named: a part of the training set (kit.data.problems)
WINDOW = 32768  # tokens, of the paper's models
BUDGETS = (500, 1000, 2000, 4000, 8000)  # of the official code
# Family: what a model's name has in it, and what its chat template.
FAMILIES = {"deepseek": (("deepseek-r1", "deepscaler"), "<｜Assistant｜>"), "qwq": (("qwq",), "<think>")}


class Source(SetSource):
    """A set of the hub that can be named in `data` without saying where it is."""
    rows: int = 0  # how many it is known to have
    part: str = ""  # of a large set with verl's columns, the rows with this `data_source`
    years: tuple[int, ...] = ()  # keep the rows of these years (their last two digits)
    integers: bool = False  # every answer is a whole number by the rules of the contest: 025 and 27.0 are ways of writing one
    lists: bool = False  # the official logs write the answer as a list
    files: tuple[str, ...] = ()  # other names that a file of it goes by


VALIDATION = "aime22_23_24.parquet"  # AIME 22 to 24 in verl's columns, from the official repository
SOURCES = {
    "eurus-amc-aime": Source(hub="PRIME-RL/Eurus-2-RL-Data", rows=2470, part="numina_amc_aime"),
    "aime22-23": Source(hub="AI-MO/aimo-validation-aime", rows=60, years=(22, 23), integers=True,
                        files=(VALIDATION, "test_aime.parquet")),
    "aime24": Source(hub="HuggingFaceH4/aime_2024", rows=30, years=(24,), integers=True, files=(VALIDATION,)),
    "amc23": Source(hub="math-ai/amc23", split="test", rows=40, integers=True),
    "math500": Source(hub="HuggingFaceH4/MATH-500", split="test", rows=500),
    "olympiadbench": Source(hub="SumanthRH/olympiadbench_qwen_math", rows=675, lists=True),
    "olympiadbench-hothan": Source(hub="Hothan/OlympiadBench", config="OE_TO_maths_en_COMP", rows=674, lists=True),
}


def folder_of(source: str) -> Path:
    """A model's folder: as given, or as seen from the project (notebooks run in their own folder); it need not be there."""
    given = Path(source).expanduser()
    return given if given.is_dir() or not source.strip() else HOME / given


def family_of(source: str) -> str:
    """The file in params/shared with a model's prompts, without `.yaml`: by its name or chat template; else `plain`."""
    folder, name = folder_of(source), source.lower()
    files = [file for file in (folder / "chat_template.jinja", folder / "tokenizer_config.json") if file.is_file()]
    template = "".join(file.read_text(encoding="utf-8", errors="replace") for file in files)
    by_name = [family for family, (parts, _) in FAMILIES.items() if any(part in name for part in parts)]
    return next(iter(by_name + [family for family, (_, sign) in FAMILIES.items() if sign in template]), "plain")


def told_window(source: str) -> int | None:
    """Tokens of prompt and response that a model can take, by the config.json of its folder; None where that does not say."""
    config = folder_of(source) / "config.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return int(json.loads(config.read_text(encoding="utf-8"))["max_position_embeddings"])
    return None


def window_of(source: str) -> int:
    """The same, at most that of the paper's models, which is also taken where nothing tells."""
    return min(told_window(source) or WINDOW, WINDOW)


def filled(table: dict[str, Any], path: Path) -> dict[str, Any]:
    """The table of a params file with what it leaves out; for the prompts `extends` names their file."""
    whole, names = {"run": path.stem, **table}, ("model", "data", "evaluation", "forcing")
    if not table.get("schedules") or any(name in table and not isinstance(table[name], dict) for name in names):
        return whole
    model, data, evaluation, forcing = parts = [{**table.get(name, {})} for name in names]
    if isinstance(source := model.get("source"), str) and (window := window_of(source)) < WINDOW:
        data.setdefault("prompt_cap", min(768, window // 2))
        evaluation.setdefault("max_new_tokens", window - min(768, window // 2))
    if data.get("train") and not data.get("validation"):
        data["validation"] = HELD_OUT
    if "budgets" not in forcing and isinstance(longest := evaluation.get("max_new_tokens"), int) and longest > 8:
        small = tuple(longest // n for n in (8, 4, 2))
        forcing["budgets"] = list(small if longest <= 2 * BUDGETS[0] else (b for b in BUDGETS if b < longest))
    whole |= {name: part for name, part in zip(names, parts, strict=True) if part}
    if "prompts" not in table and isinstance(source, str):
        whole["extends"] = f"shared/{family_of(source)}.yaml"
    return whole
