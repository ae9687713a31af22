"""Every key of a params file: its type, range, default, unit and meaning. `params/schema.json` is made from these classes.

Defaults are the official ones of the paper's code where there are any (github.com/UCSB-NLP-Chang/ThinkPrune). Lengths are tokens.
What keys say of each other is in settings/checks; settings/loading reads the files.
"""

import zlib
from typing import Annotated, Any, Literal, dataclass_transform

from pydantic import ConfigDict, Field, JsonValue
from pydantic.dataclasses import dataclass


class KitError(Exception):
    """A user's mistake or a broken input, in a line for each mistake; notebooks and commands print only these lines."""

    def __init__(self, *lines: str) -> None:
        plain = (" ".join(line.split()) for line in lines)  # a line can quote a model or a data set: a terminal must not obey it
        super().__init__(*("".join(c if c.isprintable() else repr(c)[1:-1] for c in line) for line in plain))

    def __str__(self) -> str:
        return "\n".join(self.args)

    def _render_traceback_(self) -> list[str]:  # what Jupyter shows in place of a traceback
        return f"KitError: {self}".splitlines()


@dataclass_transform(frozen_default=True, field_specifiers=(Field,))
class Table:
    """A table of keys. Each subclass is a frozen dataclass that refuses a key it does not have, and a value of another type."""

    def __init_subclass__(cls) -> None:
        dataclass(cls, frozen=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))


def key(default: Any, meaning: str, **constraints: Any) -> Any:
    """A key with its default (`...`: it has none; a table is copied) and what it means, with its unit."""
    if isinstance(default, dict):
        return Field(default_factory=default.copy, description=meaning, **constraints)
    return Field(default, description=meaning, **constraints)


def neutral(default: Any, meaning: str, **constraints: Any) -> Any:
    """A key on which no result depends, only where, in which pieces or how fast it is worked out: a new value redoes nothing
    (runs/fingerprint)."""
    return key(default, meaning, exclude=True, **constraints)


def later(default: Any, meaning: str, **constraints: Any) -> Any:
    """A key that came when there were finished runs: with its default it is not told, and redoes none of them."""
    return key(default, meaning, exclude_if=lambda value: value == default, **constraints)


FORMS: dict[str, str] = {}  # pattern -> what a text of this form should be, for messages


def form(pattern: str, should: str) -> Any:
    """Text of a form; `should` says which form, in our error messages and in editors."""
    FORMS[pattern] = f"be {should}"
    return Annotated[str, Field(pattern=pattern, json_schema_extra={"errorMessage": should})]


Count = Annotated[int, Field(gt=0)]
Amount = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Chance = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Operations = Annotated[tuple[Annotated[int, Field(ge=1, le=6)], ...], Field(min_length=1)]
NAME = r"[\w.-]*[^\W_][\w.-]*"
Name = form(f"^{NAME}$", "a name of letters, digits, - _ and .")
NameOrNone = form(f"^({NAME})?$", "a name of letters, digits, - _ and .")
ScheduleName = form(r"^[\w-]*[^\W_][\w-]*$", "a name of letters, digits, - and _")
Phrases = Annotated[tuple[form(r"\S", "a word or phrase"), ...], Field(min_length=1)]
ADDRESS = r"https?://([\w.-]+|\[[\da-fA-F:.]+\])(:[1-9]\d{0,4})?(/[^\s?#@]*)?"
Address = form(f"^{ADDRESS}$", "an address like http://127.0.0.1:8000/v1, with no user or key in it")
AddressOrNone = form(f"^({ADDRESS})?$", "an address like http://127.0.0.1:8000/v1, with no user or key in it")
KeyVariable = form("^([A-Z][A-Z0-9_]*)?$", "the name of an environment variable, in capitals; the key itself stays out of params")
Reading = Literal["official", "strict", "last-number"]


class Shape(Table):
    """Sizes of a Qwen2 model, by the names and with the values of its config.json."""
    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    num_key_value_heads: Count
    vocab_size: Count
    tie_word_embeddings: bool = False


class Model(Table):
    """The base model."""
    source: str = key("arithmetic", "`arithmetic` (the laptop's, trained here), a local folder, or a hub id")
    revision: str | None = key(None, "commit or tag of the hub's repository")
    trust_remote_code: bool = key(False, "run code that comes with the model")
    dtype: Literal["float32", "bfloat16"] = key("float32", "of the computation; what is trained is float32")
    shape: Shape | None = neutral(None, "for planning without the model's files; nothing else reads it")


class Hardware(Table):
    """The devices a run is planned for, and what is expected of it (kit.chain.plan); changes no result."""
    name: str = "a laptop's CPU"
    devices: Count = key(1, "of all machines together")
    memory_gib: Amount = key(8.0, "of one device")
    reserve_gib: float = key(0.5, "of one device, for what the plan does not count: CUDA context, buffers, fragments", ge=0)
    disk_gib: Amount = key(20.0, "for results/<run>")
    teraflops: Amount = key(0.1, "of one device, by its data sheet")
    terabytes_per_second: Amount = key(0.02, "memory bandwidth of one device, by its data sheet")
    compute_share: Share = key(0.4, "share of the teraflops that is reached; assumed")
    bandwidth_share: Share = key(0.5, "share of the bandwidth that is reached; assumed")
    lengths: dict[str, Amount] = key({}, "data set: mean response of the base model, in tokens")


class Habits(Table):
    """How the laptop's long thinker writes its traces (kit.laptop.thinking); probabilities unless said otherwise."""
    slip_hard: Chance = key(0.2, "carry forgotten at one look: steps with a carry, a borrow, or a two-digit factor")
    slip_easy: Chance = key(0.01, "slip at one look of an easy step")
    slip_spelled: Chance = key(0.003, "slip of a step that is spelled out")
    restate: Chance = key(0.85, "the problem is restated first")
    careful: tuple[Chance, ...] = key((0.0, 0.0, 0.0, 0.6), "per trace: share of hard steps spelled out", min_length=1)
    spelled_easy: Chance = key(0.0, "easy steps are spelled out so often as this times the share above")
    careful_check: Chance = key(1.0, "whole checks that spell steps out likewise; the others look once")
    step_check: tuple[Chance, ...] = key((0.0, 0.35), "per trace: the share of steps checked at once", min_length=1)
    another_round: tuple[Chance, ...] = key((0.9, 0.55, 0.3), "a first, second, third whole check", min_length=1)
    conclude: Chance = key(0.8, "it ends with a sentence that concludes")
    cut: Chance = key(0.07, "traces cut off anywhere and then answered, so that budget forcing is a fair baseline")


class Arithmetic(Table):
    """The laptop's world (kit.laptop.arithmetic): its problems, the small model, and how that is taught to think at length."""
    seed: Seed | None = key(None, "of the problems and the base model; the run's own where it is not given")
    largest: int = key(49, "every number of a problem and its solution lies in 0 .. largest", ge=9, le=99)
    operations: dict[str, Operations] = key({}, "data set: numbers of operations of its problems")
    train_problems: Count = 4000
    validation_problems: Count = 200
    evaluation_problems: Count = 200
    habits: Habits = Habits()
    hidden_size: Count = 96
    layers: Count = 3
    heads: Count = 4
    key_value_heads: Count = 2
    intermediate_size: Count = 192
    max_length: Count = key(1024, "tokens of a prompt and its response")
    drill_steps: Count = key(400, "training steps on exercises, in turn with the traces")
    drill_direct: Chance = key(0.15, "share of steps at one look among them; the others are spelled out")
    sft_steps: Count = 1000
    sft_batch: Count = key(8, "small: at the start of training more steps teach more than larger ones")
    sft_learning_rate: Amount = key(3e-3, "AdamW: embeddings, norms, biases")
    sft_muon_learning_rate: Amount = key(0.012, "Muon: the hidden layers' matrices")


class SetSource(Table):
    """Where a data set comes from: a task of reasoning-gym, graded by its own verifier, or any set of the hub (one of both)."""
    reasoning_gym: str = key("", "the task, such as chain_sum")
    seed: Seed = key(0, "of the task; its problem k is drawn with seed + k")
    size: Count = key(100, "problems of the task")
    options: dict[str, JsonValue] = key({}, "of the task, such as max_terms: 3")
    hub: str = key("", "the set of the hub, owner/name")
    config: str | None = key(None, "of the hub's set; null: its default")
    split: str = key("train", "of the hub's set")
    question: str = key("", "its column in the hub's set; default: question, problem, prompt or messages")
    answer: str = key("", "its column in the hub's set; default: answer, final_answer or reward_model")


class Data(Table):
    """Names of the training, validation (AIME22+23's role) and evaluation sets, and where they are (kit.data.problems)."""
    evaluation: tuple[Name, ...] = key(..., "data sets that models are evaluated on", min_length=1)
    train: NameOrNone = key("", "data set that models are trained on")
    validation: NameOrNone = key("", "data set that checkpoints are selected on; default: a tenth of the training set, held out")
    prompt_cap: Count = key(768, "tokens; longer training prompts are dropped (official; QwQ 1024)")
    files: dict[str, str] = key({}, "data set: local file or folder")
    sources: dict[str, SetSource] = key({}, "data set: a task of reasoning-gym, or a set of the hub")
    folder: str = key("data", "where files of sets are looked for before the hub is asked")
    revisions: dict[str, str] = key({}, "data set: commit or tag of its hub repository")
    near_duplicate: Share | None = key(
        0.5, "overlap with a held-out problem at which a training problem is dropped; null: all rows are kept (official)")


class Prompts(Table):
    """Wordings of the published method, as values; `{question}` and `{limit}` are filled in.

    `train_user` to `forcing_ending` are each a text, or the name of one of `wordings`.
    """
    system: str = key(..., "system message of the training prompt")
    limit_sentence: form(r"\{limit\}", "a text with {limit} in it") = key(..., "what the training prompt says of the limit")
    train_user: str = key(..., "training prompt; contains {question}")
    evaluation_user: str = key(..., "prompt of validation and evaluation; contains {question}")
    forcing_user: str = key(..., "prompt of budget forcing; contains {question}")
    forcing_ending: str = key(..., "budget forcing: what is put behind thinking that was stopped; it closes tags that are open")
    wordings: dict[str, str] = key({}, "name: wording")
    template_arguments: dict[str, JsonValue] = key({}, "of the chat template, such as enable_thinking: false")
    system_role: Literal["system", "user"] = key("system", "user: before the question, for chat templates without system")

    def text(self, key: str) -> str:
        """The wording of `train_user`, `evaluation_user`, `forcing_user` or `forcing_ending`."""
        value = getattr(self, key)
        return self.wordings.get(value, value)


class Training(Table):
    """GRPO settings of one pruning round; the defaults are the official ones."""
    prompts_per_step: Count = 128
    responses_per_prompt: int = key(16, "the group that a response's advantage is relative to", ge=2)
    micro_batch: Count = key(4, "responses in one forward/backward pass of a device, at most; the loss is their token mean")
    learning_rate: float = key(1e-6, "of AdamW, constant", gt=0, le=0.1)
    max_grad_norm: Amount = 1.0
    temperature: Amount = 1.0
    top_p: Share = 1.0
    clip_ratio: float = key(0.2, "PPO's epsilon", ge=0)
    kl_coefficient: float = key(
        0.001, "weight of the distance from the round's start (reference model) in the loss; the official code has -0.001")
    entropy_coefficient: float = key(0.001, "weight of the entropy bonus in the loss", ge=0)
    steps: Count = key(180, "optimizer steps of a round")
    checkpoint_every: Count = key(20, "steps")
    reading: Reading = key("official", "which answers count, in the reward and in every evaluation (kit.reward.grading)")
    keep_checkpoints: Literal["all", "selected"] = neutral("all", "whose weights stay when the round has made its choice")
    lora_rank: Count | None = key(None, "null: all weights are trained")
    lora_alpha: Count = key(32, "the adapter is scaled by alpha / rank")
    vllm: Literal["off", "colocate", "server"] = key(
        "off", "off: transformers writes the rollouts; colocate: vLLM on the training devices; server: a running `vllm serve`")
    processes: Count = neutral(1, "over all machines, one per device; more than one are started by `accelerate launch`")
    machines: Count = neutral(1, "of `processes / machines` devices each")
    accelerate: str = neutral("params/accelerate/ddp.yaml", "accelerate's own config file, for several processes")
    drop_groups: bool = later(False, "groups of equal rewards leave the loss, and its mean (DLER; DAPO, without drawing anew)")
    trl: dict[str, JsonValue] = key({}, "further fields of TRL's GRPOConfig, passed through (kit.training.trl_fields)")

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


class Watch(Table):
    """When a training round is warned about, and when it is stopped (kit.training.watch)."""
    truncated: Share = key(0.95, "share of responses cut at the limit")
    entropy: Share = key(0.1, "share of the entropy that the round began with")
    kl: Amount = key(1.0, "nats per token from the round's start; ten times that is a blow-up that can stop the round")
    loops: Share = key(0.3, "share of responses that end in a loop")
    still: Amount = key(1e-4, "nats per token from its start that a round must be on the way to after its first steps")
    patience: int = key(20, "steps in a row without reward, or that far off, that stop a round; 0: never stop", ge=0)


class Reward(Table):
    """What a response earns (kit.reward.length_rewards), and what goes with it."""
    name: Name = key("token_limit", "of the function, such as none, laser, kimi; notebook 07 shows all")
    weight: float | None = key(None, "of its length term; null: the method's own")
    settings: dict[str, float] = key({}, "its function's other arguments, such as buffer")
    target: Count | None = key(None, "tokens; null: the round's limit, up to which is generated")
    target_to: Count | None = key(None, "tokens; the target goes there evenly over the steps of a round (a curriculum)")
    targets: tuple[Count, Count] | None = key(None, "in place of `target`: each prompt has its own, drawn between these (L1)")
    state_target: form(r"\{target\}", "a text with {target} in it") | None = key(
        None, "what the training prompt says of the target, with {target} in it; null: nothing")
    scale_rewards: Literal["group", "batch", "none"] | None = key(
        None, "what advantages are divided by: the std of the group, of the batch, or nothing; null: the method's own")
    recipe: Literal["common", "own"] = key("common", "own: the optimizer settings of the method's paper, in place of training's")

    def target_of(self, question: str) -> int | None:
        """The target of a prompt, in tokens; None where it is the round's limit."""
        if self.targets is None:
            return self.target
        low, high = self.targets
        return low + zlib.crc32(question.encode()) % (high - low + 1)


class Schedule(Table):
    """A sequence of pruning rounds; one-shot is a list of one limit."""
    limits: tuple[Count, ...] = key(..., "token limit of each round; they fall", min_length=1)
    label: str = key("", "how tables and figures call it")
    steps: Count | None = key(None, "steps per round; null: training.steps")
    checkpoint_every: Count | None = key(None, "steps; null: training.checkpoint_every")
    state_limit: bool = key(True, "false: the prompt does not name the limit (a control)")
    select: Literal["rule", "last"] = key("rule", "checkpoint of a round: by the paper's rule, or its last one")
    reading: Reading | None = key(None, "of its reward; null: training.reading")
    compare_with: str | None = key(None, "a control's counterpart: the schedule that differs from it in one thing")
    reward: Reward | None = later(None, "null: the token limit's, 1 for a right answer within it")

    @property
    def free(self) -> bool:
        """Whether nothing asks for brevity: a control."""
        return not self.state_limit and self.compare_with is None and (self.reward is None or self.reward.name == "none")


class Selection(Table):
    """The paper's rule: shortest checkpoint with at most this relative drop in validation accuracy."""
    tolerance: float = key(0.10, "share of the accuracy before the round that may be lost", ge=0, lt=1)
    samples: Count = key(16, "responses per validation problem")


class Evaluation(Table):
    """Sampling of an evaluation, by default the official one, and its bootstrap."""
    samples: Count = key(16, "responses per problem")
    samples_by_set: dict[str, Count] = key({}, "data set: responses per problem, where that differs")
    temperature: float = key(0.6, "0 is greedy", ge=0)
    top_p: Share = 0.95
    max_new_tokens: Count = 32000
    batch_size: Count = key(64, "responses generated at once (transformers engine)")
    resamples: Count = key(2000, "of the bootstrap")
    training_prompt: bool = key(False, "a control: every model also answers in the training prompt, its limit stated")
    second_bos: bool = key(False, "its prompts begin with two beginning tokens, as the official ones of the DeepSeek family")


class Forcing(Table):
    """Budget forcing, the paper's baseline (kit.evaluation.forcing): thinking is stopped at each budget, then answered."""
    budgets: tuple[Count, ...] = key(
        (500, 1000, 2000, 4000, 8000), "tokens (official); default: those below max_new_tokens; [] leaves notebook 04 out")
    models: tuple[str, ...] = key(("base", "pruned"), "base, <schedule>/round<k>, or pruned: the first schedule's last round")
    samples: Count | None = key(None, "per problem; null: as in the evaluation")
    answer_tokens: Count = key(32000, "at most, after the ending, and no more than evaluation.max_new_tokens leaves")


class Logs(Table):
    """Models known by their generation logs, of any tool in kit.rollout.formats; the others are compared with `base`."""
    models: dict[Name, dict[str, str]] = key({}, "model: {data set: file, or folder}")
    labels: dict[str, str] = key({}, "model: how tables and figures call it")
    folder: str = key("", "the paths above are relative to it")
    tokenizer: str | None = key(None, "counts the lengths that a log lacks; null: they are missing, and tables say so")


class Engine(Table):
    """What generates responses outside of training (kit.rollout): this process, vLLM, or a running OpenAI-compatible server."""
    name: Literal["transformers", "vllm", "server"] = "transformers"
    max_model_len: Count | None = key(None, "prompt and response; null: data.prompt_cap + evaluation.max_new_tokens")
    tensor_parallel: Count = neutral(1, "GPUs that one copy of the model is spread over (vllm)")
    data_parallel: Count = neutral(1, "copies of the model that share the problems (vllm)")
    gpu_memory_utilization: Share = neutral(0.9, "share of each GPU's memory (vllm)")
    url: Address = neutral("http://127.0.0.1:8000/v1", "of the server (server)")
    served_as: dict[str, str] = neutral({}, "folder or hub id of a model: its name there, where that differs (server)")
    key_variable: KeyVariable = neutral("", "name of the environment variable that holds the key, never the key itself")
    concurrency: Count = neutral(256, "requests at a time, one response each (server; vllm: for each copy)")
    retries: int = neutral(8, "of a request that failed (server, vllm); with the pauses between them, under a minute", ge=0)
    timeout: Amount = neutral(3600.0, "seconds for one response (server, vllm)")


class Judge(Table):
    """A language model that labels phases (kit.behavior.judge), at an OpenAI-compatible endpoint; none without a `url`."""
    url: AddressOrNone = key("", "like http://127.0.0.1:8000/v1")
    model: str = key("", "which model the endpoint should use")
    key_variable: KeyVariable = key("", "name of the environment variable that holds the key, if the endpoint wants one")
    remote: bool = key(False, "true: the endpoint may be on another machine, and the traces are sent there")
    responses: Count = key(20, "labelled per model and data set")
    batch: Count = key(20, "steps per request")
    retries: Count = key(3, "requests per batch, in all")
    timeout: Amount = key(120.0, "seconds per request")
    parallel: Count = key(4, "requests at a time")


class Behavior(Table):
    """What notebook 05 looks at (kit.behavior)."""
    samples: Count = key(4, "responses per problem whose text is read: the first ones")
    steps: Literal["auto", "paragraphs", "sentences"] = key("auto", "what a step of a trace is (kit.behavior.phases)")
    ngram: Count = key(8, "words; repetition is the share of such runs of words that were there before")
    pairs: tuple[str, ...] = key((), "models shown side by side with the base; []: the last round of each schedule")
    phases: str = key("params/shared/phases.yaml", "file with the cues of the ten phases (kit.behavior.phases)")
    reference: str = key("", "of the perplexity: hub id, folder, `trained` (the laptop's), `base`, or none")
    reference_steps: Count = key(250, "training steps of a `trained` one")
    reference_sets: tuple[str, ...] = key((), "data sets whose traces it reads; []: all")
    reference_samples: Count = key(1, "responses per problem that it reads")
    window: int = key(4096, "tokens it sees at once; longer traces are read in windows that overlap by half", ge=16)
    batch_tokens: Count = key(4096, "tokens per forward pass")
    judge: Judge = Judge()


class Config(Table):
    """All settings of one run."""
    run: Name = neutral(..., "folder of the run below results/, by default the file's name; of letters, digits, - _ and .")
    data: Data = key(..., "names of the data sets, and where they are")
    prompts: Prompts | None = key(None, "by default those of the model's family, or params/shared/plain.yaml; of no use to logs")
    schedules: dict[ScheduleName, Schedule] = key({}, "name: the rounds that it trains")
    logs: Logs = Logs()
    model: Model = Model()
    arithmetic: Arithmetic = Arithmetic()
    training: Training = Training()
    watch: Watch = neutral(Watch(), "when a training round is warned about, and when it is stopped")
    selection: Selection = Selection()
    evaluation: Evaluation = Evaluation()
    engine: Engine = Engine()
    behavior: Behavior = Behavior()
    forcing: Forcing = Forcing()
    keywords: dict[str, Phrases] = key(
        {"hesitation": ("wait", "but wait", "alternatively", "double-check"), "core": ("therefore", "let me compute")},
        "words to count in the traces, in groups; the paper's", min_length=1)
    set_labels: dict[str, str] = key({}, "data set: how tables and figures call it")
    seed: Seed = 42
    seeds: tuple[Seed, ...] = neutral((), "further seeds: each a run <run>-seed<k>, combined in this one", max_length=99)
    threads: Count = key(1, "per process")
    parallel: Count = neutral(1, "schedules worked on at the same time")
    hardware: Hardware = neutral(Hardware(), "what a run is planned for")
    file: str = neutral("", "the params file these settings came from")

    @property
    def forced_models(self) -> list[str]:
        """The models of `forcing.models`, by their names."""
        pruned = [f"{name}/round{len(plan.limits)}" for name, plan in self.schedules.items()][:1]
        return list(dict.fromkeys(m for name in self.forcing.models for m in (pruned if name == "pruned" else [name])))
