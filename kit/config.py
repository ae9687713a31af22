"""`params/*.yaml` -> one frozen, typed `Config`; anything unknown or mistyped is refused by file, key and remedy.

A params file may say `extends: other.yaml` (a path beside it): its own keys are laid over the other file's, table by
table, so shared settings are written once. `load` looks at everything before it complains, and complains once.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

ROOT = Path(__file__).resolve().parents[1]


class KitError(Exception):
    """A user's mistake or a broken input, told in one line; notebooks and commands print only that line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))

    def _render_traceback_(self) -> list[str]:  # what Jupyter shows in place of a traceback
        return [f"KitError: {self}"]


@dataclass(frozen=True)
class Model:
    """The base model: `arithmetic` (trained here), a local folder, or a hub id."""

    source: str = "arithmetic"
    revision: str | None = None
    trust_remote_code: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class Habits:
    """How the laptop's long thinker writes its traces (kit.arithmetic.think); probabilities unless said otherwise."""

    slip_hard: float = 0.12  # wrong at one look: steps with a carry, a borrow, or a two-digit factor
    slip_easy: float = 0.02
    slip_spelled: float = 0.003
    restate: float = 0.85
    careful: tuple[float, ...] = (0.0, 0.6, 1.0, 1.0)  # per trace: the share of hard steps that it spells out
    spelled_easy: float = 0.5  # easy steps are spelled out so often as this times the share above
    careful_check: float = 0.75  # whole checks that spell steps out likewise; the others look once
    step_check: tuple[float, ...] = (0.0, 0.8)  # per trace: the share of steps checked at once
    another_round: tuple[float, ...] = (0.9, 0.75, 0.5)  # a first, second, third whole check
    cut: float = 0.07  # traces cut off anywhere and then answered, so that budget forcing is a fair baseline


@dataclass(frozen=True)
class Arithmetic:
    """The laptop's world (kit.arithmetic): its problems, the small model, and how that is taught to think at length."""

    largest: int = 99  # every number of a problem and its solution lies in 0 .. largest
    operations: dict[str, tuple[int, ...]] = field(default_factory=dict)  # per data set: numbers of operations
    train_problems: int = 4000
    validation_problems: int = 200
    evaluation_problems: int = 200
    habits: Habits = Habits()
    hidden_size: int = 96
    layers: int = 3
    heads: int = 4
    key_value_heads: int = 2
    intermediate_size: int = 192
    max_length: int = 1024
    drill_steps: int = 300  # on bare equations, in turn with the traces
    drill_direct: float = 0.15  # share of whole steps among them; the others are the easy parts of steps
    sft_steps: int = 1000
    sft_batch: int = 8  # small: at the start of training more steps teach more than larger ones
    sft_learning_rate: float = 3e-3  # AdamW: embeddings, norms, biases
    sft_muon_learning_rate: float = 0.012  # Muon: the hidden layers' matrices


@dataclass(frozen=True)
class Data:
    """Names of the training, validation (AIME22+23's role) and evaluation sets."""

    train: str
    validation: str
    evaluation: tuple[str, ...]
    prompt_cap: int = 768  # tokens; longer training prompts are dropped (FACTS 2; QwQ 1024)


@dataclass(frozen=True)
class Prompts:
    """Wordings of the published method, as values. `{question}` and `{limit}` are filled in."""

    system: str
    limit_sentence: str
    train_user: str
    evaluation_user: str


@dataclass(frozen=True)
class Training:
    """GRPO settings of one pruning round; the defaults are the official ones (FACTS 2)."""

    prompts_per_step: int = 128
    responses_per_prompt: int = 16
    micro_batch: int = 16  # responses per forward/backward pass and device
    learning_rate: float = 1e-6
    max_grad_norm: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    clip_ratio: float = 0.2
    kl_coefficient: float = 0.001
    entropy_coefficient: float = 0.001
    steps: int = 190
    checkpoint_every: int = 20
    reading: Literal["official", "strict"] = "official"


@dataclass(frozen=True)
class Schedule:
    """A sequence of pruning rounds; one-shot is a list of one limit. `limits` are tokens."""

    limits: tuple[int, ...]
    label: str = ""
    steps: int | None = None  # steps per round; null: training.steps
    checkpoint_every: int | None = None  # steps; null: training.checkpoint_every
    state_limit: bool = True  # False: the prompt does not name the limit (a control)
    select: Literal["rule", "last"] = "rule"


@dataclass(frozen=True)
class Selection:
    """The paper's rule: shortest checkpoint with at most this relative drop in validation accuracy."""

    tolerance: float = 0.10
    samples: int = 16


@dataclass(frozen=True)
class Evaluation:
    """Sampling of an evaluation (FACTS 2) and its bootstrap."""

    samples: int = 16
    samples_by_set: dict[str, int] = field(default_factory=dict)
    temperature: float = 0.6
    top_p: float = 0.95
    max_new_tokens: int = 32000
    batch_size: int = 64  # responses generated at once (transformers engine)
    resamples: int = 2000  # bootstrap


@dataclass(frozen=True)
class Config:
    """All settings of one run. `file` is the params file they came from."""

    run: str
    data: Data
    prompts: Prompts
    schedules: dict[str, Schedule]
    model: Model = Model()
    arithmetic: Arithmetic = Arithmetic()
    training: Training = Training()
    selection: Selection = Selection()
    evaluation: Evaluation = Evaluation()
    keywords: dict[str, tuple[str, ...]] = field(default_factory=dict)
    set_labels: dict[str, str] = field(default_factory=dict)
    seed: int = 42
    threads: int = 1
    parallel: int = 1  # schedules worked on at the same time
    file: str = ""


# --- reading ----------------------------------------------------------------------------------------------------------


def load(params_file: str | Path) -> Config:
    """Read, merge and check a params file. Raises KitError with every problem that it has."""
    path = find(params_file)
    table = _merged(path, ())
    problems: list[str] = []
    table = {**table, "file": os.path.relpath(path, ROOT)}  # `find` finds it again from anywhere, and it names no home
    config = _build(Config, table, "", problems)
    if not problems:
        problems = _cross_checks(config)
    if problems:
        raise KitError("; ".join(f"{_shown(path)}: {p}" for p in problems))
    return config


def find(params_file: str | Path) -> Path:
    """The params file as given, or relative to the project's root (notebooks run in their own folder)."""
    given = Path(params_file)
    for path in (given, ROOT / given):
        if path.is_file():
            return path.resolve()
    known = ", ".join(sorted(f"params/{p.name}" for p in (ROOT / "params").glob("*.yaml") if p.name != "published.yaml"))
    raise KitError(f"{params_file}: no such params file; there are {known}")


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def read_yaml(path: Path) -> dict[str, Any]:
    """One YAML file as a table; KitError names the line that does not parse."""
    try:
        table = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or "not UTF-8 text"
        raise KitError(f"{_shown(path)}{where}: not readable as YAML ({reason})") from None
    if not isinstance(table, dict):
        raise KitError(f"{_shown(path)}: should be a table of `key: value` lines")
    return table


class _Loader(yaml.SafeLoader):
    """Safe YAML 1.1 that refuses a key written twice and reads 1e-6 as a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key `{key.value}` twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _merged(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    table = read_yaml(path)
    parent = table.pop("extends", None)
    if parent is None:
        return table
    base = path.parent / str(parent)
    if not base.is_file():
        raise KitError(f"{_shown(path)}: extends: no file {parent} beside it")
    if base.resolve() in (*seen, path):
        raise KitError(f"{_shown(path)}: extends: {parent} leads back to this file")
    return _laid_over(_merged(base.resolve(), (*seen, path)), table)


def _laid_over(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Tables merge key by key; `schedules` is replaced whole, since a run is a choice of schedules."""
    merged = dict(base)
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict) and key != "schedules"
        merged[key] = _laid_over(base[key], value) if both else value
    return merged


def _build(cls: type, table: Mapping[str, Any], where: str, problems: list[str]) -> Any:
    """A dataclass from a table, by its type hints; what does not fit is added to `problems`."""
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in hints:
            close = difflib.get_close_matches(str(key), hints, 1)
            allowed = f"did you mean `{close[0]}`?" if close else "allowed: " + ", ".join(h for h in hints if h != "file")
            problems.append(f"unknown key `{where}{key}`; {allowed}")
        else:
            values[key] = _fit(value, hints[key], f"{where}{key}", problems)
    for f in dataclasses.fields(cls):
        if f.name not in table and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            problems.append(f"`{where}{f.name}` is missing")
    return None if problems else cls(**values)


def _fit(value: Any, hint: Any, where: str, problems: list[str]) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, dict):
            return _build(hint, value, where + ".", problems)
    elif origin in (types.UnionType, typing.Union):
        return None if value is None else _fit(value, args[0], where, problems)
    elif origin is Literal:
        if value in args:
            return value
        problems.append(f"`{where}` is {value!r}; should be one of {', '.join(map(str, args))}")
        return None
    elif origin is tuple:
        if isinstance(value, list):
            return tuple(_fit(v, args[0], f"{where}[{i}]", problems) for i, v in enumerate(value))
    elif origin is dict:
        if isinstance(value, dict):
            return {str(k): _fit(v, args[1], f"{where}.{k}", problems) for k, v in value.items()}
    elif hint is float:
        if type(value) in (int, float) and math.isfinite(value):
            return float(value)
    elif type(value) is hint:
        return value
    wanted = {int: "a whole number", float: "a number", str: "text", bool: "true or false", tuple: "a list"}
    problems.append(f"`{where}` is {value!r}; should be {wanted.get(origin or hint, 'a table of keys')}")
    return None


def _cross_checks(config: Config) -> list[str]:
    """What types cannot say: ranges, and settings that do not fit together."""
    found: list[str] = []

    def check(fine: bool, message: str) -> None:
        if not fine:
            found.append(message)

    safe = all(c.isalnum() or c in "-_." for c in config.run) and config.run.strip(".")
    check(bool(safe), f"`run` is {config.run!r}; a folder name of letters, digits, - _ .")
    t, e = config.training, config.evaluation
    zero = {"clip_ratio", "kl_coefficient", "entropy_coefficient", "drill_direct", "tolerance"}
    numbers = {"threads": config.threads, "parallel": config.parallel}
    for name in ("data", "training", "selection", "evaluation", "arithmetic"):
        numbers |= {f"{name}.{k}": v for k, v in vars(getattr(config, name)).items() if type(v) in (int, float)}
    numbers |= {f"evaluation.samples_by_set.{k}": v for k, v in e.samples_by_set.items()}
    for key, value in numbers.items():
        if key.split(".")[-1] in zero or key == "evaluation.temperature":  # 0 is greedy
            check(value >= 0, f"`{key}` is {value}; should not be negative")
        else:
            check(value > 0, f"`{key}` is {value}; should be above 0")
        check(value <= 1 or not key.endswith("top_p"), f"`{key}` is {value}; should be above 0 and at most 1")
    check(config.selection.tolerance < 1, f"`selection.tolerance` is {config.selection.tolerance}; a share below 1")
    check(0 <= config.seed < 2**31, f"`seed` is {config.seed}; should be between 0 and 2147483647")
    n = t.responses_per_prompt
    check(n >= 2, f"`training.responses_per_prompt` is {n}; a group needs at least 2 responses")
    batch = t.prompts_per_step * n
    check(batch % max(t.micro_batch, 1) == 0, f"`training.micro_batch` is {t.micro_batch}; should divide "
          f"prompts_per_step x responses_per_prompt = {batch}")
    check(bool(config.schedules), "`schedules` is empty; name at least one, e.g. iterative: {limits: [4000, 3000, 2000]}")
    for name, schedule in config.schedules.items():
        where = f"`schedules.{name}"
        check(bool(name.strip("-_")) and all(c.isalnum() or c in "-_" for c in name),
              f"{where}` is not a folder name of letters, digits, - and _")
        check(name != "base", f"{where}`: this name is kept for the base model")
        check(bool(schedule.limits) and min(schedule.limits, default=1) > 0, f"{where}.limits` should list token limits above 0")
        falls = all(a > b for a, b in zip(schedule.limits, schedule.limits[1:], strict=False))
        check(falls, f"{where}.limits` is {list(schedule.limits)}; limits should fall from round to round")
        steps = t.steps if schedule.steps is None else schedule.steps
        every = t.checkpoint_every if schedule.checkpoint_every is None else schedule.checkpoint_every
        check(steps >= every > 0, f"{where}.steps` is {steps}, checkpoint_every {every}: no checkpoint would be saved")
    check(bool(config.data.evaluation), "`data.evaluation` is empty; name at least one data set")
    names = [config.data.train, config.data.validation, *config.data.evaluation]
    check(len(set(names)) == len(names), f"`data`: {names} names a set twice")
    check("{limit}" in config.prompts.limit_sentence, "`prompts.limit_sentence` should contain {limit}")
    for key in ("train_user", "evaluation_user"):
        check("{question}" in getattr(config.prompts, key), f"`prompts.{key}` should contain {{question}}")
    for name in set(e.samples_by_set) - set(config.data.evaluation):
        found.append(f"`evaluation.samples_by_set.{name}` is not in data.evaluation")
    a = config.arithmetic
    for key, value in (("drill_direct", a.drill_direct), *((f"habits.{k}", v) for k, v in vars(a.habits).items())):
        fine = value and all(0 <= v <= 1 for v in value) if isinstance(value, tuple) else 0 <= value <= 1
        check(bool(fine), f"`arithmetic.{key}` is {value}; should be between 0 and 1")
    if config.model.source == "arithmetic":
        check(9 <= a.largest <= 99, f"`arithmetic.largest` is {a.largest}; should be between 9 and 99")
        divides = a.heads > 0 and a.key_value_heads > 0 and a.hidden_size % (2 * a.heads) == 0
        check(divides and a.heads % a.key_value_heads == 0, "`arithmetic.hidden_size` should be a multiple of twice `heads`, "
              "and `heads` of `key_value_heads`")
        limits = [n for plan in config.schedules.values() if plan.state_limit for n in plan.limits]
        bad = [n for n in limits if n > 600 or n > 100 and n % 10]
        check(not bad, f"`schedules`: the laptop model has no word for the limit {bad}; up to 100, or tens up to 600")
        for name in names:
            ops = config.arithmetic.operations.get(name, ())
            fine = bool(ops) and all(1 <= n <= 6 for n in ops)
            check(fine, f"`arithmetic.operations.{name}` should list numbers of operations between 1 and 6")
    return found


# --- notebooks --------------------------------------------------------------------------------------------------------


def notebook(params_file: str, **parameters: Any) -> Config:
    """What a notebook's config cell calls: its own parameters by name; refuses any other that papermill injected.

    Papermill only warns about a parameter the notebook does not have; a misspelt one would silently do nothing. It
    injects a cell that begins with the comment `# Parameters`, which is still in the kernel's history here.
    """
    import ast

    from IPython import get_ipython

    shell = get_ipython()
    known = {"params_file", *parameters}
    for source in shell.user_ns.get("In", []) if shell else []:
        if source.startswith("# Parameters\n"):
            for node in ast.parse(source).body:
                for target in getattr(node, "targets", []):
                    if target.id not in known:
                        close = difflib.get_close_matches(target.id, known, 1)
                        hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(sorted(known))}"
                        raise KitError(f"this notebook has no parameter {target.id}; {hint}")
    return load(params_file)
