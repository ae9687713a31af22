"""The laptop's world: its data sets, a word-level tokenizer, and a small model taught to think too long (kit.laptop.thinking)."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

from kit.data import problems, prompts
from kit.data.problems import Problem
from kit.laptop.thinking import ORDINALS, Chain, compared, draw_chain, shortest, think, work_out
from kit.runs import files, paths
from kit.settings import Arithmetic, Config, Habits, KitError


def make_data(config: Config) -> dict[str, int]:
    """Write every data set of the run into results/<run>/data; no question occurs twice. Returns their sizes."""
    a, run = config.arithmetic, paths.of(config)
    sizes = dict.fromkeys(config.data.evaluation, a.evaluation_problems)
    sizes[config.data.validation] = a.validation_problems
    sizes[config.data.train] = a.train_problems
    rng = random.Random(config.seed)
    seen: set[str] = set()
    for name, size in sizes.items():
        chains: list[Chain] = []
        for attempt in range(100 * size):
            chain = draw_chain(rng, a.operations[name][attempt % len(a.operations[name])], a.largest)
            if chain.question not in seen:
                seen.add(chain.question)
                chains.append(chain)
            if len(chains) == size:
                break
        else:
            raise KitError(f"{config.file}: arithmetic: there are not {size} different problems for {name}; "
                           "ask for fewer, for more operations, or a larger `largest`")
        core = [len(shortest(c).split()) + 1 for c in chains]  # the end token counts
        rows = [Problem(f"{name}-{i}", c.question, str(c.answer), n) for i, (c, n) in enumerate(zip(chains, core, strict=True))]
        problems.write(run.data(name), rows)
    return sizes


# --- tokenizer and model ----------------------------------------------------------------------------------------------

CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} "
    "{% if m['role'] == 'assistant' %}<eos> {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant> <think>{% endif %}"
)
WORDS = (  # noqa: SIM905 - one string, so that it reads
    "Start with first second third fourth fifth sixth . , : ? + - * = What is the result Okay problem "
    "says start Compute Wait let me double-check Alternatively check again it But wait not Yes right "
    "Therefore answer final The Let compute That gives I had same <think> </think> \\boxed{ } Think output should be within "
    "tokens give in a box step by and your "
).split()
PIECES = r"</?\w+>|\\boxed\{|\w+(?:-\w+)*|[^\w\s]"
SPECIAL = ("<pad>", "<eos>", "<unk>", "<system>", "<user>", "<assistant>")
LIMITS = (*range(100), *range(100, 601, 10))  # the numbers there are words for


def make_tokenizer() -> Any:
    """Word-level and lossless on its own output; `<think>` and `</think>` are ordinary words, so decoding keeps them."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = dict.fromkeys([*SPECIAL, *WORDS, *map(str, LIMITS)])
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), "removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>",
        additional_special_tokens=["<system>", "<user>", "<assistant>"], padding_side="left",
        chat_template=CHAT_TEMPLATE, clean_up_tokenization_spaces=False,
    )


def make_model(a: Arithmetic, tokenizer: Any, seed: int) -> Any:
    """A small Qwen2 with random weights.

    Its initial spread suits its width (the usual 0.02 suits large models, and learns late here). The embeddings of
    numbers start as Fourier features of their values, as those of pretrained language models are found to be
    (arXiv 2406.03445): without them a model of this size spends its few minutes on learning what numbers are.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=a.hidden_size, intermediate_size=a.intermediate_size,
        num_hidden_layers=a.layers, num_attention_heads=a.heads, num_key_value_heads=a.key_value_heads,
        max_position_embeddings=a.max_length, tie_word_embeddings=True, initializer_range=0.06,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    ))
    values = torch.arange(100.0)[:, None]
    periods = torch.tensor([2.0, 4.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0])
    angles = 2 * math.pi * values / periods
    features = torch.cat([angles.sin(), angles.cos(), values / 50 - 1], dim=1)
    spread = torch.randn(features.shape[1], a.hidden_size) * 0.06 / math.sqrt(features.shape[1])
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer.convert_tokens_to_ids([str(n) for n in range(100)])] += features @ spread
    return model


def drill_batch(rng: random.Random, a: Arithmetic, tokenizer: Any) -> list[tuple[list[int], list[int]]]:
    """One batch of exercises, as (token ids, labels); only the words that can be known are learned from.

    Half of them are steps without a story, mostly spelled out; the other half is bookkeeping on made-up numbers: look up a
    step of the problem, remember a result, compare it with another. A small model is slow to find out that thinking
    consists of these skills, and how late it does hangs on the seed; exercises bring that forward.
    """
    rows = []
    for i in range(2 * a.sft_batch):
        marked = step_exercise(rng, a) if i % 2 else recall_exercise(rng, a)
        words, learned = zip(*((word, learn) for text, learn in marked for word in text.split()), strict=True)
        ids = tokenizer.convert_tokens_to_ids(words)
        rows.append((ids, [token if learn else -100 for token, learn in zip(ids, learned, strict=True)]))
    return rows


def step_exercise(rng: random.Random, a: Arithmetic) -> list[tuple[str, bool]]:
    """Ten steps without slips, as (text, whether it is learned); `drill_direct` of them at one look."""
    never, marked = dataclasses.replace(a, habits=Habits(slip_hard=0.0, slip_easy=0.0, slip_spelled=0.0)), []
    while len(marked) < 20:
        chain = draw_chain(rng, 5, a.largest)
        value = chain.start
        for name, (op, operand) in zip(ORDINALS, chain.steps, strict=False):
            text, value = work_out(rng, never, value, name, op, operand, rng.random() >= a.drill_direct)
            given = text.split()[:5]  # up to the sign that begins the result
            marked += [(" ".join(given), False), (f"{' '.join(text.split()[5:])} .", True)]
            if not 0 <= value <= a.largest:
                break
    return marked


def recall_exercise(rng: random.Random, a: Arithmetic) -> list[tuple[str, bool]]:
    """A problem, two passes over it with made-up results, and what follows from these, as (text, whether it is learned)."""
    def number() -> str:
        return str(rng.randint(0, a.largest))

    steps = [(name, rng.choice("+-*"), number()) for name in ORDINALS[: rng.randint(2, 5)]]
    marked = [(" , ".join([number(), *map(" ".join, steps)]) + " .", False)]
    before = ""
    for _ in range(2):
        result = before if before and rng.random() < 0.5 else number()
        for k, (name, op, operand) in enumerate(rng.sample(steps, len(steps)), 1):
            marked += [(f"{number()} {name}", False), (f"{op} {operand}", True)]
            marked.append((f"= {result if k == len(steps) else number()} ,", False))
        marked += [("That gives", False), (result, True)]
        if before:
            marked += [(",", False), (compared(int(result), int(before)), True), (".", False)]
            marked.append(("Yes" if before == result else "But", True))
        marked.append((".", False))
        before = result
    marked += [("Therefore , the answer is", False), (before, True)]
    for _ in range(5):
        now = then = rng.randint(0, a.largest)
        if rng.random() < 0.5:
            then = rng.choice([n for n in (now - 10, now + 10, now - 1, now + 1) if 0 <= n <= a.largest])
        had, difference = compared(now, then).split(" : ")
        marked += [(f". That gives {now} , {had} :", False), (difference, True), (".", False)]
        marked.append(("Yes" if now == then else "But", True))
    return marked


def sft_batches(config: Config, tokenizer: Any) -> Iterator[list[tuple[list[int], list[int]]]]:
    """Batches of (token ids, labels): drills and traces in turn; no question is in a held-out set.

    Half of the prompts are training prompts with a random limit that the trace ignores, as a model before pruning does;
    the others are evaluation prompts. Labels are -100 on prompts, and on the thinking of traces that are cut off.
    """
    a, run = config.arithmetic, paths.of(config)
    held_out = {p.question for name in (config.data.validation, *config.data.evaluation) for p in problems.read(run.data(name))}
    rng = random.Random(config.seed + 1)
    lengths = a.operations[config.data.train]
    drills = a.drill_steps
    while True:
        examples = []
        while len(examples) < 50 * a.sft_batch:
            chain = draw_chain(rng, rng.choice(lengths), a.largest)
            if chain.question in held_out:
                continue
            trace, value = think(rng, chain, a)
            messages = prompts.evaluation_messages(config.prompts, chain.question)
            if rng.random() < 0.5:
                messages = prompts.training_messages(config.prompts, chain.question, rng.choice(LIMITS[20:]))
            cut = rng.random() < a.habits.cut
            ending = f" </think> \\boxed{{ {value} }}"
            if cut:
                words = trace.split()
                trace = " ".join(words[: rng.randint(0, len(words))])
                ending = f" {config.prompts.text('forcing_ending')} \\boxed{{ {value} }}"
            examples.append((prompts.render(tokenizer, messages), trace, ending, cut))
        prompt, trace, ending = (tokenizer([e[i] for e in examples])["input_ids"] for i in range(3))
        rows = []
        for p, t, e, (*_, cut) in zip(prompt, trace, ending, examples, strict=True):
            e = [*e, tokenizer.eos_token_id]
            hidden = [-100] * (len(t) + 1) if cut else []  # also </think>: being cut off is not the model's doing
            rows.append((p + t + e, [-100] * len(p) + hidden + (t + e)[len(hidden) :]))
        rows.sort(key=lambda row: len(row[0]))
        batches = [rows[i : i + a.sft_batch] for i in range(0, len(rows), a.sft_batch)]
        rng.shuffle(batches)
        for batch in batches:
            if drills > 0:
                drills -= 1
                yield drill_batch(rng, a, tokenizer)
            yield batch


def orthogonalize(matrices: Sequence[Any], momenta: Sequence[Any], momentum: float = 0.95) -> None:
    """Put Muon's update in place of the gradients of `matrices`, for SGD to apply; `momenta` go on with them.

    As torch.optim.Muon (Jordan et al., 2024): Nesterov momentum, its singular values brought near 1 by five Newton-Schulz steps,
    times sqrt(rows / columns) where that is above 1. torch does it in bfloat16 and matrix by matrix, which takes a fifth of the
    training on CPUs that compute in float32; here all matrices of a shape are done together.
    """
    import torch

    shapes: dict[tuple[int, int], list[Any]] = {}
    for p, m in zip(matrices, momenta, strict=True):
        m.lerp_(p.grad, 1 - momentum)
        shapes.setdefault(tuple(p.shape), []).append((p, p.grad.lerp(m, momentum)))
    for (rows, columns), pairs in shapes.items():
        x = torch.stack([update.T if rows > columns else update for _, update in pairs])
        x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
        for _ in range(5):
            gram = x @ x.mT
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        for (p, _), update in zip(pairs, x, strict=True):
            p.grad = max(1, rows / columns) ** 0.5 * (update.T if rows > columns else update)


def train_base(config: Config) -> Any:
    """Teach the small model to think at length; saves it to results/<run>/models/base. Returns a row of losses a step.

    `drill_steps` of bare arithmetic and `sft_steps` of traces, in turn, on a cosine schedule; Muon (`orthogonalize`) for the
    hidden matrices and AdamW for the rest (about three times fewer steps than AdamW alone).
    """
    import pandas as pd
    import torch
    from torch.nn.utils import clip_grad_norm_
    from tqdm.auto import tqdm

    torch.set_num_threads(config.threads)
    a, run = config.arithmetic, paths.of(config)
    tokenizer = make_tokenizer()
    model = make_model(a, tokenizer, config.seed).train()
    hidden = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    chosen = {id(p) for p in hidden}
    momenta = [torch.zeros_like(p) for p in hidden]
    optimizers = [
        torch.optim.SGD(hidden, lr=a.sft_muon_learning_rate, weight_decay=0.01),
        torch.optim.AdamW([p for p in model.parameters() if id(p) not in chosen], lr=a.sft_learning_rate,
                          betas=(0.9, 0.98), weight_decay=0.01),
    ]
    steps = a.drill_steps + a.sft_steps
    shape = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda s: min(1, (s + 1) / 50) * (1 + math.cos(math.pi * s / steps)) / 2)
        for o in optimizers
    ]
    losses = []
    with tqdm(total=steps, desc="base model") as bar:
        for batch in sft_batches(config, tokenizer):
            width = max(len(ids) for ids, _ in batch)  # padded on the right, behind every token that counts
            ids = torch.tensor([i + [tokenizer.pad_token_id] * (width - len(i)) for i, _ in batch])
            labels = torch.tensor([y + [-100] * (width - len(y)) for _, y in batch])
            loss = model(input_ids=ids, labels=labels).loss
            loss.backward()
            clip_grad_norm_(model.parameters(), 1.0)
            orthogonalize(hidden, momenta)
            for o, s in zip(optimizers, shape, strict=True):
                o.step()
                o.zero_grad()
                s.step()
            losses.append(loss.item())
            bar.update()
            if len(losses) % 50 == 0 or len(losses) == steps:
                bar.set_postfix_str(f"loss {sum(losses[-50:]) / 50:.3f}")
                table = pd.DataFrame({"step": range(1, len(losses) + 1), "loss": losses})
                files.write_csv(run.training("base", 0) / "log.csv", table)
            if len(losses) == steps:
                break
    partial = run.base_model.with_name("base-partial")  # a half-written model never has its final name
    tokenizer.save_pretrained(partial)
    model.save_pretrained(partial)
    partial.replace(run.base_model)
    return table
