"""Every setting a params file can have: its name, type, default and unit. settings/loading reads the files, settings/checks judges.

Defaults are the official ones of the paper's code where there are any (github.com/UCSB-NLP-Chang/ThinkPrune).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


class KitError(Exception):
    """A user's mistake or a broken input, told in one line; notebooks and commands print only that line."""

    def __init__(self, message: str) -> None:
        line = " ".join(message.split())  # one line, and nothing in it that a terminal obeys: it can quote a model or a data set
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in line))

    def _render_traceback_(self) -> list[str]:  # what Jupyter shows in place of a traceback
        return [f"KitError: {self}"]


@dataclass(frozen=True)
class Shape:
    """Sizes of a Qwen2 model, by the names and with the values of its config.json."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    tie_word_embeddings: bool = False


@dataclass(frozen=True)
class Model:
    """The base model: `arithmetic` (trained here), a local folder, or a hub id."""

    source: str = "arithmetic"
    revision: str | None = None
    trust_remote_code: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    shape: Shape | None = None  # for planning without the model's files (kit.chain.plan); nothing else reads it


@dataclass(frozen=True)
class Hardware:
    """The devices a run is planned for, and what is expected of it (kit.chain.plan); changes no result."""

    name: str = "a laptop's CPU"
    devices: int = 1  # of all machines together
    memory_gib: float = 8.0  # of one device
    reserve_gib: float = 0.5  # of one device, for what the plan does not count: CUDA context, communication buffers, fragments
    disk_gib: float = 20.0  # for results/<run>
    # Speeds of one device: measured ones, if there are any (else null), and what to assume without: the data sheet's, and the
    # share of it that is reached.
    generated_per_second: float | None = None  # response tokens; measured
    updated_per_second: float | None = None  # prompt and response tokens, the reference model's pass included; measured
    teraflops: float = 0.1
    terabytes_per_second: float = 0.02
    compute_share: float = 0.4  # assumed
    bandwidth_share: float = 0.5  # assumed
    prompt_length: int | None = None  # longest prompt, in tokens; null: data.prompt_cap
    problems: dict[str, int] = field(default_factory=dict)  # data set -> how many it has
    lengths: dict[str, float] = field(default_factory=dict)  # data set -> mean response of the base model, in tokens


@dataclass(frozen=True)
class Habits:
    """How the laptop's long thinker writes its traces (kit.arithmetic.think); probabilities unless said otherwise."""

    slip_hard: float = 0.2  # carry forgotten at one look: steps with a carry, a borrow, or a two-digit factor
    slip_easy: float = 0.01
    slip_spelled: float = 0.003
    restate: float = 0.85
    careful: tuple[float, ...] = (0.0, 0.0, 0.0, 0.6)  # per trace: the share of hard steps that it spells out
    spelled_easy: float = 0.0  # easy steps are spelled out so often as this times the share above
    careful_check: float = 1.0  # whole checks that spell steps out likewise; the others look once
    step_check: tuple[float, ...] = (0.0, 0.35)  # per trace: the share of steps checked at once
    another_round: tuple[float, ...] = (0.9, 0.55, 0.3)  # a first, second, third whole check
    conclude: float = 0.8  # how often it says "That gives 45 ." before and "Therefore , the answer is 45 ." at the end
    cut: float = 0.07  # traces cut off anywhere and then answered, so that budget forcing is a fair baseline


@dataclass(frozen=True)
class Arithmetic:
    """The laptop's world (kit.laptop.arithmetic): its problems, the small model, and how that is taught to think at length."""

    largest: int = 49  # every number of a problem and its solution lies in 0 .. largest
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
    drill_steps: int = 400  # on exercises, in turn with the traces
    drill_direct: float = 0.15  # share of steps at one look among them; the others are spelled out
    sft_steps: int = 1000
    sft_batch: int = 8  # small: at the start of training more steps teach more than larger ones
    sft_learning_rate: float = 3e-3  # AdamW: embeddings, norms, biases
    sft_muon_learning_rate: float = 0.012  # Muon: the hidden layers' matrices


@dataclass(frozen=True)
class Data:
    """Names of the training, validation (AIME22+23's role) and evaluation sets, and where they are (kit.data.problems)."""

    evaluation: tuple[str, ...]
    train: str = ""
    validation: str = ""
    prompt_cap: int = 768  # tokens; longer training prompts are dropped (official; QwQ 1024)
    files: dict[str, str] = field(default_factory=dict)  # set -> local file or folder
    folder: str = "data"  # where files of sets are looked for before the hub is asked
    revisions: dict[str, str] = field(default_factory=dict)  # set -> commit or tag of its hub repository
    near_duplicate: float = 0.5  # overlap with a held-out problem at which a training problem is dropped (kit.data.contamination)


@dataclass(frozen=True)
class Prompts:
    """Wordings of the published method, as values. `{question}` and `{limit}` are filled in.

    `train_user` to `forcing_ending` are each a text or the name of one of `wordings`.
    """

    system: str
    limit_sentence: str
    train_user: str
    evaluation_user: str
    forcing_user: str  # budget forcing: the prompt, ...
    forcing_ending: str  # ... and what is put behind thinking that was stopped
    wordings: dict[str, str] = field(default_factory=dict)
    system_role: Literal["system", "user"] = "system"  # user: before the question, for chat templates without a system role

    def text(self, key: str) -> str:
        """The wording of `train_user`, `evaluation_user`, `forcing_user` or `forcing_ending`."""
        value = getattr(self, key)
        return self.wordings.get(value, value)


@dataclass(frozen=True)
class Training:
    """GRPO settings of one pruning round; the defaults are the official ones."""

    prompts_per_step: int = 128
    responses_per_prompt: int = 16
    micro_batch: int = 16  # at most so many responses in one forward/backward pass of a device
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
    keep_checkpoints: Literal["all", "selected"] = "all"  # whose weights stay when the round has made its choice
    gradient_checkpointing: bool | None = None  # null: with bfloat16
    lora_rank: int | None = None  # null: all weights are trained
    lora_alpha: int = 32  # the adapter is scaled by alpha / rank
    # Rollouts: off is transformers' generate; colocate is vLLM on the training devices; server is a running `vllm serve`.
    vllm: Literal["off", "colocate", "server"] = "off"
    vllm_memory_share: float = 0.3  # colocate: of each device's memory
    vllm_tensor_parallel: int = 1  # colocate: devices per copy of the model
    vllm_sleep: bool = True  # colocate: vLLM gives its memory back during the update
    vllm_host: str = "127.0.0.1"  # server
    vllm_port: int = 8000
    # vLLM's probabilities differ a little from the trainer's. off: as in the paper's code, no correction. token_truncate: each
    # token is weighted by their ratio, at most the cap. sequence_mask (TRL's default) drops whole responses whose ratio passes
    # the cap; that ratio is a product over all tokens, so it drops long responses first, the very ones a limit is about.
    vllm_correction: Literal["off", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"] = "off"
    vllm_correction_cap: float = 3.0
    # One process per device, over all machines; with more than one, `accelerate launch` starts them (kit.training.launch).
    processes: int = 1
    machines: int = 1
    accelerate: str = "params/accelerate/ddp.yaml"
    trl: dict[str, Any] = field(default_factory=dict)
    timeout_minutes: float = 60.0  # how long processes wait for each other, a step's slowest rollouts included

    @property
    def responses_per_process(self) -> int:
        """Responses of one step that a process writes and learns from: the whole batch / processes."""
        return self.prompts_per_step * self.responses_per_prompt // self.processes

    @property
    def responses_per_pass(self) -> int:
        """Responses in one forward/backward pass: the largest divisor of a process's share up to `micro_batch`."""
        share = self.responses_per_process
        return next(n for n in range(min(self.micro_batch, share), 0, -1) if share % n == 0)

    @property
    def passes(self) -> int:
        """Forward/backward passes of a process per optimizer step (gradient accumulation)."""
        return self.responses_per_process // self.responses_per_pass


@dataclass(frozen=True)
class Watch:
    """When a training round is warned about, and when it is stopped (kit.training.watch)."""

    truncated: float = 0.95  # share of responses cut at the limit
    entropy: float = 0.1  # share of the entropy that the round began with
    kl: float = 1.0  # nats per token from the round's start; ten times that is a blow-up that can stop the round
    repeated: float = 0.3  # share of responses that end in a loop
    patience: int = 20  # steps in a row without any reward, or that far off, after which a round is stopped; 0: never


@dataclass(frozen=True)
class Schedule:
    """A sequence of pruning rounds; one-shot is a list of one limit. `limits` are tokens."""

    limits: tuple[int, ...]
    label: str = ""
    steps: int | None = None  # steps per round; null: training.steps
    checkpoint_every: int | None = None  # steps; null: training.checkpoint_every
    state_limit: bool = True  # False: the prompt does not name the limit (a control)
    select: Literal["rule", "last"] = "rule"
    reading: Literal["official", "strict"] | None = None  # of the reward; null: training.reading
    compare_with: str | None = None  # a control's counterpart: the schedule that differs from it in one thing


@dataclass(frozen=True)
class Selection:
    """The paper's rule: shortest checkpoint with at most this relative drop in validation accuracy."""

    tolerance: float = 0.10
    samples: int = 16


@dataclass(frozen=True)
class Evaluation:
    """Sampling of an evaluation, by default the official one, and its bootstrap."""

    samples: int = 16
    samples_by_set: dict[str, int] = field(default_factory=dict)
    temperature: float = 0.6
    top_p: float = 0.95
    max_new_tokens: int = 32000
    batch_size: int = 64  # responses generated at once (transformers engine)
    resamples: int = 2000  # bootstrap
    training_prompt: bool = False  # a control: every model also answers in the training prompt, its limit stated


@dataclass(frozen=True)
class Forcing:
    """Budget forcing, the paper's baseline (evaluation/forcing): thinking is stopped at each budget, then answered. Tokens."""

    budgets: tuple[int, ...] = (500, 1000, 2000, 4000, 8000)  # official; an empty list leaves notebook 04 out
    # Whose thinking is stopped: base, <schedule>/round<k>, or `pruned`: the last round of the first schedule.
    models: tuple[str, ...] = ("base", "pruned")
    samples: int | None = None  # per problem; null: as in the evaluation
    answer_tokens: int = 1024  # at most, after the ending; ours, the official cap is not known


@dataclass(frozen=True)
class Logs:
    """Models known by their generation logs in the official format (rollout/logs); `base` is what the others are compared with."""

    models: dict[str, dict[str, str]] = field(default_factory=dict)  # model -> data set -> file, or folder of rank files
    labels: dict[str, str] = field(default_factory=dict)  # model -> how tables and figures call it
    folder: str = ""  # the paths above are relative to it
    tokenizer: str | None = None  # counts the lengths that a log lacks; null: they are missing, and tables say so


@dataclass(frozen=True)
class Engine:
    """What generates responses outside of training (rollout/engines): this process, with or without vLLM, or a running server."""

    name: Literal["transformers", "vllm", "server"] = "transformers"
    max_model_len: int | None = None  # prompt and response (vllm, server); null: data.prompt_cap + evaluation.max_new_tokens
    tensor_parallel: int = 1  # GPUs that one copy of the model is spread over (vllm)
    data_parallel: int = 1  # copies of the model that share the problems (vllm)
    gpu_memory_utilization: float = 0.9  # share of each GPU's memory (vllm)
    url: str = "http://127.0.0.1:8000/v1"  # of an OpenAI-compatible server, and so are all below
    served_as: dict[str, str] = field(default_factory=dict)  # folder or hub id of a model: its name there, where that differs
    key_variable: str = ""  # name of the environment variable that holds the key, never the key itself
    concurrency: int = 256  # requests at a time, one response each
    retries: int = 8  # of a request that failed; with the pauses between them, some 3 minutes
    timeout: float = 3600.0  # seconds for one response


@dataclass(frozen=True)
class Judge:
    """A language model that labels phases (behavior/judge), behind an OpenAI-compatible endpoint; without a `url` there is none."""

    url: str = ""  # like http://127.0.0.1:8000/v1
    model: str = ""
    key_variable: str = ""  # name of the environment variable that holds the key, if the endpoint wants one
    remote: bool = False  # true: the endpoint may be on another machine, and the traces are sent there
    responses: int = 20  # labelled per model and data set
    batch: int = 20  # steps per request
    retries: int = 3  # requests per batch, in all
    timeout: float = 120.0  # seconds per request
    parallel: int = 4  # requests at a time


@dataclass(frozen=True)
class Behavior:
    """What notebook 05 looks at (kit.behavior.behavior)."""

    samples: int = 4  # responses per problem whose text is read: the first ones
    steps: Literal["auto", "paragraphs", "sentences"] = "auto"  # what a step of a trace is (kit.behavior.phases)
    ngram: int = 8  # words; repetition is the share of such runs of words that were there before
    pairs: tuple[str, ...] = ()  # models shown side by side with the base; empty: the last round of each schedule
    phases: str = "params/shared/phases.yaml"  # file with the cues of the ten phases (kit.behavior.phases)
    reference: str = ""  # of the perplexity: hub id, folder, `trained` (the laptop's), `base`, or none
    reference_steps: int = 250  # training steps of a `trained` one
    reference_sets: tuple[str, ...] = ()  # data sets whose traces it reads; empty: all
    reference_samples: int = 1  # responses per problem that it reads
    window: int = 4096  # tokens it sees at once; longer traces are read in windows that overlap by half
    batch_tokens: int = 4096  # tokens per forward pass
    judge: Judge = Judge()


@dataclass(frozen=True)
class Config:
    """All settings of one run. `file` is the params file they came from."""

    run: str
    data: Data
    prompts: Prompts | None = None  # null: only in a run that reads logs and asks no model
    schedules: dict[str, Schedule] = field(default_factory=dict)
    logs: Logs = Logs()
    model: Model = Model()
    arithmetic: Arithmetic = Arithmetic()
    training: Training = Training()
    watch: Watch = Watch()
    selection: Selection = Selection()
    evaluation: Evaluation = Evaluation()
    engine: Engine = Engine()
    behavior: Behavior = Behavior()
    forcing: Forcing = Forcing()
    keywords: dict[str, tuple[str, ...]] = field(default_factory=lambda: {  # the paper's
        "hesitation": ("wait", "but wait", "alternatively", "double-check"), "core": ("therefore", "let me compute")})
    set_labels: dict[str, str] = field(default_factory=dict)
    seed: int = 42
    seeds: tuple[int, ...] = ()  # further seeds: each a run <run>-seed<k> of its own, combined in this one (kit.evaluation.seeds)
    threads: int = 1
    parallel: int = 1  # schedules worked on at the same time
    hardware: Hardware = Hardware()
    file: str = ""

    @property
    def forced_models(self) -> list[str]:
        """The models of `forcing.models`, by their names."""
        pruned = [f"{name}/round{len(plan.limits)}" for name, plan in self.schedules.items()][:1]
        return list(dict.fromkeys(m for name in self.forcing.models for m in (pruned if name == "pruned" else [name])))
