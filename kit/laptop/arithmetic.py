"""The laptop's world: its data sets, a word-level tokenizer, and a small model taught to think too long (kit.laptop.thinking)."""

import copy
import dataclasses
import itertools
import math
import random
import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from kit.data import problems, prompts
from kit.laptop.thinking import ORDINALS, Chain, compared, draw_chain, shortest, think, work_out
from kit.runs import catalog, files, paths
from kit.settings import Arithmetic, Config, Habits, KitError


def world_seed(config: Config) -> int:
    """The seed of the problems and the base model."""
    return config.seed if config.arithmetic.seed is None else config.arithmetic.seed


def make_data(config: Config) -> None:
    """Write every data set of the run into results/<run>/data; no question occurs twice."""
    a, d = config.arithmetic, config.data
    sizes = dict.fromkeys(d.evaluation, a.evaluation_problems)
    sizes |= {d.validation: a.validation_problems, d.train: a.train_problems}
    rng, seen = random.Random(world_seed(config)), set()
    for name, size in sizes.items():
        rows, operations = [], itertools.cycle(a.operations[name])
        for chain in (draw_chain(rng, next(operations), a.largest) for _ in range(100 * size)):
            if chain.question not in seen:
                seen.add(chain.question)
                core = len(shortest(chain).split()) + 1  # the end token counts
                rows.append(problems.Problem(f"{name}-{len(rows)}", chain.question, str(chain.answer), core))
            if len(rows) == size:
                break
        else:
            raise KitError(f"{config.file}: arithmetic: there are not {size} different problems for {name}; "
                           "ask for fewer, for more operations, or a larger `largest`")
        problems.write(paths.of(config).data(name), rows)


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
    """A small Qwen2 with random weights, spread as suits its width (the usual 0.02 suits large models, and learns late here).

    The embeddings of numbers start as Fourier features of their values, as those of pretrained models are found to be (arXiv
    2406.03445), else most of the training goes into what numbers are."""
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
    angles = 2 * math.pi * values / torch.tensor([2.0, 4.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0])
    features = torch.cat([angles.sin(), angles.cos(), values / 50 - 1], dim=1)
    spread = torch.randn(features.shape[1], a.hidden_size) * 0.06 / math.sqrt(features.shape[1])
    numbers = [n for n in range(100) if str(n) in tokenizer.get_vocab()]
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer.convert_tokens_to_ids(list(map(str, numbers)))] += features[numbers] @ spread
    return model


# --- what the model is taught -----------------------------------------------------------------------------------------

Row = tuple[list[int], list[int]]  # token ids and labels; a label is -100 where nothing is learned


def drill_batch(rng: random.Random, a: Arithmetic, tokenizer: Any) -> list[Row]:
    """Exercises in skills that thinking consists of, which a small model finds out late, and by luck: steps without a story, and
    bookkeeping on made-up numbers. Only the words between « and » are learned, those that can be known."""
    rows = []
    for i in range(2 * a.sft_batch):
        ids, labels = [], []
        for k, part in enumerate(re.split("[«»]", step_exercise(rng, a) if i % 2 else recall_exercise(rng, a))):
            tokens = tokenizer.convert_tokens_to_ids(part.split())
            ids += tokens
            labels += tokens if k % 2 else [-100] * len(tokens)
        rows.append((ids, labels))
    return rows


def step_exercise(rng: random.Random, a: Arithmetic) -> str:
    """Some ten steps without slips, `drill_direct` of them at one look; what comes after a step's `=` or `:` is learned."""
    never, said = dataclasses.replace(a, habits=Habits(slip_hard=0.0, slip_easy=0.0, slip_spelled=0.0)), []
    while len(said) < 10:
        chain = draw_chain(rng, 5, a.largest)
        value = chain.start
        for name, op, operand in chain.steps:
            text, value = work_out(rng, never, value, name, op, operand, rng.random() >= a.drill_direct)
            said.append(re.sub("(?<=[=:]) (.*)", r" « \1 . »", text, count=1))
    return " ".join(said)


def recall_exercise(rng: random.Random, a: Arithmetic) -> str:
    """A problem, two passes over it with made-up results, and what follows from these."""
    def number() -> str:
        return str(rng.randint(0, a.largest))

    steps = [(name, rng.choice("+-*"), number()) for name in ORDINALS[: rng.randint(2, 5)]]
    said = [" , ".join([number(), *map(" ".join, steps)]) + " ."]
    before = ""
    for _ in range(2):
        result = before if before and rng.random() < 0.5 else number()
        for k, (name, op, operand) in enumerate(rng.sample(steps, len(steps)), 1):
            said.append(f"{number()} {name} « {op} {operand} » = {result if k == len(steps) else number()} ,")
        said.append(f"That gives « {result} »")
        if before:
            said.append(f", « {compared(int(result), int(before))} » . « {'Yes' if before == result else 'But'} »")
        said.append(".")
        before = result
    said.append(f"Therefore , the answer is « {before} »")
    for _ in range(5):
        now = then = rng.randint(0, a.largest)
        if rng.random() < 0.5:
            then = rng.choice([n for n in (now - 10, now + 10, now - 1, now + 1) if 0 <= n <= a.largest])
        had, difference = compared(now, then).split(" : ")
        said.append(f". That gives {now} , {had} : « {difference} » . « {'Yes' if now == then else 'But'} »")
    return " ".join(said)


def trace_row(rng: random.Random, config: Config, chain: Chain, tokenizer: Any) -> Row:
    """A prompt and the trace that the model shall answer it with; neither prompts nor thinking that is cut off are learned. Half
    of the prompts are training prompts with a random limit, which the trace ignores; the others are evaluation prompts."""
    trace, value = think(rng, chain, config.arithmetic)
    messages = prompts.evaluation_messages(config.prompts, chain.question)
    if rng.random() < 0.5:
        messages = prompts.training_messages(config.prompts, chain.question, rng.choice(LIMITS[20:]))
    ending, cut = "</think>", rng.random() < config.arithmetic.habits.cut
    if cut:
        words = trace.split()
        trace, ending = " ".join(words[: rng.randint(0, len(words))]), config.prompts.text("forcing_ending")
    texts = [prompts.render(tokenizer, messages), trace, f" {ending} \\boxed{{ {value} }}"]
    p, t, e = tokenizer(texts)["input_ids"]
    said = [*t, *e, tokenizer.eos_token_id]
    hidden = len(t) + 1 if cut else 0  # also </think>: being cut off is not the model's doing
    return p + said, [-100] * (len(p) + hidden) + said[hidden:]


def sft_batches(config: Config, tokenizer: Any) -> Iterator[list[Row]]:
    """Batches of rows of similar length: drills and traces in turn; no question is in a held-out set."""
    a, run = config.arithmetic, paths.of(config)
    held_out = {p.question for name in (config.data.validation, *config.data.evaluation) for p in problems.read(run.data(name))}
    rng, drills = random.Random(world_seed(config) + 1), a.drill_steps
    while True:
        rows: list[Row] = []
        while len(rows) < 50 * a.sft_batch:
            chain = draw_chain(rng, rng.choice(a.operations[config.data.train]), a.largest)
            if chain.question not in held_out:
                rows.append(trace_row(rng, config, chain, tokenizer))
        rows.sort(key=lambda row: len(row[0]))
        batches = [rows[i : i + a.sft_batch] for i in range(0, len(rows), a.sft_batch)]
        rng.shuffle(batches)
        for batch in batches:
            if drills > 0:
                drills -= 1
                yield drill_batch(rng, a, tokenizer)
            yield batch


# --- training ---------------------------------------------------------------------------------------------------------


def orthogonalize(matrices: Sequence[Any], momenta: Sequence[Any], momentum: float = 0.95) -> None:
    """Put Muon's update in place of the gradients of `matrices`, for SGD to apply; `momenta` go on with them.

    As torch.optim.Muon (Jordan et al., 2024): Nesterov momentum, its singular values brought near 1 by five Newton-Schulz steps,
    times sqrt(rows / columns) where that is above 1; but in float32 and for all matrices of a shape together, as suits a CPU."""
    import torch

    shapes: dict[tuple[int, int], list[Any]] = {}
    for p, m in zip(matrices, momenta, strict=True):
        m.lerp_(p.grad, 1 - momentum)
        shapes.setdefault(tuple(p.shape), []).append((p, p.grad.lerp(m, momentum)))
    for (rows, columns), pairs in shapes.items():
        x = torch.stack([update.T if rows > columns else update for _, update in pairs])
        x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
        for _ in range(5):  # 3.4445 X + (-4.7750 G + 2.0315 G G) X, where G = X X'
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
        for (p, _), update in zip(pairs, x, strict=True):
            # In the weights' own order: fused optimizers go through the memory of both alike, whatever the strides say.
            p.grad = (max(1, rows / columns) ** 0.5 * (update.T if rows > columns else update)).contiguous()


def halves(batch: Sequence[Row]) -> list[list[Row]]:
    """A batch in two parts that take equally long, each padded to its own longest row."""
    rows = sorted(batch, key=lambda row: len(row[0]))
    k = min(range(1, len(rows)), default=1, key=lambda k: max(k * len(rows[k - 1][0]), (len(rows) - k) * len(rows[-1][0])))
    return [part for part in (rows[:k], rows[k:]) if part]


def train_base(config: Config) -> Any:
    """Teach the base model; saves it to results/<run>/models/base. Returns `teach`'s table."""
    run = paths.of(config)
    return teach(config, run.base_model, run.training("base", 0) / "log.csv")


def train_reference(config: Config) -> None:
    """The second model, of another seed and fewer steps, that reads the traces where `behavior.reference` is `trained`
    (behavior/perplexity), in results/<run>/reference; nothing where it is there, or another one is named."""
    folder, steps = paths.of(config).reference, config.behavior.reference_steps
    if config.behavior.reference == "trained" and not catalog.has_weights(folder):
        taught = {"seed": world_seed(config) + 7919, "sft_steps": steps, "drill_steps": max(1, steps // 4)}
        teach(dataclasses.replace(config, arithmetic=dataclasses.replace(config.arithmetic, **taught)), folder)


def teach(config: Config, folder: Path, log: Path | None = None) -> Any:
    """Teach a small model to think at length; saves it to `folder`. Returns a row of losses a step, which `log` gets, too.

    `drill_steps` of bare arithmetic and `sft_steps` of traces, in turn, on a cosine schedule; Muon (`orthogonalize`) for the
    hidden matrices and AdamW for the rest (about three times fewer steps than AdamW alone)."""
    import pandas as pd
    import torch
    from torch.nn.utils.rnn import pad_sequence
    from tqdm.auto import tqdm

    torch.set_num_threads(config.threads)
    a, tokenizer = config.arithmetic, make_tokenizer()
    model = make_model(a, tokenizer, world_seed(config)).train()
    hidden, rest = [], []
    for name, p in model.named_parameters():
        (hidden if p.ndim == 2 and "embed" not in name else rest).append(p)
    momenta = [torch.zeros_like(p) for p in hidden]
    optimizers = [
        torch.optim.SGD(hidden, lr=a.sft_muon_learning_rate, weight_decay=0.01, fused=True),
        torch.optim.AdamW(rest, lr=a.sft_learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
    ]
    steps, losses = a.drill_steps + a.sft_steps, []
    twin = copy.deepcopy(model)
    for p, other in zip(model.parameters(), twin.parameters(), strict=True):
        other.data = p.data  # the same weights, but gradients of its own

    def backward(own: Any, rows: list[Row], learned: int) -> float:
        # Padded on the right, behind every token that counts.
        ids, labels = (pad_sequence([torch.tensor(row[k]) for row in rows], batch_first=True, padding_value=value)
                       for k, value in enumerate((tokenizer.pad_token_id, -100)))
        loss = own(input_ids=ids, labels=labels, num_items_in_batch=learned).loss  # its share of the mean over the batch
        loss.backward()
        return loss.item()

    pool = ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(config.threads,))
    for batch in tqdm(itertools.islice(sft_batches(config, tokenizer), steps), total=steps, desc=f"{folder.name} model"):
        learned = sum(label != -100 for _, labels in batch for label in labels)
        parts = halves(batch)  # a core each
        loss = sum(pool.map(backward, (model, twin), parts, [learned] * 2))
        for p, other in zip(model.parameters(), twin.parameters(), strict=True):
            if other.grad is not None:
                p.grad += other.grad
                other.grad = None
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        list(pool.map(orthogonalize, (hidden[::2], hidden[1::2]), (momenta[::2], momenta[1::2])))
        share = min(1, (len(losses) + 1) / 50) * (1 + math.cos(math.pi * len(losses) / steps)) / 2
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = optimizer.defaults["lr"] * share
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss)
        if len(losses) % 50 == 0 or len(losses) == steps:
            table = pd.DataFrame({"step": range(1, len(losses) + 1), "loss": losses})
            if log:
                files.write_csv(log, table)
    pool.shutdown()
    partial = folder.with_name(f"{folder.name}-partial")  # a half-written model never has its final name
    tokenizer.save_pretrained(partial)
    model.save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
    return table
