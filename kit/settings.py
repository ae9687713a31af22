"""Every setting a params file can have: its name, type, default and unit. `kit.config` reads the files, `kit.checks` judges.

Defaults are the official ones of the paper's code where there are any (FACTS 2).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


class KitError(Exception):
    """A user's mistake or a broken input, told in one line; notebooks and commands print only that line."""

    def __init__(self, message: str) -> None:
        line = " ".join(message.split())  # one line, and nothing in it that a terminal obeys: it can quote a model or a data set
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in line))

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
    """The laptop's world (kit.arithmetic): its problems, the small model, and how that is taught to think at length."""

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
    keep_checkpoints: Literal["all", "selected"] = "all"  # whose weights stay when the round has made its choice


@dataclass(frozen=True)
class Watch:
    """When a training round is warned about, and when it is stopped (kit.watch)."""

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
    watch: Watch = Watch()
    selection: Selection = Selection()
    evaluation: Evaluation = Evaluation()
    keywords: dict[str, tuple[str, ...]] = field(default_factory=dict)
    set_labels: dict[str, str] = field(default_factory=dict)
    seed: int = 42
    threads: int = 1
    parallel: int = 1  # schedules worked on at the same time
    file: str = ""
