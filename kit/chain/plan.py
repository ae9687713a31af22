"""What a run needs, from the model's config alone: memory, tokens, hours, disk; and whether it fits the hardware in params.

`make plan PARAMS=params/ds-1.5b.yaml` prints it; the runner notebook shows it before anything is paid for. chain/memory has the
formulas of memory, and its letters stand here too.

Hours of all devices together, from measured speeds where params give them, else from the data sheet's and an assumed share:
    rollouts    one token each of n responses that are in memory together takes the longer of reading the weights and the KV
                caches, (2 N + 4 L K n s) / bandwidth, and computing, 2 N n / FLOPs
    update      (6 N + 12 L Q s) FLOPs for a token, forward (1/3) and backward (2/3); another third for checkpointing's
                recomputation, another for the reference model, another for vLLM's correction
Tokens of a step are prompts x responses x min(expected length, limit); where params expect none, the limit. Every evaluation
is counted at the base model's length, which pruned models stay below: one on the validation set for each checkpoint, one on all
evaluation sets for each round. Budget forcing: thinking once, up to the largest budget, and an answer at its cap for each budget.

Disk: a checkpoint has 4 N of weights and 8 N of AdamW (with LoRA the adapters', and c N where they are merged); there is one
every `checkpoint_every` steps. Responses take 4 bytes a token.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from kit.chain.memory import (
    GIB,
    Sizes,
    adapters,
    cache_tokens,
    compute_bytes,
    evaluation_memory,
    is_checkpointing,
    longest_prompt,
    model_config,
    rollout_memory,
    sizes_of,
    update_memory,
)
from kit.runs import catalog
from kit.settings import Config, KitError

# --- tokens and hours -------------------------------------------------------------------------------------------------


def problem_count(config: Config, name: str) -> int:
    """How many problems a data set has: generated, or as params expect; 0 where they do not say (the verdict names it)."""
    a, d = config.arithmetic, config.data
    if config.model.source == "arithmetic":
        return {d.train: a.train_problems, d.validation: a.validation_problems}.get(name, a.evaluation_problems)
    return config.hardware.problems.get(name, 0)


def expected(config: Config, name: str, cap: int) -> float:
    """Mean tokens of a response cut at `cap`: the base model's as params expect it, else the cap itself."""
    return min(config.hardware.lengths.get(name, cap), cap)


def rollout_seconds(config: Config, z: Sizes, tokens: float, long: float, together: float) -> float:
    """Device seconds to generate `tokens`, `together` responses at once, each with its prompt of `long` tokens."""
    h = config.hardware
    if h.generated_per_second:
        return tokens / h.generated_per_second
    read = (2 * z.parameters + 4 * z.layers * z.keys * together * long) / (h.terabytes_per_second * 1e12 * h.bandwidth_share)
    compute = 2 * z.parameters * together / (h.teraflops * 1e12 * h.compute_share)
    return tokens / together * max(read, compute)  # on T devices T times faster, which is as many device seconds


def update_seconds(config: Config, z: Sizes, tokens: float, long: float) -> float:
    """Device seconds to learn from `tokens` in sequences of `long` tokens."""
    h, t = config.hardware, config.training
    if h.updated_per_second:
        return tokens / h.updated_per_second
    thirds = 3 + is_checkpointing(config) + (t.kl_coefficient > 0) + (t.vllm != "off" and t.vllm_correction != "off")
    flops = thirds * (2 * z.parameters + 4 * z.layers * z.queries * long)
    return tokens * flops / (h.teraflops * 1e12 * h.compute_share)


def rounds(config: Config, z: Sizes) -> list[dict[str, Any]]:
    """A row per round: tokens generated (expected, at most), device hours of rollouts, update and validation, disk in bytes."""
    t, cap, found = config.training, longest_prompt(config), []
    trained = z.parameters if t.lora_rank is None else adapters(z, t.lora_rank)
    merged = 0 if t.lora_rank is None else compute_bytes(config) * z.parameters
    batch = t.prompts_per_step * t.responses_per_prompt
    for name, plan in config.schedules.items():
        steps, every = catalog.steps_of(config, name), plan.checkpoint_every or t.checkpoint_every
        kept = steps // every
        for k, limit in enumerate(plan.limits, 1):
            length = expected(config, config.data.train, limit)
            spread = t.vllm_tensor_parallel if t.vllm == "colocate" else 1
            together = t.responses_per_process * spread
            if t.vllm == "colocate":
                room = cache_tokens(config, z, t.vllm_memory_share, spread)
                together = max(1, min(together, room / (cap + length)))
            tokens = steps * batch * length
            checked = [answers(config, z, config.data.validation, config.selection.samples)] * kept
            found.append({
                "what": f"{name}, round {k}: {limit} tokens", "responses": steps * batch, "tokens": tokens,
                "tokens_at_most": steps * batch * limit,
                "rollout_hours": rollout_seconds(config, z, tokens, cap + length, together) / 3600,
                "update_hours": update_seconds(config, z, tokens + steps * batch * cap, cap + length) / 3600,
                "evaluation_hours": sum(seconds for _, seconds in checked) / 3600,
                "disk": kept * (12 * trained + merged) + 4 * sum(n for n, _ in checked),
            })
    return found


def answers(config: Config, z: Sizes, name: str, samples: int, cap: int | None = None) -> tuple[float, float]:
    """(tokens, device seconds) of one model's responses to a data set, at the base model's length (at most `cap`)."""
    e, engine = config.evaluation, config.engine
    count, length = problem_count(config, name) * samples, expected(config, name, cap or e.max_new_tokens)
    long, spread = longest_prompt(config) + length, 1
    together: float = min(e.batch_size, count)
    if engine.name != "transformers":
        spread = engine.tensor_parallel
        together = max(1, min(count, cache_tokens(config, z, engine.gpu_memory_utilization, spread) / long))
    return count * length, rollout_seconds(config, z, count * length, long, together)


def evaluations(config: Config, z: Sizes) -> list[dict[str, Any]]:
    """A row each: the base model's validation and evaluation, the evaluation of all rounds' models, budget forcing."""
    e, f, models = config.evaluation, config.forcing, sum(len(plan.limits) for plan in config.schedules.values())
    samples = {name: e.samples_by_set.get(name, e.samples) for name in config.data.evaluation}
    one = [answers(config, z, name, n) for name, n in samples.items()]
    check = answers(config, z, config.data.validation, config.selection.samples)
    parts = {"evaluation of the base model": [*one, check], f"evaluation of {models} pruned models": one * models}
    if f.budgets:
        forced = [answers(config, z, name, f.samples or n, cap)
                  for name, n in samples.items() for cap in (max(f.budgets), *[f.answer_tokens] * len(f.budgets))]
        parts[f"budget forcing of {len(config.forced_models)} models"] = forced * len(config.forced_models)
    rows = []
    for what, sets in parts.items():
        tokens = sum(n for n, _ in sets)
        rows.append({"what": what, "tokens": tokens, "evaluation_hours": sum(s for _, s in sets) / 3600, "disk": 4 * tokens})
    return rows


# --- the report -------------------------------------------------------------------------------------------------------


def memory_table(config: Config, z: Sizes) -> pd.DataFrame:
    """GiB of one device, a column per phase, in the round with the highest limit; `in all` is the last row."""
    limit = max(n for plan in config.schedules.values() for n in plan.limits)
    phases = {"rollouts": rollout_memory(config, z, limit), "update": update_memory(config, z, limit),
              "evaluation": evaluation_memory(config, z)}
    table = pd.DataFrame(phases).fillna(0.0) / GIB
    table = table[(table > 0).any(axis=1)]
    table.loc["in all"] = table.sum()
    return table


def work(config: Config, z: Sizes) -> pd.DataFrame:
    """Tokens (millions), hours of all devices together, and disk (GiB): a row per round, the evaluations, and all."""
    table = pd.DataFrame([*rounds(config, z), *evaluations(config, z)]).set_index("what").fillna(0.0)
    hours = table.filter(like="_hours")
    shown = pd.DataFrame({
        "tokens, M": table.tokens / 1e6, "at most, M": table.tokens_at_most / 1e6, **{
            f"{c.removesuffix('_hours')}, device hours": hours[c] for c in hours
        }, "device hours": hours.sum(axis=1), "disk, GiB": table.disk / GIB,
    })
    shown.loc["in all"] = shown.sum()
    return shown


def obstacles(config: Config, z: Sizes) -> list[str]:
    """What does not fit the hardware, each with a remedy; empty when all fits."""
    h, t, found = config.hardware, config.training, []
    if t.processes > h.devices:
        found.append(f"training.processes is {t.processes}, but hardware.devices {h.devices}")
    remedies = {
        "update": "lower training.micro_batch, share the weights (training.accelerate: params/accelerate/fsdp2.yaml with more "
                  "processes), or train adapters (training.lora_rank)",
        "rollouts": "let vLLM write them (training.vllm), lower training.vllm_memory_share, or use more processes",
        "evaluation": "lower evaluation.batch_size, or use vLLM (engine.name: vllm, with engine.tensor_parallel)",
    }
    at_once = config.parallel
    for phase, total in memory_table(config, z).loc["in all"].items():
        if at_once * total > h.memory_gib:
            times = f" x {at_once} schedules at a time" if at_once > 1 else ""
            found.append(f"{phase} need {total:.1f} GiB{times} of {h.memory_gib:g} on a device; {remedies[phase]}")
    limit = max(n for plan in config.schedules.values() for n in plan.limits)
    engines = []
    if t.vllm == "colocate":
        engines.append(("training.vllm_memory_share", t.vllm_memory_share, t.vllm_tensor_parallel, limit))
    if config.engine.name == "vllm":
        engine = config.engine
        engines.append(("engine.gpu_memory_utilization", engine.gpu_memory_utilization, engine.tensor_parallel,
                        config.evaluation.max_new_tokens))
    for key, share, spread, longest in engines:
        room = cache_tokens(config, z, share, spread)
        if room < longest_prompt(config) + longest:
            found.append(f"`{key}` {share:g} on {spread} device(s) leaves vLLM's KV cache {max(room, 0):.0f} tokens, fewer than "
                         "one response; raise it, or spread the model over more devices")
    disk = work(config, z)["disk, GiB"]["in all"]
    if disk > h.disk_gib:
        found.append(f"{disk:.0f} GiB of disk are needed and {h.disk_gib:g} there; raise training.checkpoint_every")
    return found


def verdict(config: Config, z: Sizes) -> str:
    """One line: whether the run fits its hardware, what it takes, and which speeds are only assumed."""
    h, wrong = config.hardware, obstacles(config, z)
    where = f"{h.devices} x {h.name} ({h.memory_gib:g} GiB each)"
    total = work(config, z).loc["in all"]
    guessed = [key for key in ("generated_per_second", "updated_per_second") if getattr(h, key) is None]
    speeds = f"speeds assumed: {h.compute_share:.0%} of {h.teraflops:g} TFLOP/s, {h.bandwidth_share:.0%} of " \
             f"{h.terabytes_per_second:g} TB/s" if guessed else "speeds measured"
    sets = [n for n in (config.data.validation, *config.data.evaluation) if not problem_count(config, n)]
    if sets:
        speeds += f"; not counted: {', '.join(sets)}, whose size hardware.problems does not say"
    takes = f"{total['device hours']:,.1f} device hours ({speeds}), {total['disk, GiB']:,.1f} GiB of disk"
    if wrong:
        return f"does NOT fit {where}: {'; '.join(wrong)}. It would take {takes}"
    peak = memory_table(config, z).loc["in all"]
    return f"fits {where}: {', '.join(f'{phase} {gib:.1f}' for phase, gib in peak.items())} GiB on a device; {takes}"


def report(config: Config) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """(memory, work, verdict); KitError when the model's sizes are not to be had."""
    if not config.schedules:
        raise KitError(f"{config.file}: nothing is trained or generated in this run, so there is nothing to plan")
    z = sizes_of(model_config(config))
    size = f"{config.model.source}, {z.parameters / 1e9:.4g} billion parameters"
    return memory_table(config, z), work(config, z), f"{size}: {verdict(config, z)}"
