"""Generation logs of other tools, row by row in the official format (rollout/logs). Whose a log is, the fields of its rows tell.

`TOOLS` lists them. What a tool writes about a response beside its text is taken over where it is the kit's too: its length in
tokens, and whether it ended by itself. Reasoning that a tool keeps apart is put before the answer again, in <think> tags. A row
whose request failed is refused: left out, or counted as wrong, it would change the accuracy unseen.
"""

import itertools
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from kit.data import sources
from kit.runs import files
from kit.settings import KitError

Row = dict[str, Any]
_REQUEST = {"custom_id", "body"}  # the fields of a batch's requests
ZSTD = 93  # what a zip calls this compression; Python reads it since 3.14
_USER = re.compile(r"(?:<\|im_start\|>user\n|<｜User｜>)(.*?)(?:<\|im_end\|>|<｜Assistant｜>)", re.DOTALL)
_ENDS = {"stop": True, "length": False, "max_tokens": False, "model_length": False}


def rows(paths: Iterable[Path]) -> Iterator[tuple[Path, int, Any]]:
    """(file, number from 1, row) of these files of one log; a row of a batch gets the request that it answers, as `request`.
    KitError names the file, and the row that cannot be read."""
    found = [(path, number, row) for path in paths for number, row in _rows(path)]
    asked = {str(row["custom_id"]): row["body"] for *_, row in found if isinstance(row, dict) and row.keys() >= _REQUEST}
    for path, number, row in found:
        if not isinstance(row, dict) or "custom_id" not in row:
            yield path, number, row
        elif "body" not in row:
            yield path, number, {**row, "request": asked.get(str(row["custom_id"]))}


def _rows(path: Path) -> sources.Rows:
    """JSON lines, a JSON list, CSV and parquet as for data sets; Inspect's .json, one object, and .eval."""
    if path.suffix == ".eval":
        return enumerate(_zipped(path), 1)
    if path.suffix == ".json":
        with suppress(ValueError, RecursionError):
            whole = json.loads(path.read_bytes())
            if isinstance(whole, dict) and "samples" in whole and isinstance(whole["samples"] or [], list):
                return enumerate(whole["samples"] or [], 1)
    return sources.read_local(path, "") if path.name.endswith(sources.SUFFIXES) else sources.json_lines(path)


def _zipped(path: Path) -> Iterator[Any]:
    """The samples of an .eval file, a zip with samples/<id>_epoch_<k>.json in it; of one that was logged again the last."""
    import pyarrow

    try:
        with zipfile.ZipFile(path) as archive:
            for name, entry in {entry.filename: entry for entry in archive.infolist()}.items():
                if not re.fullmatch(r"samples/.*\.json", name, re.DOTALL):
                    continue
                if zstd := entry.compress_type == ZSTD:  # taken out as it lies there
                    entry.compress_type, entry.file_size, entry.CRC = zipfile.ZIP_STORED, entry.compress_size, None
                with archive.open(entry) as packed:
                    yield json.loads(pyarrow.CompressedInputStream(packed, "zstd").read() if zstd else packed.read())
    except (OSError, ValueError, RecursionError, zipfile.BadZipFile, NotImplementedError, zlib.error) as error:
        raise KitError(f"{path.name}: not readable as a log of Inspect ({files.first_line(error)})") from None


def lm_eval(row: Row) -> Row:
    """`--log_samples`: the problem's own fields in `doc`; `resps` has a list of samples for each request. Every filter of a task
    writes its problems again, with the same responses."""
    told = {key: value for key, value in row["doc"].items() if value is not None}
    return {"answer": row["target"], **told, "model_answer": row["resps"]}


def verl(row: Row) -> Row:
    """`trainer.rollout_data_dir`: a line per response; `input` is the rendered prompt."""
    asked = _USER.findall(row["input"]) or [row["input"]]
    return {"question": asked[-1], "answer": row.get("gts"), "model_answer": row["output"]}


def lighteval(row: Row) -> Row:
    """`--save-details`: a row per problem; `query` is the prompt, the gold answers are `choices` by `gold_index`."""
    doc, said = row["doc"], row["model_response"]
    gold, pairs = doc["gold_index"], itertools.zip_longest(said["text"], said.get("reasonings") or [])
    return _row(doc.get("original_query") or doc["query"], doc["choices"][gold[0] if isinstance(gold, list) else gold],
                [_said({"content": text, "reasoning": thought}) for text, thought in pairs],
                [len(ids) for ids in said.get("output_tokens") or []])


def inspect(row: Row) -> Row:
    """Inspect: a sample per problem and epoch."""
    output = row["output"]
    choices, usage = output["choices"], output.get("usage") or {}
    return _row(row["input"], row["target"], [_said(c["message"]) for c in choices], [usage.get("output_tokens") or None],
                [_ENDS.get(c["stop_reason"]) for c in choices], row.get("error") or output.get("error"))


def verifiers(row: Row) -> Row:
    """`results.jsonl`: a line per response; prompt and completion are texts or messages, the model's of which count."""
    said, truncated, usage = row["completion"], row.get("is_truncated"), row.get("token_usage") or {}
    text = said if isinstance(said, str) else "\n\n".join(_said(m) for m in said or [] if m["role"] == "assistant")
    return _row(row["prompt"], row.get("answer"), [text] if said else [], [usage.get("output_tokens") or None],
                [None if truncated is None else not truncated], row.get("error"))


def batch(row: Row) -> Row:
    """Output of `vllm run-batch` and of OpenAI's batches; the questions are in the file of requests, which lies beside it."""
    asked, body = row["request"], (row["response"] or {}).get("body") or {}
    if not asked:
        raise ValueError(f"no request has the `custom_id` {row['custom_id']!r:.80}; put the file of requests, which has the "
                         "questions, into a folder with this one, and name the folder")
    choices = sorted(body.get("choices") or [], key=lambda c: c["index"])
    return _row(asked.get("messages") or asked["prompt"], (asked.get("metadata") or {}).get("answer"),
                [_said(c["message"]) if "message" in c else c["text"] for c in choices],
                [(body.get("usage") or {}).get("completion_tokens")], [_ENDS.get(c["finish_reason"]) for c in choices],
                row.get("error") or body.get("error"))


# The fields that a tool's rows are known by, the first that fits, and its reader. `code` of Qwen2.5-Math are responses.
TOOLS: dict[str, tuple[tuple[str, ...], Callable[[Row], Row]]] = {
    "the official format": (("model_answer",), dict), "lm-evaluation-harness": (("doc", "resps"), lm_eval),
    "lighteval": (("doc", "model_response"), lighteval), "Inspect": (("input", "target", "output"), inspect),
    "verl": (("input", "output"), verl), "verifiers": (("prompt", "completion"), verifiers),
    "a batch of vLLM or OpenAI": (("custom_id", "response"), batch),
    "Qwen2.5-Math": (("code", "gt"), lambda row: {**row, "answer": row["gt"], "model_answer": row["code"]}),
}


def as_official(row: Any) -> Row:
    """A row of any of `TOOLS` in the official format; ValueError says what is wrong with it."""
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    for tool, (fields, read) in TOOLS.items():
        if row.keys() >= set(fields):
            try:
                return read(row)
            except (KeyError, TypeError, AttributeError, IndexError) as error:
                raise ValueError(f"by its fields {tool}'s, but not as it writes them ({files.first_line(error)})") from None
    sought = "; ".join(f"{', '.join(fields)} ({tool})" for tool, (fields, _) in TOOLS.items())
    raise ValueError(f"no log that the kit knows; looked for {sought}; there are {', '.join(map(repr, row))[:200] or 'none'}")


def _row(
    question: Any, answer: Any, texts: list[str], lengths: list[Any], finished: Sequence[bool | None] = (), error: Any = None
) -> Row:
    """Several responses in lists, one without; lengths that are not one for each are unknown."""
    if not texts:
        why = " ".join(str(error or "nothing says why").split())[:200]
        raise ValueError(f"it has no response ({why}); ask for it again, or take the row out")
    if isinstance(question, list):
        question = [{"role": m["role"], "content": _said(m)} for m in question]
    parts = {"model_answer": texts, "model_answer_length": lengths, "finished": list(finished)}
    one = len(texts) == 1
    told = {key: values[0] if one else values for key, values in parts.items() if len(values) == len(texts)}
    return {"question": question, "answer": answer, **told}


def _said(message: Any) -> str:
    """The text of a chat message, whose content is a text or parts; its reasoning first."""
    content, thought = message.get("content"), message.get("reasoning_content") or message.get("reasoning")
    parts = content if isinstance(content, list) else [{"text": content}]
    parts = [{"reasoning": thought}, *parts] if thought else parts
    return "".join(f"<think>{p['reasoning']}</think>" if p.get("reasoning") else p.get("text") or "" for p in parts)
