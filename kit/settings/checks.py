"""What types cannot say about settings: ranges, and settings that do not fit together."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from kit.settings.schema import Config

# What metrics/ has besides a table per model.
TABLES = {
    "main", "changes", "training", "validation", "spend", "spend_gaps", "caps", "efficiency", "per_problem", "one_shot",
    "controls", "forcing", "forcing_gaps", "keywords", "phases", "phases_judge", "first_answer", "repetition", "percentiles", "moves",
    "perplexity", "seeds", "seeds_combined",
}


def problems_of(config: Config) -> list[str]:
    """Every problem of these settings, each naming its key and what would be right; empty when they are fine."""
    found: list[str] = []

    def check(fine: bool, message: str) -> None:
        if not fine:
            found.append(message)

    safe = all(c.isalnum() or c in "-_." for c in config.run) and config.run.strip(".")
    check(bool(safe), f"`run` is {config.run!r}; a folder name of letters, digits, - _ .")
    t, e = config.training, config.evaluation
    zero = {"clip_ratio", "kl_coefficient", "entropy_coefficient", "drill_direct", "tolerance", "retries", "patience"}
    numbers = {"threads": config.threads, "parallel": config.parallel}
    for name in ("data", "training", "watch", "selection", "evaluation", "forcing", "engine", "arithmetic", "behavior"):
        numbers |= {f"{name}.{k}": v for k, v in vars(getattr(config, name)).items() if type(v) in (int, float)}
    numbers |= {f"evaluation.samples_by_set.{k}": v for k, v in e.samples_by_set.items()}
    for key, value in numbers.items():
        if key.split(".")[-1] in zero or key == "evaluation.temperature":  # 0 is greedy
            check(value >= 0, f"`{key}` is {value}; should not be negative")
        else:
            check(value > 0, f"`{key}` is {value}; should be above 0")
        check(value <= 1 or not key.endswith("top_p"), f"`{key}` is {value}; should be above 0 and at most 1")
    for key, value in vars(config.model.shape).items() if config.model.shape else ():
        if type(value) in (int, float):
            check(value > 0, f"`model.shape.{key}` is {value}; should be above 0")
    for key, value in vars(config.hardware).items():
        for name, number in (value if isinstance(value, dict) else {"": value}).items():
            if type(number) in (int, float) and key != "reserve_gib":
                check(number > 0, f"`hardware.{key}{'.' if name else ''}{name}` is {number}; should be above 0")
                check(number <= 1 or not key.endswith("_share"), f"`hardware.{key}` is {number}; a share of at most 1")
    check(config.hardware.reserve_gib >= 0, f"`hardware.reserve_gib` is {config.hardware.reserve_gib}; should not be negative")
    check(config.selection.tolerance < 1, f"`selection.tolerance` is {config.selection.tolerance}; a share below 1")
    check(0 <= config.seed < 2**31, f"`seed` is {config.seed}; should be between 0 and 2147483647")
    n = t.responses_per_prompt
    check(n >= 2, f"`training.responses_per_prompt` is {n}; a group needs at least 2 responses")
    batch, spread = t.prompts_per_step * n, max(t.processes, 1)
    fits = [k for k in range(1, min(batch, 4096) + 1) if batch % k == 0]
    near = sorted(sorted(fits, key=lambda k: abs(k - spread))[:3])
    check(batch % spread == 0, f"`training.processes` is {t.processes}; {t.prompts_per_step} prompts x {n} responses = {batch} "
          f"do not split into {t.processes} equal shares, but into {', '.join(map(str, near))}")
    check(spread % max(t.machines, 1) == 0, f"`training.machines` is {t.machines}; should divide processes = {t.processes}")
    tensor = max(t.vllm_tensor_parallel, 1)
    check(t.vllm != "colocate" or spread % tensor == 0, f"`training.vllm_tensor_parallel` is {tensor}; should divide "
          f"processes = {t.processes}")
    check(t.vllm_memory_share < 1, f"`training.vllm_memory_share` is {t.vllm_memory_share}; a share below 1")
    check(0 < t.vllm_port < 65536, f"`training.vllm_port` is {t.vllm_port}; should be between 1 and 65535")
    found += problems_of_data(config) + problems_of_behavior(config)
    for name in set(e.samples_by_set) - set(config.data.evaluation):
        found.append(f"`evaluation.samples_by_set.{name}` is not in data.evaluation")
    if config.logs.models and not config.schedules:  # nothing is trained and no model is asked
        return found
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
    names = [config.data.train, config.data.validation, *config.data.evaluation]
    check(all(names[:2]), "`data.train` and `data.validation` should each name a data set")
    if config.prompts is None:
        return [*found, "`prompts` is missing"]
    check("{limit}" in config.prompts.limit_sentence, "`prompts.limit_sentence` should contain {limit}")
    named = f" or name one of prompts.wordings ({', '.join(config.prompts.wordings)})" if config.prompts.wordings else ""
    for key in ("train_user", "evaluation_user", "forcing_user"):
        check("{question}" in config.prompts.text(key), f"`prompts.{key}` should contain {{question}}{named}")
    check("</think>" in config.prompts.text("forcing_ending"), f"`prompts.forcing_ending` should contain </think>{named}")
    found += problems_of_comparisons(config)
    engine = config.engine
    share = engine.gpu_memory_utilization
    check(share <= 1, f"`engine.gpu_memory_utilization` is {share}; a share up to 1")
    check(is_address(engine.url), "`engine.url` should be an address like http://127.0.0.1:8000/v1, with no user or key in it")
    check(re.fullmatch("[A-Z][A-Z0-9_]*|", engine.key_variable) is not None,  # what is there may be a key: it is not repeated
          "`engine.key_variable` should be the name of an environment variable, in capitals; the key itself stays out of params")
    a = config.arithmetic
    for key, value in (("drill_direct", a.drill_direct), *((f"habits.{k}", v) for k, v in vars(a.habits).items())):
        fine = value and all(0 <= v <= 1 for v in value) if isinstance(value, tuple) else 0 <= value <= 1
        check(bool(fine), f"`arithmetic.{key}` is {value}; should be between 0 and 1")
    for key in ("truncated", "entropy", "repeated"):
        value = getattr(config.watch, key)
        check(value <= 1, f"`watch.{key}` is {value}; a share, above 0 and at most 1")
    check(t.learning_rate <= 0.1, f"`training.learning_rate` is {t.learning_rate}; should be above 0 and at most 0.1")
    source = Path(config.model.source).expanduser()
    hub = re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", config.model.source)
    check(bool(hub) or bool(config.model.source.strip()) and source.is_dir(),
          f"`model.source` is {config.model.source!r}; there is no such folder, and a hub id is `owner/name`")
    if config.model.source == "arithmetic":
        longest = max([e.max_new_tokens, *(n for plan in config.schedules.values() for n in plan.limits)])
        check(longest + 64 <= a.max_length,
              f"`arithmetic.max_length` is {a.max_length}; a prompt (64 tokens) and the longest response ({longest} tokens, by "
              "`evaluation.max_new_tokens` or `schedules`) do not fit into it")
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


def problems_of_behavior(config: Config) -> list[str]:
    """What is wrong with the settings of notebook 05."""
    found: list[str] = []
    b, j = config.behavior, config.behavior.judge

    def check(fine: bool, message: str) -> None:
        if not fine:
            found.append(message)

    check(bool(config.keywords), "`keywords` is missing; lists of words to count, e.g. hesitation: [wait, but wait]")
    for name, words in config.keywords.items():
        check(bool(words) and all(map(str.strip, words)), f"`keywords.{name}` should list words or phrases, none of them empty")
    for key, value in vars(j).items():
        check(type(value) not in (int, float) or value > 0, f"`behavior.judge.{key}` is {value}; should be above 0")
    check(not j.url or is_address(j.url), "`behavior.judge.url` should be an address like http://127.0.0.1:8000/v1, with no user "
          "or key in it")
    check(not j.url or bool(j.model), "`behavior.judge.model` is missing: which model should the endpoint use?")
    check(re.fullmatch("[A-Z][A-Z0-9_]*|", j.key_variable) is not None,  # what is there may be a key: it is not repeated
          "`behavior.judge.key_variable` should be the name of an environment variable, in capitals")
    check(b.window >= 16, f"`behavior.window` is {b.window}; should be at least 16 tokens")
    check(b.reference != "trained" or config.model.source == "arithmetic" and bool(config.schedules),
          "`behavior.reference` is trained: that is for the laptop's language; name a model")
    for name in set(b.reference_sets) - set(config.data.evaluation):
        found.append(f"`behavior.reference_sets`: {name} is not in data.evaluation")
    return found


def problems_of_data(config: Config) -> list[str]:
    """What is wrong with the names of data sets and of models that are known by their logs."""
    found: list[str] = []
    data, logs = config.data, config.logs.models

    def check(fine: bool, message: str) -> None:
        if not fine:
            found.append(message)

    def is_name(name: str) -> bool:
        return bool(name.strip("-_.")) and all(c.isalnum() or c in "-_." for c in name)

    check(bool(data.evaluation), "`data.evaluation` is empty; name at least one data set")
    names = [name for name in (data.train, data.validation, *data.evaluation) if name]
    check(len(set(names)) == len(names), f"`data`: {names} names a set twice")
    check("mean" not in names, "`data`: a set cannot be called mean, which is what the mean over the sets is called")
    for name in names:
        check(is_name(name), f"`data`: {name!r} is no name of letters, digits, - _ and .; a set's file is named under data.files")
    check(data.near_duplicate <= 1, f"`data.near_duplicate` is {data.near_duplicate}; a share of at most 1")
    check(bool(config.schedules) or not logs or "base" in logs, "`logs.models` has no `base`; the others are compared with it")
    for model, sets in logs.items():
        where = f"`logs.models.{model}`"
        fine = is_name(model) and model not in config.schedules
        check(fine, f"{where}: a name of letters, digits, - _ and . that no schedule has")
        check(model not in TABLES, f"{where}: metrics/{model}.csv is another table's name; call the model something else")
        unknown = [name for name in sets if name not in data.evaluation]
        check(not unknown, f"{where} names logs of {', '.join(unknown)}, not in data.evaluation")
        missing = [name for name in data.evaluation if name not in sets]
        check(not missing, f"{where} names no log for {', '.join(missing)} of data.evaluation")
    for model in config.logs.labels:
        check(model in logs, f"`logs.labels.{model}` is not in logs.models")
    called = [config.logs.labels.get(model, model) for model in logs]
    check(len(set(called)) == len(called), f"`logs.labels` calls two models the same: {', '.join(called)}")
    return found


def is_address(url: str) -> bool:
    """Whether this is where a server may listen: http or https, a host, perhaps a port and a path; no user, no query."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    plain = parts.username is None and not parts.query and not parts.fragment and url.isprintable() and " " not in url
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0 and plain


def problems_of_comparisons(config: Config) -> list[str]:
    """What does not fit together in budget forcing's settings, controls and seeds."""
    found: list[str] = []
    budgets = config.forcing.budgets
    if any(b <= 0 for b in budgets) or any(a >= b for a, b in zip(budgets, budgets[1:], strict=False)):
        found.append(f"`forcing.budgets` is {list(budgets)}; should be token budgets above 0, each larger than the one before")
    known = ["base", *(f"{s}/round{k}" for s, plan in config.schedules.items() for k in range(1, len(plan.limits) + 1))]
    for name in config.forced_models:
        if name not in known:
            found.append(f"`forcing.models` names {name}; there are {', '.join(known)}")
    if budgets and not config.forcing.models:
        found.append("`forcing.models` is empty; name at least base, or leave `forcing.budgets` empty")
    if config.forcing.samples is not None and config.forcing.samples < 1:
        found.append(f"`forcing.samples` is {config.forcing.samples}; should be above 0")
    room = config.arithmetic.max_length - 150  # the prompt and the ending
    if config.model.source == "arithmetic" and budgets and max(budgets) + config.forcing.answer_tokens > room:
        found.append(f"`forcing`: largest budget + answer_tokens exceed {room} tokens (what arithmetic.max_length leaves)")
    for name, plan in config.schedules.items():
        if plan.compare_with is not None and (plan.compare_with == name or plan.compare_with not in config.schedules):
            found.append(f"`schedules.{name}.compare_with` is {plan.compare_with}; should be another schedule's name")
    seeds = [config.seed, *config.seeds]
    if len(set(seeds)) != len(seeds) or len(seeds) > 10 or not all(0 <= s < 2**31 for s in seeds):
        found.append(f"`seeds` is {list(config.seeds)}; should be at most 9 whole numbers, each once, without `seed` "
                     f"({config.seed}), which is the run {config.run} itself")
    return found
