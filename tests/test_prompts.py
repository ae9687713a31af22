"""Prompts: the official wordings, and what chat templates and tokenizers do to them in silence."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import families
import pytest

from kit.data import prompts
from kit.evaluation import forcing
from kit.rollout import models
from kit.runs import manifest
from kit.settings import ROOT, Config, KitError, load

QUESTION = "What is $1+2$?"
SYSTEM = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant first "
    "thinks about the reasoning process in the mind and then provides the user with the answer. The reasoning process and "
    "answer are enclosed within <think></think> and <answer></answer> tags, respectively, i.e., <think> reasoning process "
    "here</think><answer> answer here</answer>. The output of the assistant should be within 4000 tokens."
)
OUTPUT = QUESTION + " Let's think step by step and output the final answer within \\boxed{}."
PUT = QUESTION + " Please reason step by step, and put your final answer within \\boxed{}."
DEEPSEEK, QWQ = load("params/ds-1.5b-4k.yaml"), load("params/qwq-32b-4k.yaml")
BOS = "<｜begin▁of▁sentence｜>"


def tokenizer(family: str, **changes: Any) -> Any:
    made = families.make_tokenizer(family, [SYSTEM, OUTPUT, PUT])
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def saved(made: Any, folder: Path, **settings: Any) -> Path:
    """A tokenizer as a model's folder has it, with a config.json that says qwen2."""
    from transformers import Qwen2Config

    made.save_pretrained(folder)
    Qwen2Config().save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    return folder


def test_the_deepseek_family_is_trained_and_evaluated_in_the_official_words() -> None:
    tok, words = tokenizer("deepseek"), DEEPSEEK.prompts
    trained = prompts.render(tok, prompts.training_messages(words, QUESTION, 4000))
    assert trained == f"{BOS}{SYSTEM}<｜User｜>{OUTPUT}<｜Assistant｜><think>\n"
    assert prompts.render(tok, prompts.evaluation_messages(words, QUESTION)) == f"{BOS}<｜User｜>{PUT}<｜Assistant｜><think>\n"
    forced = prompts.render(tok, prompts.evaluation_messages(words, QUESTION, "forcing_user"))
    assert forced == f"{BOS}<｜User｜>{OUTPUT}<｜Assistant｜><think>\n"
    assert words.text("forcing_ending") == "\n</think>\n\n**Final Answer:**\n\n"


def test_qwq_swaps_training_and_evaluation_but_is_forced_in_the_deepseek_words() -> None:
    tok, words = tokenizer("qwq"), QWQ.prompts
    turn, end = "<|im_start|>{}\n{}<|im_end|>\n", "<|im_start|>assistant\n<think>\n"
    trained = prompts.render(tok, prompts.training_messages(words, QUESTION, 4000))
    assert trained == turn.format("system", SYSTEM) + turn.format("user", PUT) + end
    assert prompts.render(tok, prompts.evaluation_messages(words, QUESTION)) == turn.format("user", OUTPUT) + end
    assert prompts.render(tok, prompts.evaluation_messages(words, QUESTION, "forcing_user")) == turn.format("user", OUTPUT) + end
    assert words.text("forcing_ending") == "\n</think>\n\nThe final answer is"


def test_a_wording_is_chosen_by_its_name_or_written_out() -> None:
    words = dataclasses.replace(DEEPSEEK.prompts, evaluation_user="output-within", train_user="{question} Be brief.")
    assert prompts.evaluation_messages(words, QUESTION) == [{"role": "user", "content": OUTPUT}]
    assert prompts.training_messages(words, QUESTION, None) == [
        {"role": "system", "content": SYSTEM.removesuffix(" The output of the assistant should be within 4000 tokens.")},
        {"role": "user", "content": QUESTION + " Be brief."},
    ]


@pytest.mark.parametrize(("family", "settings"), [("deepseek", DEEPSEEK), ("qwq", QWQ)])
def test_a_prompt_is_encoded_as_it_is_rendered_with_one_bos_and_whole_tags(family: str, settings: Config) -> None:
    tok = tokenizer(family)
    messages = prompts.training_messages(settings.prompts, QUESTION, 4000)
    ids, text = prompts.encode(tok, messages), prompts.render(tok, messages)
    assert tok.decode(ids) == text
    assert ids.count(tok.convert_tokens_to_ids("<think>")) == text.count("<think>") == 3
    assert ids == tok.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]  # what TRL calls
    if family == "deepseek":
        assert ids.count(tok.bos_token_id) == 1
        assert tok(text)["input_ids"][:2] == [tok.bos_token_id] * 2  # the trap that `tokenize` avoids


def test_a_template_that_says_bos_twice_is_refused() -> None:
    tok = tokenizer("deepseek")
    tok.chat_template = "{{ bos_token }}" + tok.chat_template
    with pytest.raises(KitError, match=f"begins with {BOS} twice"):
        prompts.encode(tok, prompts.evaluation_messages(DEEPSEEK.prompts, QUESTION))


def test_a_template_that_does_not_open_the_assistants_turn_is_refused() -> None:
    """Every response would begin with the role, or go on with the question."""
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    tok = tokenizer("qwq", chat_template=template)
    with pytest.raises(KitError, match="does not open the assistant's turn"):
        prompts.render(tok, prompts.evaluation_messages(QWQ.prompts, QUESTION))


def test_template_arguments_reach_the_template(tmp_path: Path) -> None:
    made = tokenizer("qwq")
    made.chat_template = made.chat_template.replace("<think>\n", "{% if not thinks %}<think>\n\n</think>{% endif %}")
    folder = saved(made, tmp_path)
    for thinks in (True, False):
        config = dataclasses.replace(QWQ, prompts=dataclasses.replace(QWQ.prompts, template_arguments={"thinks": thinks}))
        text = prompts.render(models.load_tokenizer(folder, config), prompts.evaluation_messages(QWQ.prompts, QUESTION))
        assert text.endswith("assistant\n") is thinks and ("</think>" in text) is not thinks


def test_a_character_that_the_tokenizer_lacks_is_named_but_not_one_that_it_writes_itself() -> None:
    """One family's unknown token is its beginning token, too: standing in the template it is no unknown character."""
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(BPE({letter: i for i, letter in enumerate(["<s>", *"abc ?"])}, [], unk_token="<s>"))
    core.add_special_tokens([AddedToken("<s>", special=True)])
    tok = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="<s>", unk_token="<s>")
    assert len(prompts.tokenize(tok, "<s>a b?")) == 5
    with pytest.raises(KitError, match="no token for Ω in the prompt: <s>a Ω"):
        prompts.tokenize(tok, "<s>a Ω?")


DROPS = "{% for m in messages %}{% if m.role != 'system' %}<｜User｜>{{ m.content }}{% endif %}{% endfor %}<｜Assistant｜>"
REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + DROPS


@pytest.mark.parametrize(("template", "message"), [
    (DROPS, "leaves out (part of) the system message"), (REFUSES, "refuses the messages (no system role)"),
], ids=["drops it", "refuses it"])
def test_a_system_message_is_never_lost_in_silence(template: str, message: str) -> None:
    tok = tokenizer("deepseek", chat_template=template)
    with pytest.raises(KitError) as caught:
        prompts.render(tok, prompts.training_messages(DEEPSEEK.prompts, QUESTION, 4000))
    assert message in str(caught.value) and "system_role: user" in str(caught.value) and "\n" not in str(caught.value)
    words = dataclasses.replace(DEEPSEEK.prompts, system_role="user")  # the remedy it names
    text = prompts.render(tok, prompts.training_messages(words, QUESTION, 4000))
    assert text == f"<｜User｜>{SYSTEM}\n\n{OUTPUT}<｜Assistant｜>"


def test_a_model_without_a_chat_template_is_told_so() -> None:
    with pytest.raises(KitError, match=r"the model has no chat template \(a base model\?\); put a chat_template.jinja"):
        prompts.render(tokenizer("deepseek", chat_template=None), [{"role": "user", "content": QUESTION}])


@pytest.mark.parametrize("family", ["deepseek", "qwq"])
def test_thinking_put_through_a_template_that_eats_it_is_refused_and_kept_on_token_ids(family: str) -> None:
    tok = tokenizer(family)
    forced = prompts.evaluation_messages(DEEPSEEK.prompts, QUESTION, "forcing_user")
    with pytest.raises(KitError, match=r"leaves out \(part of\) the assistant message"):
        prompts.render(tok, [*forced, {"role": "assistant", "content": "<think>\nOkay, 3.\n</think>\n\nIt is 3."}])
    words = (DEEPSEEK if family == "deepseek" else QWQ).prompts
    ending = forcing.stopped([], 0, tok, words.text("forcing_ending"))
    ids = [*prompts.encode(tok, forced), *prompts.tokenize(tok, "Okay, 3."), *ending]
    assert tok.decode(ids).endswith("<think>\nOkay, 3." + words.text("forcing_ending"))
    assert ending[1] == tok.convert_tokens_to_ids("</think>") and tok.bos_token_id not in ending
    broken = prompts.tokenize(tok, "Okay, 3.\n")
    assert forcing.stopped(broken, 99, tok, words.text("forcing_ending")) == [*broken, *ending[1:]]  # no second line break


def test_deepseeks_own_template_as_trl_ships_it_gives_the_same_prompts() -> None:
    import trl

    tok = tokenizer("deepseek")
    words = DEEPSEEK.prompts
    messages = [prompts.training_messages(words, QUESTION, 4000), prompts.evaluation_messages(words, QUESTION)]
    ours = [prompts.encode(tok, m) for m in messages]
    tok.chat_template = (Path(trl.__file__).parent / "chat_templates" / "deepseek_r1_distill.jinja").read_text("utf-8")
    assert [prompts.encode(tok, m) for m in messages] == ours


def test_decoding_keeps_thinking_tags_that_the_tokenizer_calls_special(tmp_path: Path) -> None:
    made = tokenizer("deepseek")
    made.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    folder = saved(made, tmp_path / "a")
    ids = prompts.tokenize(made, f"{BOS}<think>\nhm\n</think>\n\n3<｜end▁of▁sentence｜>")
    assert made.decode(ids, skip_special_tokens=True) == "\nhm\n\n\n3"  # the trap: nothing ends the thinking any more
    loaded = models.load_tokenizer(folder, DEEPSEEK)
    assert loaded.decode(ids, skip_special_tokens=True) == "<think>\nhm\n</think>\n\n3"
    loaded.save_pretrained(tmp_path / "b")
    again = models.load_tokenizer(tmp_path / "b", DEEPSEEK)
    assert again.decode(ids, skip_special_tokens=True) == "<think>\nhm\n</think>\n\n3"


def test_the_rules_of_tokenizer_json_are_not_replaced_by_those_of_the_model_type(tmp_path: Path) -> None:
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    made = tokenizer("deepseek")
    made.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    folder = saved(made, tmp_path / "a", tokenizer_class="LlamaTokenizerFast")  # as the real DeepSeek distillations say
    expected = prompts.tokenize(made, OUTPUT)
    assert AutoTokenizer.from_pretrained(folder)(OUTPUT, add_special_tokens=False)["input_ids"] != expected  # the trap
    assert prompts.tokenize(models.load_tokenizer(folder, DEEPSEEK), OUTPUT) == expected


def test_a_folder_without_a_tokenizer_and_a_hub_id_that_is_not_here_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{}")
    for source in (tmp_path, "nobody/no-such-model"):
        with pytest.raises(KitError, match="its tokenizer cannot be loaded") as caught:
            models.load_tokenizer(source, DEEPSEEK)
        assert "\n" not in str(caught.value)


def test_one_prompt_of_each_stage_is_shown_and_goes_into_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIT_RESULTS", str(tmp_path))
    tok = models.load_tokenizer(saved(tokenizer("deepseek"), tmp_path / "model"), DEEPSEEK)
    shown = prompts.examples(DEEPSEEK, tok, QUESTION)
    manifest.write_manifest(DEEPSEEK, shown)
    kept = json.loads((tmp_path / "ds-1.5b" / "manifest.json").read_text())["prompts"]
    assert list(kept) == ["training", "evaluation", "budget forcing"]
    assert "within 4000 tokens." in kept["training"] and "tokens." not in kept["evaluation"]
    assert kept["budget forcing"].endswith("<think>\n[thinking, stopped at the budget]\n</think>\n\n**Final Answer:**\n\n")


def test_the_laptops_words_for_budget_forcing_are_in_its_vocabulary() -> None:
    from kit.laptop import arithmetic

    laptop, tok = load("params/laptop.yaml"), arithmetic.make_tokenizer()
    assert tok.decode(forcing.stopped([], 0, tok, laptop.prompts.text("forcing_ending"))) == "</think> The final answer is"
    question = "Start with 1 , first + 2 . What is the result ?"
    assert prompts.encode(tok, prompts.evaluation_messages(laptop.prompts, question, "forcing_user"))
    with pytest.raises(KitError, match="no token for Answer"):
        forcing.stopped([], 0, tok, "</think> Answer")


def test_trl_trains_on_the_very_ids_that_we_encode(tmp_path: Path) -> None:
    from datasets import Dataset
    from transformers import Qwen2Config, Qwen2ForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    for family, settings in (("deepseek", DEEPSEEK), ("qwq", QWQ)):
        tok = tokenizer(family)
        model = Qwen2ForCausalLM(Qwen2Config(
            vocab_size=len(tok), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id, bos_token_id=tok.bos_token_id,
        ))
        rows = [prompts.training_messages(settings.prompts, question, 4000) for question in (QUESTION, "Why?")]
        trainer = GRPOTrainer(
            model=model, processing_class=tok, train_dataset=Dataset.from_list([{"prompt": m} for m in rows]),
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=GRPOConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, bf16=False, per_device_train_batch_size=2,
                            num_generations=2, max_completion_length=4),
        )
        ids, *_ = trainer._tokenize_prompts(rows)
        assert ids == [prompts.encode(tok, m) for m in rows]


def test_every_wording_of_the_shared_file_is_used_and_has_a_source() -> None:
    text = (ROOT / "params" / "shared" / "prompts.yaml").read_text()
    used = {value for c in (DEEPSEEK, QWQ) for value in dataclasses.asdict(c.prompts).values() if isinstance(value, str)}
    lines = text.splitlines()
    for name in DEEPSEEK.prompts.wordings:
        assert name in used
        row = next(i for i, line in enumerate(lines) if line.strip().startswith(f"{name}:"))
        assert lines[row - 1].strip().startswith("#")
