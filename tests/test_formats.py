"""The logs of other tools: each is known by its fields, and read with what it tells. The shapes are those of the tools' code."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from kit.chain import commands
from kit.data.problems import Problem
from kit.rollout import formats, logs
from kit.settings import KitError

ASKED, SAID = "What is 3+4?", "It is \\boxed{7}."
PROMPT = f"Solve the problem. Box the answer.\n\n{ASKED}\n"


def message(text: str, role: str = "assistant", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": text, **more}


def lm_eval(text: str = SAID, **more: Any) -> dict[str, Any]:
    return {"doc_id": 0, "doc": {"problem": ASKED, "answer": "7", "level": None}, "target": "7", "resps": [[text]],
            "arguments": {"gen_args_0": {"arg_0": PROMPT, "arg_1": {"until": ["Problem:"], "do_sample": False}}},
            "filtered_resps": ["7"], "filter": "none", "metrics": ["exact_match"], "doc_hash": "a", "prompt_hash": "b",
            "target_hash": "c", "exact_match": 1.0, **more}


def lighteval(**response: Any) -> dict[str, Any]:
    doc = {"query": PROMPT, "choices": ["7"], "gold_index": 0, "instruction": "", "images": None, "specific": None,
           "unconditioned_query": None, "original_query": None, "id": "0", "task_name": "aime24|0", "fewshot_samples": [],
           "sampling_methods": ["GENERATIVE"], "generation_size": None, "stop_sequences": [], "num_samples": 1}
    said = {"input": PROMPT, "input_tokens": [1, 2], "text": [SAID], "output_tokens": [[5, 6, 7]], "text_post_processed": None,
            "reasonings": [None], "logprobs": [], "argmax_logits_eq_gold": [], "logits": None, "unconditioned_logprobs": None,
            "truncated_tokens_count": 0, "padded_tokens_count": 0}
    return {"doc": doc, "model_response": {**said, **response}, "metric": {"pass@k:k=1": 1.0}}


def inspect(epoch: int = 1, said: Any = SAID, stop: str = "stop", **more: Any) -> dict[str, Any]:
    return {"id": 1, "epoch": epoch, "input": ASKED, "target": "7", "messages": [message(PROMPT, "user"), message(said)],
            "output": {"model": "m", "choices": [{"message": message(said, source="generate"), "stop_reason": stop}],
                       "completion": "", "usage": {"input_tokens": 30, "output_tokens": 12, "total_tokens": 42}, "time": 0.5},
            "scores": {"math": {"value": "C", "answer": "7"}}, "metadata": {}, "store": {}, "events": [], **more}


def verifiers(**more: Any) -> dict[str, Any]:
    return {"example_id": 0, "prompt": [message("Box it.", "system"), message(ASKED, "user")], "completion": [message(SAID)],
            "answer": "7", "reward": 1.0, "error": None, "timing": {"generation_ms": 5.0}, "is_completed": True,
            "is_truncated": False, "stop_condition": "max_turns_reached", "metrics": {"correct": 1.0}, "tool_defs": [],
            "token_usage": {"input_tokens": 20.0, "output_tokens": 9.0}, "correct": 1.0, **more}


def request(name: str = "r-0") -> dict[str, Any]:
    body = {"model": "m", "messages": [message(PROMPT, "user")], "max_tokens": 100, "metadata": {"answer": "7"}}
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}


def answer(*texts: str, name: str = "r-0", **more: Any) -> dict[str, Any]:
    choices = [{"index": k, "message": message(text), "finish_reason": ("stop", "length")[k % 2]} for k, text in enumerate(texts)]
    body = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices[::-1],
            "usage": {"prompt_tokens": 20, "completion_tokens": 8, "total_tokens": 28}}
    response = {"status_code": 200, "request_id": "q", "body": body}
    return {"id": "vllm-1", "custom_id": name, "response": response, "error": None, **more}


def verl(**more: Any) -> dict[str, Any]:
    asked = f"<|im_start|>system\nBox it.<|im_end|>\n<|im_start|>user\n{ASKED}<|im_end|>\n<|im_start|>assistant\n"
    return {"input": asked, "output": SAID, "gts": "7", "score": 1.0, "step": 20, "acc": True, **more}


QWEN = {"idx": 0, "question": ASKED, "gt_cot": "", "gt": "7", "answer": "8", "code": [SAID], "pred": ["7"], "report": [None],
        "score": [True]}


def lines(folder: Path, *rows: Any, name: str = "log.jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / name


@pytest.mark.parametrize(("row", "question", "length", "finished"), [
    (lm_eval(), ASKED, None, None), (lighteval(), PROMPT, 3, None), (inspect(), ASKED, 12, True), (verl(), ASKED, None, None),
    (inspect(stop="max_tokens"), ASKED, 12, False), (inspect(stop="unknown"), ASKED, 12, None), (verifiers(), ASKED, 9, True),
    (verifiers(is_truncated=True), ASKED, 9, False), (verifiers(prompt=PROMPT, completion=SAID), PROMPT, 9, True),
    (QWEN, ASKED, None, None),
])
def test_a_row_of_each_tool_is_known_by_its_fields_and_read_with_what_it_tells(
    tmp_path: Path, row: dict[str, Any], question: str, length: int | None, finished: bool | None
) -> None:
    (got,) = logs.read(lines(tmp_path, row))
    assert (got.question, got.answer, got.model_answer) == (question, "7", [SAID])
    assert (got.model_answer_length, got.finished) == ([length], [finished])


def test_the_output_of_a_batch_finds_its_questions_in_the_requests_beside_it(tmp_path: Path) -> None:
    output = lines(tmp_path, answer(SAID), name="output.jsonl")
    with pytest.raises(KitError, match="output.jsonl row 1: no request has the `custom_id` 'r-0'; put the file of requests"):
        logs.read(output)
    lines(tmp_path, request(), name="requests.jsonl")
    (got,) = logs.read(tmp_path)
    assert (got.question, got.answer, got.model_answer_length, got.finished) == (PROMPT, "7", [8], [True])
    lines(tmp_path, answer(SAID, "hm"), name="output.jsonl")  # two choices, told in any order, with one count for both
    (got,) = logs.read(tmp_path)
    assert (got.model_answer, got.model_answer_length, got.finished) == ([SAID, "hm"], [None, None], [True, False])


@pytest.mark.parametrize("row", [
    inspect(error={"message": "timed\nout"}, output={"model": "", "choices": [], "completion": "", "error": None}),
    verifiers(completion=None, error={"error": "timed out"}), answer(error={"message": "timed out"}),
    answer(response=None, error="timed out"),
], ids=["Inspect", "verifiers", "a batch", "a batch without a response"])
def test_a_request_that_failed_is_not_left_out_unseen(tmp_path: Path, row: dict[str, Any]) -> None:
    lines(tmp_path, request(), name="a.jsonl")
    lines(tmp_path, row, name="log.jsonl")
    with pytest.raises(KitError, match=r"^log.jsonl row 1: it has no response \(.*timed.*out.*\); ask for it again, or take"):
        logs.read(tmp_path)


@pytest.mark.parametrize("rows", [
    [inspect(1), inspect(2, "hm"), inspect(3, "hm")],
    [verifiers(), verifiers(completion=[message("hm")]), verifiers(completion=[message("hm")])],
    [verl(), verl(output="hm"), verl(output="hm")],
    [lm_eval(resps=[[SAID, "hm", "hm"]])],
    [lighteval(text=[SAID, "hm", "hm"], output_tokens=[[1], [2], [3]], reasonings=[])],
    [request("a"), request("b"), request("c"), answer(SAID, name="a"), answer("hm", name="c"), answer("hm", name="b")],
    [QWEN | {"code": [SAID, "hm", "hm"]}],
], ids=["Inspect", "verifiers", "verl", "lm-evaluation-harness", "lighteval", "a batch", "Qwen2.5-Math"])
def test_samples_in_rows_of_their_own_or_in_lists_all_count_and_equal_ones_are_several(tmp_path: Path, rows: list) -> None:
    (got,) = logs.read(lines(tmp_path, *rows))
    assert got.model_answer == [SAID, "hm", "hm"]


def test_each_filter_of_a_task_writes_its_problems_again_and_they_count_once(tmp_path: Path) -> None:
    (got,) = logs.read(lines(tmp_path, lm_eval(filter="strict-match"), lm_eval(filter="flexible-extract", exact_match=0.0)))
    assert got.model_answer == [SAID]


@pytest.mark.parametrize("row", [
    inspect(said=[{"type": "reasoning", "reasoning": "3, 4"}, {"type": "text", "text": SAID}]),
    verifiers(completion=[message(SAID, reasoning_content="3, 4")]), lighteval(reasonings=["3, 4"]),
], ids=["Inspect", "verifiers", "lighteval"])
def test_reasoning_that_is_kept_apart_stands_before_the_answer_again(tmp_path: Path, row: dict[str, Any]) -> None:
    assert logs.read(lines(tmp_path, row))[0].model_answer == [f"<think>3, 4</think>{SAID}"]


def test_files_as_editors_and_tools_leave_them(tmp_path: Path) -> None:
    """A byte order mark, CRLF and empty lines; parquet; a list of lists with a gap in its lengths, as pandas writes it."""
    (tmp_path / "dos.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(lm_eval()).encode() + b"\r\n\r\n")
    assert logs.read(tmp_path / "dos.jsonl")[0].model_answer == [SAID]
    details = tmp_path / "details_aime24|0_2026-11-01T00-00-00.parquet"
    pd.DataFrame([lighteval()]).to_parquet(details)
    assert logs.read(details)[0].model_answer_length == [3]
    nested = {"question": ASKED, "answer": ["7", "8"], "model_answer": [[SAID], ["hm"]], "model_answer_length": [4.0, None]}
    (got,) = logs.read(lines(tmp_path, nested))
    assert (got.answer, got.model_answer, got.model_answer_length) == ("7", [SAID, "hm"], [4, None])


@pytest.mark.parametrize("packed", ["json", "deflate", "zstd"])
def test_the_files_of_inspect_are_read(tmp_path: Path, packed: str) -> None:
    samples = [inspect(1), inspect(2, "hm")]
    if packed == "json":
        path = tmp_path / "log.json"
        path.write_text(json.dumps({"version": 2, "status": "success", "eval": {"task": "aime"}, "samples": samples}, indent=2))
    else:
        path = tmp_path / "log.eval"
        zstd(path, samples) if packed == "zstd" else deflated(path, samples)
    (got,) = logs.read(path)
    assert got.model_answer == [SAID, "hm"] and got.model_answer_length == [12, 12]


def deflated(path: Path, samples: list[dict[str, Any]]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("_journal/start.json", "{}")
        for sample in samples:
            archive.writestr(f"samples/{sample['id']}_epoch_{sample['epoch']}.json", json.dumps(sample))
        archive.writestr("header.json", "{}")


def zstd(path: Path, samples: list[dict[str, Any]]) -> None:
    """As newer versions write it: the method 93 in the zip's tables, which Python's zipfile can neither write nor read."""
    import pyarrow

    with zipfile.ZipFile(path, "w") as archive:
        for sample in samples:
            text = json.dumps(sample).encode()
            packed = pyarrow.Codec("zstd").compress(text, asbytes=True)
            archive.writestr(f"samples/{sample['id']}_epoch_{sample['epoch']}.json", packed)
        for entry in archive.infolist():
            entry.compress_type = formats.ZSTD
            entry.CRC = 1  # of what was packed, which nobody has computed here


def test_what_is_no_log_is_told_in_a_line_with_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(KitError) as caught:
        logs.read(lines(tmp_path, lm_eval(), {"prompt": "q", "text\n": "a"}))
    told = str(caught.value)
    assert told.startswith("log.jsonl row 2: no log that the kit knows; looked for model_answer (the official format); doc, ")
    assert told.endswith("there are 'prompt', 'text\\n'") and "\n" not in told
    with pytest.raises(KitError, match=r"row 1: by its fields Inspect's, but not as it writes them \('choices'\)"):
        logs.read(lines(tmp_path, inspect(output={})))
    (tmp_path / "torn.eval").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(KitError, match="torn.eval: not readable as a log of Inspect"):
        logs.read(tmp_path / "torn.eval")


def test_a_prompt_with_the_question_in_it_is_matched_and_a_missing_answer_is_the_data_sets(tmp_path: Path) -> None:
    known = [Problem("a1", ASKED, "7", None), Problem("a2", "3+4?", "8", None)]
    rows = [verl(input=f"Box it. {ASKED}", gts=None), verl(input="Box it: 3+4?", gts=None)]
    with pytest.raises(KitError, match="row 1: no `answer`"):
        logs.read(lines(tmp_path, *rows))
    found = logs.matched(logs.read(tmp_path / "log.jsonl", golds=False), known, "mine", "the data set")
    assert [(r.id, r.question, r.answer) for r in found] == [("a1", f"Box it. {ASKED}", "7"), ("a2", "Box it: 3+4?", "8")]
    twice = logs.read(lines(tmp_path, *rows, verl(input=ASKED)), golds=False)
    with pytest.raises(KitError, match=r"mine: of the problems 1 of its log are not in the data set, such as 'What is 3\+4\?'"):
        logs.matched(twice, known, "mine", "the data set")


def test_inspects_own_logs_are_read(tmp_path: Path) -> None:
    """Written by the tool itself, where it is installed."""
    log = pytest.importorskip("inspect_ai.log")
    model = pytest.importorskip("inspect_ai.model")
    long = "wait, " * 400 + SAID
    samples = [log.EvalSample(id="x", epoch=k, input=ASKED, target="7", output=model.ModelOutput(
        model="m", choices=[model.ChatCompletionChoice(message=model.ChatMessageAssistant(content=text), stop_reason="stop")],
        usage=model.ModelUsage(output_tokens=5))) for k, text in enumerate((SAID, long), 1)]
    whole = log.EvalLog(eval=log.EvalSpec(created="2026-11-01T00:00:00+00:00", task="t", model="m", dataset=log.EvalDataset(),
                                          config=log.EvalConfig()), samples=samples)
    for name in ("log.eval", "log.json"):
        log.write_eval_log(whole, str(tmp_path / name))
        (got,) = logs.read(tmp_path / name)
        assert (got.question, got.answer, got.model_answer, got.model_answer_length) == (ASKED, "7", [SAID, long], [5, 5])


def test_the_command_measures_any_log_and_writes_it_in_the_official_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = lines(tmp_path, inspect(1), inspect(2, "hm"), inspect(1, input="And 4+3?", id=2))
    assert commands.main(["logs", str(path), "--official", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith("log.jsonl: 3 responses to 2 problems; accuracy 75.0 % [")
    assert logs.read(tmp_path / "out" / "log") == logs.read(path)
    assert commands.main(["logs", str(tmp_path / "none.jsonl")]) == 1
    assert "error: " in capsys.readouterr().err
