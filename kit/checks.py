"""What types cannot say about settings: ranges, and settings that do not fit together."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path

from kit.settings import Config


def problems_of(config: Config) -> list[str]:
    """Every problem of these settings, each naming its key and what would be right; empty when they are fine."""
    found: list[str] = []

    def check(fine: bool, message: str) -> None:
        if not fine:
            found.append(message)

    safe = all(c.isalnum() or c in "-_." for c in config.run) and config.run.strip(".")
    check(bool(safe), f"`run` is {config.run!r}; a folder name of letters, digits, - _ .")
    t, e = config.training, config.evaluation
    zero = {"clip_ratio", "kl_coefficient", "entropy_coefficient", "drill_direct", "tolerance", "patience"}
    numbers = {"threads": config.threads, "parallel": config.parallel}
    for name in ("data", "training", "watch", "selection", "evaluation", "arithmetic"):
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
    for key in ("truncated", "entropy", "repeated"):
        value = getattr(config.watch, key)
        check(value <= 1, f"`watch.{key}` is {value}; a share, above 0 and at most 1")
    check(t.learning_rate <= 0.1, f"`training.learning_rate` is {t.learning_rate}; should be above 0 and at most 0.1")
    for name, words in config.keywords.items():
        check(bool(words) and all(word.strip() for word in words), f"`keywords.{name}` should list words or phrases, none of them empty")
    for name in set(config.set_labels) - set(names):
        close = get_close_matches(name, names, 1)
        found.append(f"`set_labels.{name}` is no set of `data`; " + (f"did you mean `{close[0]}`?" if close else "there are "
                     + ", ".join(names)))
    source = Path(config.model.source).expanduser()
    hub = re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", config.model.source)
    check(bool(hub) or bool(config.model.source.strip()) and source.is_dir(), f"`model.source` is {config.model.source!r}; there is no such folder, and a hub id is "
          "`owner/name`")
    if config.model.source == "arithmetic":
        longest = max([e.max_new_tokens, *(n for plan in config.schedules.values() for n in plan.limits)])
        check(longest + 64 <= a.max_length, f"`arithmetic.max_length` is {a.max_length}; a prompt (64 tokens) and the longest response "
              f"({longest} tokens, by `evaluation.max_new_tokens` or `schedules`) do not fit into it")
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
