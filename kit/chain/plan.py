"""What a run needs, from the model's sizes alone: memory, tokens, time, disk; and whether it fits the hardware in params.

`make plan PARAMS=params/ds-1.5b.yaml` prints it, the runner notebook shows it, before anything is paid for. In the formulas, of
bytes, seconds and FLOPs: N parameters in L layers; widths H of the hidden state, I of the MLP, Q of the queries, K of the keys;
V words; b responses in a pass, each of s tokens with its prompt; c bytes a number in computation (2 bfloat16, 4 float32), r in
the stream between the layers (c with FSDP2, ZeRO-3 or LoRA, else 4). Memory goes by the longest prompts and responses, time by
expected ones.
"""

import contextlib
from collections import namedtuple

import pandas as pd

from kit.chain.stages import stages
from kit.data import problems
from kit.evaluation import evaluate, forcing
from kit.laptop import arithmetic
from kit.runs import catalog, files, paths
from kit.settings import SOURCES, Config, KitError, folder_of, read_yaml
from kit.training import trl_fields

GIB = 2**30
STAGE = 4.0  # seconds that a stage takes on average for its start, tables and figures (the laptop run: 13 stages, 55 s)
PROMPT = 150  # tokens that a prompt is expected to have; memory goes by data.prompt_cap
BYTES = {"bfloat16": 2, "float32": 4}  # of a number in computation
TILE = 2 * 4096 * 32768  # bytes: tokens x words of TRL 1.16's ChunkedLogProbFunction; the logits (4 V b s) never exist whole
# (c, r) -> what a layer of Qwen2 in transformers 5.17 holds besides its MLP, in hidden states: while it is recomputed, and kept
# for the backward pass without checkpointing. tests/test_plan.py traces it.
COUNTED = {(2, 4): (39, 35), (2, 2): (29, 27), (4, 4): (46, 42)}
Sizes = namedtuple("Sizes", ["parameters", "layers", "hidden", "mlp", "queries", "keys", "words"])  # N, L, H, I, Q, K, V


def sizes_of(config: Config) -> Sizes:
    """Sizes of a local folder's model; of `model.shape`; of the laptop's own; else of the hub's. No weights are read."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config

    m = config.model
    if m.source == "arithmetic":
        found = arithmetic.make_model(config.arithmetic, arithmetic.make_tokenizer(), 0).config
    elif m.shape and not folder_of(m.source).is_dir():
        found = Qwen2Config(**vars(m.shape))
    else:
        try:
            source = catalog.base_model(config)
            found = AutoConfig.from_pretrained(source, revision=m.revision, trust_remote_code=m.trust_remote_code)
        except (OSError, ValueError, TypeError) as error:
            raise KitError(f"{config.file}: the config of {m.source} cannot be read ({files.first_line(error)}); give its sizes "
                           "under model.shape, or another folder as model.source") from None
    try:
        with torch.device("meta"):
            count = AutoModelForCausalLM.from_config(found).num_parameters()
        head = getattr(found, "head_dim", None) or found.hidden_size // found.num_attention_heads
        return Sizes(count, found.num_hidden_layers, found.hidden_size, found.intermediate_size, found.num_attention_heads * head,
                     found.num_key_value_heads * head, found.vocab_size)
    except (ValueError, AttributeError) as error:
        raise KitError(f"{config.file}: {m.source} is no decoder that can be planned for ({files.first_line(error)})") from None


# --- memory -----------------------------------------------------------------------------------------------------------


def trained(config: Config, z: Sizes) -> int:
    """How many numbers are trained: N, or with LoRA of rank R on all linear layers R L (2 (H + Q) + 2 (H + K) + 3 (H + I))."""
    pairs = 2 * (z.hidden + z.queries) + 2 * (z.hidden + z.keys) + 3 * (z.hidden + z.mlp)
    return z.parameters if config.training.lora_rank is None else config.training.lora_rank * z.layers * pairs


def memory(config: Config, z: Sizes) -> pd.DataFrame:
    """GiB of one device in the rollouts, the update (of the round with the highest limit) and an evaluation; last row `in all`.

    What is trained is float32, over all devices that share it (FSDP2, ZeRO-3). The update keeps the input of each layer, and
    recomputes one layer with its gradients, or holds 2 N if that is more: the weights as bfloat16. Without checkpointing all
    layers are kept. vLLM has its share of the memory.
    """
    t, e, h, cap, trl = config.training, config.evaluation, config.hardware, config.data.prompt_cap, trl_fields.fields(config)
    launched = paths.given(config, t.accelerate)
    if not launched.is_file():
        raise KitError(f"{config.file}: training.accelerate: no file {t.accelerate}")
    shared = t.processes > 1 and read_yaml(launched).get("distributed_type") in ("FSDP", "DEEPSPEED")
    n, c, devices, lora = trained(config, z), BYTES[config.model.dtype], t.processes if shared else 1, t.lora_rank is not None
    r, layers, b = c if shared or lora else 4, z.layers, t.responses_per_pass
    s = cap + max(plan.limits[0] for plan in config.schedules.values())  # limits fall from round to round
    recomputed, whole = COUNTED[c, r]
    kept, layer, masks = layers * r * z.hidden, 6 * c * z.mlp + recomputed * z.hidden, 1 + c
    if not trl["gradient_checkpointing"]:
        kept, layer, masks = layers * (4 * c * z.mlp + whole * z.hidden), 0, 1 + c * layers
    colocated = trl["vllm_gpu_memory_utilization"] * h.memory_gib * GIB * (t.vllm == "colocate")
    here, engine = t.vllm == "off", config.engine.name
    terms = [  # what for, in rollouts, update or evaluation; bytes
        ("weights", "ru", (4 * n + c * z.parameters * lora) / devices),
        ("weights", "e", c * z.parameters * (engine == "transformers")),
        ("AdamW's moments", "ru", 8 * n / devices),
        ("reference model", "ru", 4 * n / devices * (t.kl_coefficient != 0 and not lora)),
        ("DDP's buckets", "ru", 4 * n * (t.processes > 1 and not shared)),
        ("gradients", "u", 4 * n / devices),
        ("gathered weights", "u", 2 * c * (z.parameters / layers + z.words * z.hidden) * shared),
        ("kept activations", "u", kept * b * s),
        ("one layer", "u", max(layer * b * s, 2 * z.parameters if c < r else 0)),
        ("attention mask", "u", masks * b * s**2),
        ("output layer", "u", TILE + 8 * z.words * z.hidden + 8 * z.hidden * b * s),
        ("KV cache", "r", layers * z.keys * (r + c) * t.responses_per_process * s * here),
        ("KV cache", "e", layers * z.keys * 2 * c * e.batch_size * (cap + e.max_new_tokens) * (engine == "transformers")),
        ("logits", "r", 12 * z.words * t.responses_per_process * here),
        ("logits", "e", 12 * z.words * e.batch_size * (engine == "transformers")),
        ("vLLM", "r" if trl["vllm_enable_sleep_mode"] else "ru", colocated),
        ("vLLM", "e", config.engine.gpu_memory_utilization * h.memory_gib * GIB * (engine == "vllm")),
        ("reserve", "rue", h.reserve_gib * GIB),  # the CUDA context, communication buffers, fragments
    ]
    table = pd.DataFrame(0.0, list(dict.fromkeys(what for what, _, _ in terms)), ["rollouts", "update", "evaluation"])
    for what, phases, size in terms:
        table.loc[what, [phase for phase in table if phase[0] in phases]] += size / GIB
    table = table[(table > 0).any(axis=1)]
    table.loc["in all"] = table.sum()
    return table


def cache_tokens(config: Config, z: Sizes, share: float, spread: int) -> float:
    """Tokens that the KV cache of a vLLM engine on `spread` devices holds: its share of their memory without 2 N of weights and
    1 GiB of its own on each, at 4 L K a token."""
    room = share * config.hardware.memory_gib * GIB - 2 * z.parameters / spread - GIB
    return room * spread / (4 * z.layers * z.keys)


# --- tokens, time, disk -----------------------------------------------------------------------------------------------


def problem_count(config: Config, name: str) -> int:
    """How many problems a data set has: of those of the hub it is known, others are read; 0 where one is not there (the verdict
    names it)."""
    a, d = config.arithmetic, config.data
    if config.model.source == "arithmetic":
        return {d.train: a.train_problems, d.validation: a.validation_problems}.get(name, a.evaluation_problems)
    if name in SOURCES and name not in d.files:
        return SOURCES[name].rows
    with contextlib.suppress(KitError):
        return len(problems.load(name, config))
    return 0


def rollout_seconds(config: Config, z: Sizes, tokens: float, s: float, n: float) -> float:
    """Device seconds to generate `tokens`, n responses at once, each of s tokens with its prompt: a token of each takes the
    longer of reading weights and caches, (2 N + 4 L K n s) / bandwidth, and 2 N n / FLOPs."""
    h = config.hardware
    read = (2 * z.parameters + 4 * z.layers * z.keys * n * s) / (h.terabytes_per_second * 1e12 * h.bandwidth_share)
    return tokens / n * max(read, 2 * z.parameters * n / (h.teraflops * 1e12 * h.compute_share))


def update_seconds(config: Config, z: Sizes, tokens: float, s: float) -> float:
    """Device seconds to learn from `tokens` in sequences of s tokens: 2 N + 4 L Q s FLOPs a token forward, twice that backward,
    once more each for checkpointing, the reference model and vLLM's correction."""
    h, t, trl = config.hardware, config.training, trl_fields.fields(config)
    corrected = t.vllm != "off" and trl["vllm_importance_sampling_correction"]
    passes = 3 + bool(trl["gradient_checkpointing"]) + (t.kl_coefficient != 0) + corrected
    return tokens * passes * (2 * z.parameters + 4 * z.layers * z.queries * s) / (h.teraflops * 1e12 * h.compute_share)


def answers(config: Config, z: Sizes, name: str, samples: int, cap: int) -> tuple[float, float]:
    """(tokens, device seconds) of one model's responses to a data set, at the base model's length (as params expect it, else the
    cap itself), at most `cap` tokens."""
    engine, count = config.engine, problem_count(config, name) * samples
    length, at_once = min(config.hardware.lengths.get(name, cap), cap), float(config.evaluation.batch_size)
    if engine.name != "transformers":
        at_once = cache_tokens(config, z, engine.gpu_memory_utilization, engine.tensor_parallel) / (PROMPT + length)
    return count * length, rollout_seconds(config, z, count * length, PROMPT + length, max(1, min(count, at_once)))


def work(config: Config, z: Sizes) -> pd.DataFrame:
    """Tokens of responses, seconds of one device for `rollouts`, `update` and `evaluation`, bytes on `disk`: a row per round, the
    evaluations, `in all`. Disk: 4 N of weights and 8 N of AdamW a checkpoint, 4 bytes a token of a response."""
    t, e, f, rows = config.training, config.evaluation, config.forcing, {}
    trl, batch = trl_fields.fields(config), t.prompts_per_step * t.responses_per_prompt
    saved = 12 * trained(config, z) + (BYTES[config.model.dtype] * z.parameters if t.lora_rank else 0)
    check = answers(config, z, config.data.validation, config.selection.samples, e.max_new_tokens)
    for name, schedule in config.schedules.items():
        steps = catalog.steps_of(config, name)
        kept = steps // (schedule.checkpoint_every or t.checkpoint_every)
        for k, limit in enumerate(schedule.limits, 1):
            length, at_once = min(config.hardware.lengths.get(config.data.train, limit), limit), float(t.responses_per_process)
            written, whole = steps * batch * length, PROMPT + length
            if t.vllm == "colocate":
                spread = trl["vllm_tensor_parallel_size"]
                room = cache_tokens(config, z, trl["vllm_gpu_memory_utilization"], spread)
                at_once = max(1, min(at_once * spread, room / whole))
            rows[f"{name}, round {k}: {limit} tokens"] = {
                "tokens": written, "rollouts": rollout_seconds(config, z, written, whole, at_once),
                "update": update_seconds(config, z, steps * batch * whole, whole),
                "evaluation": kept * check[1], "disk": kept * (saved + 4 * check[0])}
    samples = {name: e.samples_by_set.get(name, e.samples) for name in config.data.evaluation}
    one, models = [answers(config, z, name, n, e.max_new_tokens) for name, n in samples.items()], len(rows)
    # All at the base model's length, which pruned models stay below.
    parts = {"evaluation of the base model": [*one, check], f"evaluation of {models} pruned models": one * models}
    if f.budgets:  # an answer for each budget, and thinking where it is not the evaluation's; as long as they may be at most
        caps = [forcing.answer_cap(config, b) for b in f.budgets]
        forced = [answers(config, z, name, f.samples or n, cap) for name, n in samples.items() for cap in (
            *caps, *[max(f.budgets) + caps[-1]] * (not evaluate.forced_samples(config, config.forced_models[0], name)))]
        parts[f"budget forcing of {len(config.forced_models)} models"] = forced * len(config.forced_models)
    for what, sets in parts.items():
        tokens, seconds = map(sum, zip(*sets, strict=True))
        rows[what] = {"tokens": tokens, "evaluation": seconds, "disk": 4 * tokens}
    rows["starting, tables, figures"] = {"evaluation": STAGE * len(stages(config))}
    table = pd.DataFrame.from_dict(rows, orient="index").fillna(0.0)
    table.loc["in all"] = table.sum()
    return table


# --- the report -------------------------------------------------------------------------------------------------------

REMEDIES = {
    "update": "share the weights (training.accelerate: params/accelerate/fsdp2.yaml with more processes), train adapters "
              "(training.lora_rank), or lower training.micro_batch (which with loss_type bnpo is another loss)",
    "rollouts": "let vLLM write them (training.vllm), lower training.trl.vllm_gpu_memory_utilization, or use more processes",
    "evaluation": "lower evaluation.batch_size, or use vLLM (engine.name: vllm, with engine.tensor_parallel)",
}


def obstacles(config: Config, z: Sizes, peak: pd.Series, disk: float) -> list[str]:
    """What does not fit the hardware, each with a remedy. `peak` and `disk` are GiB, by the two tables."""
    h, t, e, trl, found = config.hardware, config.training, config.engine, trl_fields.fields(config), []
    if t.processes > h.devices:
        found.append(f"training.processes is {t.processes}, but hardware.devices {h.devices}")
    times = f" x {config.parallel} schedules at a time" if config.parallel > 1 else ""
    found += [f"{phase} need {gib:.1f} GiB{times} of {h.memory_gib:g} on a device; {REMEDIES[phase]}"
              for phase, gib in peak.items() if config.parallel * gib > h.memory_gib]
    engines = [  # of vLLM: is it used, the key of its share of the memory, that share, devices of a copy, longest response
        (t.vllm == "colocate", "training.trl.vllm_gpu_memory_utilization", trl["vllm_gpu_memory_utilization"],
         trl["vllm_tensor_parallel_size"], max(plan.limits[0] for plan in config.schedules.values())),
        (e.name == "vllm", "engine.gpu_memory_utilization", e.gpu_memory_utilization, e.tensor_parallel,
         config.evaluation.max_new_tokens)]
    for used, key, share, spread, response in engines:
        if used and (room := cache_tokens(config, z, share, spread)) < config.data.prompt_cap + response:
            found.append(f"`{key}` {share:g} on {spread} device(s) leaves vLLM's KV cache {max(room, 0):.0f} tokens, fewer than "
                         "one response; raise it, or spread the model over more devices")
    if disk > h.disk_gib:
        found.append(f"{disk:.0f} GiB of disk are needed and {h.disk_gib:g} there; raise training.checkpoint_every")
    return found


def short(value: float) -> str:
    """A number in two digits or more: `0.023`, `5.6`, `1,234`, `<0.01`; nothing for 0."""
    if value < 0.01:
        return "<0.01" if value else ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def report(config: Config, z: Sizes | None = None) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """(memory in GiB, work, both in words; a line: whether the run fits its hardware, what it takes, what is only assumed). `z`:
    the model's sizes, where they are known; else KitError when they are not to be had."""
    if not config.schedules:
        raise KitError(f"{config.file}: nothing is trained or generated in this run, so there is nothing to plan")
    trl_fields.check(config)
    z, h = z or sizes_of(config), config.hardware
    held, done = memory(config, z), work(config, z)
    times = done[["rollouts", "update", "evaluation"]].assign(time=lambda table: table.sum(axis=1))
    unit, seconds = ("hours", 3600) if times.time["in all"] >= 3600 else ("minutes", 60)
    shown = pd.DataFrame({"million tokens": done.tokens / 1e6, **times / seconds, "disk GiB": done.disk / GIB}).map(short)
    peak, where = held.loc["in all"], f"{h.devices} x {h.name} ({h.memory_gib:g} GiB each)"
    wrong = obstacles(config, z, peak, done.disk["in all"] / GIB)
    fits = f"does NOT fit {where}: {'; '.join(wrong)}" if wrong else \
        f"fits {where}: {', '.join(f'{phase} {gib:.1f}' for phase, gib in peak.items())} GiB on a device"
    took = f"{shown.time['in all']} device {unit}" if h.devices > 1 else f"{shown.time['in all']} {unit}"
    took += f" of work, {config.parallel} stages at a time" * (config.parallel > 1)
    line = (f"{config.model.source}, {short(z.parameters / 1e6)} million parameters: {fits}. It takes {took} (assumed: "
            f"{h.compute_share:.0%} of {h.teraflops:g} TFLOP/s, {h.bandwidth_share:.0%} of {h.terabytes_per_second:g} TB/s) and "
            f"{shown['disk GiB']['in all']} GiB of disk")
    if unknown := [name for name in (config.data.validation, *config.data.evaluation) if not problem_count(config, name)]:
        line += f"; not counted: {', '.join(unknown)}, not there to be counted"
    return held.map(short), shown.rename(columns={"time": f"device {unit}"}), line
