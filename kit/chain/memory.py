"""The memory of one device in each phase of a run, from the model's config alone (no weights).

N parameters in L layers; widths H of the hidden state, I of the MLP, Q of the queries, K of the keys (and of the values);
V words; S devices that share one copy of the weights (FSDP2, ZeRO-3; else 1); b responses in one pass, each with its prompt of s
tokens (the longest prompt + the limit); c bytes of a number in computation (2 bfloat16, 4 float32); r bytes of one in the stream
between the layers (4; 2 where weights are computed with as bfloat16: FSDP2, ZeRO-3, LoRA); M the device's memory. In bytes:

Update: forward and backward pass of b responses; what is trained is float32 (kit.training.rounds)
    weights             4 N / S
    gradients           4 N / S, and as much again in DDP's buckets when several processes train without sharing
    AdamW               8 N / S: two moments
    reference model     4 N / S, with a KL term
    gathered weights    2 c (N / L + V H) when S > 1: two layers at a time; the embedding and the output layer throughout
    kept activations    L r H b s: the input of each layer; without gradient checkpointing L (4 c I + k H) b s
    one layer           (6 c I + h H) b s: recomputed, and its gradients; or, if more, 2 N: the forward pass's weights as bfloat16
    attention mask      (1 + c) b s^2; without checkpointing (1 + c L) b s^2
    output layer        2 x 4096 x 32768 + 8 V H + 8 H b s. Logits never exist whole (they would take 4 V b s): TRL goes through
                        them in tiles, with float32 gradients of the layer and of its input
h and k are counted on Qwen2's layer in transformers 5.17 (tests/test_plan.py traces it): see COUNTED.
With LoRA of rank R the weights are c N / S, there is no reference model, and for N in gradients and AdamW stands
R L (2 (H + Q) + 2 (H + K) + 3 (H + I)).

Rollouts: weights, AdamW, reference model and DDP's buckets as above, and
    transformers        the KV cache of a device's whole share of a step's responses, L K (r + c) b s; 12 V for each
    vLLM, colocate      its share of M; without `vllm_sleep` during the update, too
    vLLM, server        nothing here
Evaluation: none of the above, but
    transformers        weights c N, the KV cache of batch_size responses at their longest, 2 c L K b s; 12 V for each
    vLLM                its share of M
    server              nothing here
Always hardware.reserve_gib: the CUDA context, communication buffers, fragments; on a CPU the libraries.

vLLM's share of M holds, on T devices that the model is spread over, 2 N / T of weights, 1 GiB of its own, and in the rest the KV
cache, 4 L K / T for a token.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kit.settings import ROOT, Config, KitError, read_yaml

GIB = 2**30
TILE = 2 * 4096 * 32768  # bytes: tokens x words of TRL 1.16's ChunkedLogProbFunction
COUNTED = {(2, 4): (39, 35), (2, 2): (29, 27), (4, 4): (46, 42)}  # (c, r): (h, k)


@dataclass(frozen=True)
class Sizes:
    """What the formulas need of a model; widths in numbers."""

    parameters: int
    layers: int
    hidden: int
    mlp: int
    queries: int
    keys: int
    words: int


# --- the model --------------------------------------------------------------------------------------------------------


def model_config(config: Config) -> Any:
    """The model's config: of a local folder; of `model.shape`; of the laptop's own model; else of the hub or its cache."""
    from transformers import AutoConfig, Qwen2Config

    source, trust = config.model.source, config.model.trust_remote_code
    if source == "arithmetic":
        from kit.laptop import arithmetic

        return arithmetic.make_model(config.arithmetic, arithmetic.make_tokenizer(), 0).config
    if config.model.shape and not Path(source).is_dir():
        return Qwen2Config(**asdict(config.model.shape))
    try:
        return AutoConfig.from_pretrained(source, revision=config.model.revision, trust_remote_code=trust)
    except (OSError, ValueError) as error:
        raise KitError(f"{config.file}: the config of {source} cannot be read ({str(error).splitlines()[0]}); give its sizes "
                       "under model.shape, or a local folder as model.source") from None


def sizes_of(model: Any) -> Sizes:
    """Sizes from a transformers config; the parameters are counted on the model itself, built without memory."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(model)
    head = getattr(model, "head_dim", None) or model.hidden_size // model.num_attention_heads
    return Sizes(
        sum(p.numel() for p in built.parameters()), model.num_hidden_layers, model.hidden_size, model.intermediate_size,
        model.num_attention_heads * head, model.num_key_value_heads * head, model.vocab_size,
    )


# --- memory of one device ---------------------------------------------------------------------------------------------


def is_shared(config: Config) -> bool:
    """Whether the training processes share one copy of the weights (FSDP2, ZeRO-3)."""
    if config.training.processes == 1:
        return False
    given = Path(config.training.accelerate)
    path = next((p for p in (given, ROOT / given) if p.is_file()), None)
    if path is None:
        raise KitError(f"{config.file}: training.accelerate: no file {given}")
    return read_yaml(path).get("distributed_type") in ("FSDP", "DEEPSPEED")


def is_checkpointing(config: Config) -> bool:
    """Whether activations are recomputed in the backward pass."""
    given = config.training.gradient_checkpointing
    return config.model.dtype == "bfloat16" if given is None else given


def compute_bytes(config: Config) -> int:
    return 2 if config.model.dtype == "bfloat16" else 4


def stream_bytes(config: Config) -> int:
    half = is_shared(config) or config.training.lora_rank is not None
    return compute_bytes(config) if half else 4


def longest_prompt(config: Config) -> int:
    """In tokens; longer ones are dropped."""
    return config.hardware.prompt_length or config.data.prompt_cap


def adapters(z: Sizes, rank: int) -> int:
    """Numbers in LoRA adapters of this rank on every linear layer but the output's."""
    return rank * z.layers * (2 * (z.hidden + z.queries) + 2 * (z.hidden + z.keys) + 3 * (z.hidden + z.mlp))


def state(config: Config, z: Sizes) -> dict[str, float]:
    """Bytes that training holds all the time: weights, AdamW, reference model, DDP's buckets."""
    t = config.training
    devices = t.processes if is_shared(config) else 1
    trained = z.parameters if t.lora_rank is None else adapters(z, t.lora_rank)
    weights = 4 * trained if t.lora_rank is None else compute_bytes(config) * z.parameters + 4 * trained
    return {
        "weights": weights / devices,
        "AdamW's moments": 8 * trained / devices,
        "reference model": 4 * z.parameters / devices if t.kl_coefficient > 0 and t.lora_rank is None else 0,
        "DDP's buckets": 4 * trained if t.processes > 1 and not is_shared(config) else 0,
    }


def update_memory(config: Config, z: Sizes, limit: int) -> dict[str, float]:
    """Bytes of a device in the update of a round with this limit, by what they are for."""
    t, c, r = config.training, compute_bytes(config), stream_bytes(config)
    shared = is_shared(config)
    trained = z.parameters if t.lora_rank is None else adapters(z, t.lora_rank)
    long = longest_prompt(config) + limit
    tokens = t.responses_per_pass * long
    inside, kept = COUNTED[c, r]
    if is_checkpointing(config):
        layer, kept, masks = (6 * c * z.mlp + inside * z.hidden) * tokens, z.layers * r * z.hidden * tokens, 1 + c
    else:
        layer, kept, masks = 0, z.layers * (4 * c * z.mlp + kept * z.hidden) * tokens, 1 + c * z.layers
    cast = 2 * z.parameters if c < r else 0
    asleep = t.vllm_sleep or t.vllm != "colocate"
    return {
        **state(config, z),
        "gradients": 4 * trained / (t.processes if shared else 1),
        "gathered weights": 2 * c * (z.parameters / z.layers + z.words * z.hidden) if shared else 0,
        "kept activations": kept,
        "one layer": max(layer, cast),
        "attention mask": masks * t.responses_per_pass * long**2,
        "output layer": TILE + 8 * z.words * z.hidden + 8 * z.hidden * tokens,
        "vLLM": 0 if asleep else t.vllm_memory_share * config.hardware.memory_gib * GIB,
        "reserve": config.hardware.reserve_gib * GIB,
    }


def rollout_memory(config: Config, z: Sizes, limit: int) -> dict[str, float]:
    """Bytes of a device while a step's responses are written."""
    t, held = config.training, state(config, z)
    if t.vllm == "off":
        share, long = t.responses_per_process, longest_prompt(config) + limit
        held["KV cache"] = z.layers * z.keys * (stream_bytes(config) + compute_bytes(config)) * share * long
        held["logits"] = 12 * z.words * share
    elif t.vllm == "colocate":
        held["vLLM"] = t.vllm_memory_share * config.hardware.memory_gib * GIB
    return {**held, "reserve": config.hardware.reserve_gib * GIB}


def evaluation_memory(config: Config, z: Sizes) -> dict[str, float]:
    """Bytes of a device while an evaluation set is answered."""
    e, c, engine = config.evaluation, compute_bytes(config), config.engine
    held = {"reserve": config.hardware.reserve_gib * GIB}
    if engine.name == "vllm":
        held["vLLM"] = engine.gpu_memory_utilization * config.hardware.memory_gib * GIB
    elif engine.name == "transformers":
        long = longest_prompt(config) + e.max_new_tokens
        held |= {"weights": c * z.parameters, "KV cache": 2 * c * z.layers * z.keys * e.batch_size * long,
                 "logits": 12 * z.words * e.batch_size}
    return held


def cache_tokens(config: Config, z: Sizes, share: float, spread: int) -> float:
    """How many tokens the KV cache of one vLLM engine holds, given its share of memory and the devices it is spread over."""
    room = share * config.hardware.memory_gib * GIB - 2 * z.parameters / spread - GIB
    return room * spread / (4 * z.layers * z.keys)
