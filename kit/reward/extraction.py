r"""Which answer does a response give? The readings of `kit.reward.grading`, as text; every step is linear in its length."""

from __future__ import annotations

import re

from kit.reward.answers import MAX_LENGTH

_BOX_TOKEN = re.compile(r"\\{1,2}(?:boxed|fbox)(?![a-zA-Z])\s*(\{)?|\\.|[{}]", re.DOTALL)
_NUMBER = r"\d[\d,]*(?:\.\d+)?(?:/\d+)?"
_GROUP = r"\s*(?:\d|\{(?:[^{}]|\{[^{}]{0,100}\}){0,100}\})"
_BARE_BOX = re.compile(
    rf"[-+]?(?:(?:{_NUMBER})?(?:\\[dt]?frac{_GROUP}{_GROUP}|\\sqrt(?:\[\d\])?{_GROUP}|\\pi(?![a-zA-Z]))+|{_NUMBER}"
    r"|\\[a-zA-Z]+(?:\s*\{[^{}]{0,200}\}){0,2}|[a-zA-Z](?![a-zA-Z]))"
)
_END_TOKENS = re.compile(r"(?:\s|<\|[^<>|]{1,40}\|>|<｜[^<>｜]{1,40}｜>|</s>)+\Z")
_MARKERS = re.compile(
    r"answers?\s+(?:is|are)\b|answers?\s*[:：]|答案(?:是|为)?\s*[:：]?|correct\s+(?:option|choice)\s+is\b", re.IGNORECASE
)
_DISPLAY = re.compile(r"\\\[(.*?)\\\]|\$\$(.*?)\$\$", re.DOTALL)
_HOPE = re.compile(r"\.?\s*(?:I hope (?:it|this) (?:is correct|helps)[.!]?)?\s*", re.IGNORECASE)
_LAST_NUMBER = re.compile(r"-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
_LONGEST = 400  # characters of an answer in words


def extract_answer(response: str, reading: str = "official", finished: bool | None = None) -> str:
    r"""The answer a response gives, as it is written there; "" for none. Linear in the response's length.

    >>> extract_answer(r"first \boxed{1}, then \boxed{\frac{1}{2}}"), extract_answer(r"cut \boxed{12")
    ('\\frac{1}{2}', '')
    """
    if not isinstance(response, str):
        raise TypeError(f"a response is a text, not {type(response).__name__}")
    if reading == "strict":
        _, closed, response = response.rpartition("</think>")
        if not closed or finished is False:
            return ""
    box = _last_box(response)
    if box is not None:
        return box
    if finished is False or r"\boxed" in response or r"\fbox" in response:  # a box was begun, or merely mentioned
        return ""
    _, closed, tail = response.rpartition("</think>")
    if not closed and "<think>" in tail:
        return ""
    start = tail.rfind("<answer>")
    if start >= 0:
        end = tail.find("</answer>", start)
        return _unwrapped(tail[start + 8 : end]) if end >= 0 else ""
    complete = finished is True or reading == "strict" or bool(closed)
    return _in_words(tail[-2_000:], complete)


def _last_box(text: str) -> str | None:
    """What is in the last complete box, None where there is no such box."""
    starts = [start for start in (text.rfind(r"\boxed"), text.rfind(r"\fbox")) if start >= 0]
    if not starts:
        return None
    box, end = _scan_boxes(text, max(starts))
    if box is None or text.find("}", end) >= 0:  # an earlier box may be complete, or close around this one
        first = min(start for start in (text.find(r"\boxed"), text.find(r"\fbox")) if start >= 0)
        box, _ = _scan_boxes(text, max(first - 1, 0))
    return box


def _scan_boxes(text: str, start: int) -> tuple[str | None, int]:
    """(the last complete box, where it ends) in one pass: a stack of open braces, and of nested boxes the outermost."""
    open_braces: list[int] = []  # where a box's content begins, or -1 for an ordinary brace
    complete: list[tuple[int, int]] = []
    for match in _BOX_TOKEN.finditer(text, start):
        token = match.group()
        if token == "{":
            open_braces.append(-1)
        elif token == "}":
            begin = open_braces.pop() if open_braces else -1
            inner = bool(complete) and complete[-1][0] > begin
            if begin >= 0 and not (inner and match.start() - begin > MAX_LENGTH):  # that one was merely never closed
                while complete and complete[-1][0] > begin:
                    complete.pop()
                complete.append((begin, match.start()))
        elif match.group(1):
            open_braces.append(match.end())
        elif token.lstrip("\\").startswith(("boxed", "fbox")):
            bare = _BARE_BOX.match(text, match.end())
            if bare:
                complete.append(bare.span())
    if not complete:
        return None, len(text)
    begin, end = complete[-1]
    return _unwrapped(text[begin:end]), end + 1


def _unwrapped(answer: str) -> str:
    r"""Without the box, the dollars or the asterisks around it."""
    answer = answer.strip()
    if re.fullmatch(r"(?:\\(?:text|boxed|fbox)|\\(?:[,;:!]|$)|[\s{}$~])*", answer):
        return ""
    for _ in range(8 if len(answer) <= MAX_LENGTH else 0):
        inner = answer
        for left, right in (
            (r"\boxed{", "}"),
            (r"\fbox{", "}"),
            ("$", "$"),
            (r"\(", r"\)"),
            (r"\[", r"\]"),
            ("**", "**"),
            ("`", "`"),
        ):
            if len(inner) > len(left + right) and inner.startswith(left) and inner.endswith(right):
                middle = inner[len(left) : -len(right)]
                if (right == "}" and _balanced(middle)) or (right != "}" and left not in middle):
                    inner = middle.strip()
        if inner == answer:
            break
        answer = inner
    return answer


def _balanced(text: str) -> bool:
    depth = 0
    for match in _BOX_TOKEN.finditer(text):
        token = match.group()
        depth += (token.endswith("{") and token != r"\{") - (token == "}")
        if depth < 0:
            return False
    return depth == 0


def _in_words(tail: str, complete: bool) -> str:
    """An answer given in words: behind "answer is", as all there is, or (if complete) as the last number of the last line."""
    tail = _END_TOKENS.sub("", tail).strip()
    marker = None
    for marker in _MARKERS.finditer(tail):  # noqa: B007
        pass
    if marker:
        said = tail[marker.end() :].replace("**", "").strip(" :：\n")
        lines = _DISPLAY.sub(lambda m: (m[1] or m[2] or "").strip().replace("\n", " "), said, count=1).split("\n")
        sentence = re.match(r"\s*(.*?)(?:,?\s(?:as|since|because)\s.*?)?(?:[.。!](?=\s|$)(.*))?$", lines[0], re.DOTALL)
        said, rest = sentence.group(1).strip(), (sentence.group(2) or "") + " ".join(lines[1:])
        if said and len(said) <= _LONGEST and (complete or _HOPE.fullmatch(rest.strip())):
            return _unwrapped(said)
    lines = [line for line in tail.split("\n") if re.search(r"\w", line)]
    if len(lines) == 1 and len(tail) <= _LONGEST:
        bare = _unwrapped(tail.rstrip(". "))
        if (
            bare
            and not re.search(r"(?<![\\a-zA-Z{])[a-zA-Z]{2,}", re.sub(r"\\text\{[^{}]*\}", "", bare))
            and re.search(r"\d|\\", bare)
        ):
            return bare
    if complete and lines:
        last = _LAST_NUMBER.findall(lines[-1][-_LONGEST:])
        if last:
            return last[-1].rstrip(",")
    return ""
