r"""Answers: where a response states one, how it is spelled, and whether two of them are the same.

`extract_answer` finds the answer as text; `tidy` gives the many spellings of LaTeX one form. `same` compares by shape (words,
lists, brackets, names, units) and by exact numbers; the expressions that are left go to math-verify, in a worker process.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any

MAX_LENGTH = 2_000  # characters; no benchmark's gold is longer than 300, and a parser is not fed a megabyte
MAX_DEPTH = 40  # nested brackets

# ---------------------------------------------------------------- where the answer stands

_BOX = re.compile(r"\\{1,2}(?:boxed|fbox)(?![a-zA-Z])\s*(\{)?|\\.|[{}]", re.DOTALL)
_DIGITS = r"\d[\d,]*(?:\.\d+)?(?:/\d+)?"
_GROUP = r"\s*(?:\d|\{(?:[^{}]|\{[^{}]{0,100}\}){0,100}\})"
_BARE_BOX = re.compile(
    rf"[-+]?(?:(?:{_DIGITS})?(?:\\[dt]?frac{_GROUP}{_GROUP}|\\sqrt(?:\[\d\])?{_GROUP}|\\pi(?![a-zA-Z]))+|{_DIGITS}"
    r"|\\[a-zA-Z]+(?:\s*\{[^{}]{0,200}\}){0,2}|[a-zA-Z](?![a-zA-Z]))")
_END_TOKENS = re.compile(r"(?:\s|<\|[^<>|]{1,40}\|>|<｜[^<>｜]{1,40}｜>|</s>)+\Z")
_MARKER = re.compile(
    r"answers?\s+(?:is|are)\b|answers?\s*[:：]|答案(?:是|为)?\s*[:：]?|correct\s+(?:option|choice)\s+is\b", re.IGNORECASE)
_DISPLAY = re.compile(r"\\\[(.*?)\\\]|\$\$(.*?)\$\$", re.DOTALL)
_HOPE = re.compile(r"\.?\s*(?:I hope (?:it|this) (?:is correct|helps)[.!]?)?\s*", re.IGNORECASE)
_LONGEST = 400  # characters of an answer in words
_UNDONE = re.compile(  # numbers that are still to be added or multiplied: no answer, however right its value
    r"(?=.*\d\s*(?:[-+*×·÷−]|\\?[a-z]+)\s*[-(]*\d)(?:[\d\s.,()$*×·÷+−-]|\\(?:times|cdot|div)|times|plus|minus)+")


def extract_answer(response: str, reading: str = "last-number", finished: bool | None = None) -> str:
    r"""The answer a response gives, as it is written there; "" for none. Linear in the response's length.

    >>> extract_answer(r"first \boxed{1}, then \boxed{\frac{1}{2}}"), extract_answer(r"cut \boxed{12")
    ('\\frac{1}{2}', '')
    """
    if not isinstance(response, str):
        raise TypeError(f"a response is a text, not {type(response).__name__}")
    _, closed, tail = response.rpartition("</think>")
    if reading == "strict" and (not closed or finished is False):
        return ""
    response = tail if reading == "strict" else response
    box = _last_box(response)
    if box is not None:
        return box
    if reading != "last-number" or finished is False or r"\boxed" in response or r"\fbox" in response:  # begun, or mentioned
        return ""
    if not closed and "<think>" in tail:
        return ""
    start = tail.rfind("<answer>")
    if start >= 0:
        end = tail.find("</answer>", start)
        return _unwrapped(tail[start + 8 : end]) if end >= 0 else ""
    return _in_words(tail[-2_000:], complete=finished is True or bool(closed))


def _last_box(text: str) -> str | None:
    """What is in the last complete box, of nested boxes in the outermost; None where there is none. One pass over the braces."""
    starts = [start for start in (text.find(r"\boxed"), text.find(r"\fbox")) if start >= 0]
    open_braces: list[int] = []  # where a box's content begins, or -1 for an ordinary brace
    complete: list[tuple[int, int]] = []
    for match in _BOX.finditer(text, max(min(starts) - 1, 0)) if starts else ():
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
        elif token.lstrip("\\").startswith(("boxed", "fbox")) and (bare := _BARE_BOX.match(text, match.end())):
            complete.append(bare.span())
    return _unwrapped(text[slice(*complete[-1])]) if complete else None


def _unwrapped(answer: str) -> str:
    r"""Without the box, the dollars or the asterisks around it."""
    answer = answer.strip()
    if re.fullmatch(r"(?:\\(?:text|boxed|fbox)|\\(?:[,;:!]|$)|[\s{}$~])*", answer):
        return ""
    for _ in range(8 if len(answer) <= MAX_LENGTH else 0):
        for left, right in (("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("`", "`")):
            middle = answer[len(left) : -len(right)]
            if middle and answer.startswith(left) and answer.endswith(right) and left not in middle:
                answer = middle.strip()
        answer = inside(answer, r"\boxed{") or inside(answer, r"\fbox{") or answer
    return answer


def _in_words(tail: str, complete: bool) -> str:
    """An answer given in words: behind "answer is", as all there is, or (if complete) as the last number of the last line."""
    tail = _END_TOKENS.sub("", tail).strip()
    if markers := list(_MARKER.finditer(tail)):
        said = tail[markers[-1].end() :].replace("**", "").strip(" :：\n")
        lines = _DISPLAY.sub(lambda m: (m[1] or m[2] or "").strip().replace("\n", " "), said, count=1).split("\n")
        sentence = re.match(r"\s*(.*?)(?:,?\s(?:as|since|because)\s.*?)?(?:[.。!](?=\s|$)(.*))?$", lines[0], re.DOTALL)
        said, rest = sentence[1].strip(), (sentence[2] or "") + " ".join(lines[1:])
        if said and len(said) <= _LONGEST and not _UNDONE.fullmatch(said) and (complete or _HOPE.fullmatch(rest.strip())):
            return _unwrapped(said)
    lines = [line for line in tail.split("\n") if re.search(r"\w", line)]
    if len(lines) == 1 and len(tail) <= _LONGEST:
        bare = _unwrapped(tail.rstrip(". "))
        worded = re.search(r"(?<![\\a-zA-Z{])[a-zA-Z]{2,}", re.sub(r"\\text\{[^{}]*\}", "", bare))
        if bare and not worded and re.search(r"\d|\\", bare) and not _UNDONE.fullmatch(bare):
            return bare
    last = re.findall(r"-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)", lines[-1][-_LONGEST:]) if complete and lines else []
    return last[-1].rstrip(",") if last else ""


# ---------------------------------------------------------------- one spelling of many

_CHARACTERS = str.maketrans({
    "−": "-", "–": "-", "—": "-", "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "÷": "/", "∕": "/", "⁄": "/", "π": r"\pi ",
    "∞": r"\infty ", "√": r"\sqrt ", "°": r"^\circ ", "±": r"\pm ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ",
    "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "≈": r"\approx ", "≡": r"\equiv ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}",
    "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "…": r"\ldots ", "²": "^2", "³": "^3", "½": r"\frac{1}{2}",
    "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "，": ",", "、": ",", "；": ";", "：": ":", "（": "(", "）": ")", "％": "%",
    "。": ".", "＝": "=", "’": "'", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u200b": "", "\n": " ",
    **{chr(0xFF10 + digit): str(digit) for digit in range(10)},
})  # fmt: skip
_COMMANDS = {name: command for command, names in {
    r"\frac": "dfrac tfrac cfrac sfrac nicefrac xfrac", r"\binom": "dbinom tbinom", r"\le ": "le leq leqslant leqq",
    r"\ge ": "ge geq geqslant geqq", "<": "lt", ">": "gt", r"\ne ": "neq", r"\{": "lbrace", r"\}": "rbrace", "[": "lbrack",
    "]": "rbrack", "(": "langle lparen", ")": "rangle rparen", "|": "vert lvert rvert mid", r"\emptyset": "varnothing O",
    r"\ldots ": "dots dotsc dotsb cdots", r"\mathbb{R}": "R reals", r"\setminus ": "backslash smallsetminus", ":": "colon",
    r"\text": "textbf textrm textit textnormal textsf texttt mbox hbox mathrm operatorname", "\x01": "quad qquad space thinspace",
    "": "left right big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr displaystyle textstyle limits mathstrut therefore",
    " ": "mathbf mathit mathsf mathtt boldsymbol bm rm bf it underline emph large Large LARGE huge Huge vec mathcal square qed",
}.items() for name in names.split()}  # fmt: skip
_BASES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()
_DEGREE = r"\\degree "
_ARG = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}"  # {…} with two more levels of braces inside
_TIDY = [(re.compile(pattern), replacement) for pattern, replacement in (
    (r"\{\\(?:rm|bf|it)\s+([^{}]*)\}", r"\\text{\1}"),
    (r"\\(?:Bbb|mathbf|mathbb)\s*(?:\{([RZNQC])\}|([RZNQC])(?![a-zA-Z]))", r"\\mathbb{\1\2}"),
    (r"\\(?:(?:text)?color|[hv]space\*?|[hv]?phantom)\s*\{[^{}]*\}|\\(?:left|right)\.", " "),
    (r"\\(?:math(?:bf|it|cal|sf|tt)|boldsymbol|bm|vec|underline|emph)\s*\{([^{}]*)\}", r"\1"),
    (r"\\([a-zA-Z]+)", lambda m: _COMMANDS.get(m[1], m[0])),
    (r"\\(frac|binom)\s*(\d|(?<=\s)[a-zA-Z]|\\pi)(?![a-zA-Z])", r"\\\1{\2}"),
    (rf"\\(frac|binom)\s*({_ARG})\s*(\d|[a-zA-Z]|\\pi)(?![a-zA-Z])", r"\\\1\2{\3}"),
    (r"<=|=<", r"\\le "), (r">=", r"\\ge "), (r"\.\.\.+", r"\\ldots "), (r"\+\s*/?\s*-(?=\s*[\d\\a-z(])", r"\\pm "),
    (r"\\(?:qty|SI)\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"\1\\text{ \2}"),
    (r"\^\s*(?:\{\s*\\(?:circ|degree)\s*\}|\\(?:circ|degree))|\\(?:text)?degree(?:\{\})?|(?<=\d)\s*\^\s*(?:\{o\}|o\b)", _DEGREE),
    (r"(?<!\\)\\[,;:> ]|~", "\x01"),
    (r"(?<=\d)(?:,\s*(?:\\!)+|\{,\}|,?\x01)\s*(?=\d{3}(?!\d))", ""),  # 10,\!080 and 10\,080: thousands for certain
    (r"(?<!\\)\\!|\{\}(?=\d)", ""), (r"\s*\x01\s*", " "),
    (rf"{_DEGREE}\s*(?:\\text\{{\s*[CF]\s*\}}|[CF](?![a-zA-Z]))|\\text\{{\s*{_DEGREE}\s*[CF]?\s*\}}", _DEGREE),
    (r"(?<=\d)\s*\^\s*\{?\s*\\text\{\s*(?:st|nd|rd|th)\s*\}\s*\}?", ""),
    (r"\\text\{\s*(:|\\\$|\\ldots)\s*\}", r"\1"),
    (r"^(?:\\text\{)?\s*([\dA-F]+)\s*(?:\\text\{)?\s*(?:in )?base\s*(\w+)\s*\}?$", r"\1_{\2}"),
    (r"(?:\\text\{|\()\s*([\dA-F]+)\s*[)}](?=\s*_)", r"\1"),
    (r"_\s*(?:\{\s*(?:\\text\{|\()\s*(\w+)\s*[)}]\s*\}|\\text\{\s*(\w+)\s*\})", r"_{\1\2}"),
    (rf"(?<=[\dA-F]_\{{)({'|'.join(_BASES[2:])})(?=\}})", lambda m: str(_BASES.index(m[1]))),
    (r"(?i)^\s*(\\text\{)?\s*(?:the )?(?:final )?answer(?: is)?\s*:?\s*(\}?)(?=[\s\d$\\-])\s*",
     lambda m: "" if m[2] else m[1] or ""),
    (r"\\text\{\s*\(?\s*(?:approx\.?|approximately)\s*\)?\s*\}|^\s*\\approx", ""),
    (r"^([^=]*?(?:\d|\\pi|\}))\s*\\approx.*|^([a-zA-Z]\s*)\\approx", lambda m: m[1] or f"{m[2]}="),  # the exact side
    (r"(?<!\\)(?:\$|\\[()\[\]])", " "),
    (r"(^|\\cup)\s*\]([^()\[\]]*[,;][^()\[\]]*)(?=[\[\]]\s*(?:$|\\cup))", r"\1 (\2"),  # ]2,3[ is (2,3)
    (r"([\[(][^()\[\]]*[,;][^()\[\]]*)\[(?=\s*(?:$|\\cup))", r"\1)"), (r"(?<=[\])}])\s*U\s*(?=[\[(\\])", r"\\cup "),
    (r"\\\{\s*[a-z]\s*(?:\\in[^|:]*)?[|:](.*)\\\}$", r"\1"), (r"\\\{\s*\\\}", r"\\emptyset"),  # {x | x > 3} is x > 3
    (r"^(?:\\\{)?\s*\\begin\{(?:cases|aligned)\}((?:[^\\=]+=(?:[^\\]|\\[a-zA-Z])+(?:\\\\)?)+)\\end\{\w+\}$",
     lambda m: m[1].replace("&", "").replace(r"\\", ",")),
    (r"^\s*=\s*(?=[^=]+$)|\s+", " "),
    (r"(?<![\d.,] )(?<![\d.,])(\d{1,3})((?: \d{3})+)(?![\d/ ])", lambda m: m[1] + m[2].replace(" ", "")),
)]  # fmt: skip
_TOKEN = re.compile(r"\\begin\s*\{[a-z*]+\}|\\end\s*\{[a-z*]+\}|\\[a-zA-Z]+|\\.|[^\\]", re.DOTALL)
_STEP = {"(": 1, "[": 1, "{": 1, r"\{": 1, ")": -1, "]": -1, "}": -1, r"\}": -1}


@lru_cache(maxsize=8192)
def tidy(text: str) -> str:
    r"""One spelling of many: `\dfrac` and `\tfrac` become `\frac`, `\left` goes, `\mbox` becomes `\text`, `−` becomes `-`."""
    if re.search(r"\\\\(?:[a-zA-Z]{2}|[{}%$,;!])", text) and all(len(run) % 2 == 0 for run in re.findall(r"\\+", text)):
        text = text.replace("\\\\", "\\")  # escaped once too often
    text, before = text.translate(_CHARACTERS), None
    for pattern, replacement in _TIDY:
        text = pattern.sub(replacement, text)
    while text != before:
        before, text = text, text.strip().rstrip(",;").rstrip()
        if text.endswith(".") and not text.endswith("..") or text.endswith("\\"):
            text = text[:-1].rstrip("\\")
        text = next((inner for left in (r"\boxed{", r"\fbox{", "{") if (inner := inside(text, left)) is not None), text)
    return text


def squeeze(text: str) -> str:
    """Without the spaces that mean nothing: those between two digits stay (1 1/2 is not 11/2)."""
    return re.sub(r"(?<!\d) +| +(?!\d)", "", text)


def _depths(text: str) -> list[tuple[str, int, int]]:
    """(token, where it starts, how many brackets are open there) for every token."""
    depth, found = 0, []
    for match in _TOKEN.finditer(text):
        found.append((match[0], match.start(), depth))
        depth += _STEP.get(match[0], 0) + match[0].startswith(r"\begin") - match[0].startswith(r"\end")
    return found


def inside(text: str, left: str, right: str = "}") -> str | None:
    """What is between the brackets `left` and `right`, where they stand around all of the text, else None."""
    if not (text.startswith(left) and text.endswith(right)):
        return None
    around = text.removeprefix(left.rstrip("{[(\\")) if left != r"\{" else text
    depths = [depth for _, _, depth in _depths(around)]
    return text[len(left) : -len(right)].strip() if depths[-1] == 1 and 0 not in depths[1:] else None


def split(text: str, *separators: str) -> list[str]:
    """The pieces of `text` between top-level separators, stripped."""
    pieces, last = [], 0
    for token, start, depth in _depths(text):
        if depth == 0 and token in separators:
            pieces.append(text[last:start].strip())
            last = start + len(token)
    return [*pieces, text[last:].strip()]


@lru_cache(maxsize=8192)
def malformed(text: str) -> str | None:
    r"""Why `text` is not a LaTeX expression at all ("unbalanced braces", …), or None: what is checked of every gold."""
    if not text.strip(" \t\r\n$"):
        return "no answer"
    if len(text) > MAX_LENGTH:
        return f"longer than {MAX_LENGTH} characters"
    braces = re.sub(r"\\.|[^{}]", "", text, flags=re.DOTALL)
    while "{}" in braces:
        braces = braces.replace("{}", "")
    if braces or text.count(r"\begin") != text.count(r"\end"):
        return "unbalanced braces"
    return f"more than {MAX_DEPTH} nested brackets" if max(depth for _, _, depth in _depths(text)) > MAX_DEPTH else None


# ---------------------------------------------------------------- numbers, units and words

_D = r"(?:\d+\.?\d*|\.\d+)"
_MIXED = re.compile(rf"(?:(\d+)(?:\s+|(?=\\)))?(?:\\frac\s*\{{\s*(-?{_D})\s*\}}\s*\{{\s*(-?{_D})\s*\}}|({_D})\s*/\s*({_D}))")
_POWER = re.compile(rf"(?:({_D})\s*(?:\\times|\\cdot|\*)\s*)?10\s*\^\s*\{{?\s*([+-]?\d{{1,3}})\s*\}}?|({_D})[eE]([+-]?\d{{1,3}})")
_REPEATING = re.compile(r"(\d*)\.(\d*)(?:\\(?:overline|bar|dot)\s*\{?\s*(\d+)\s*\}?|\((\d+)\))")


@lru_cache(maxsize=8192)
def number(text: str) -> Fraction | None:
    r"""The exact value of `-12`, `.5`, `3/4`, `\frac{3}{4}`, `1\frac{4}{5}`, `1.2\times10^3`, `1e5`, `0.\overline{3}`, `0.(3)`.

    >>> number("1 1/2"), number("0.(3)"), number("x")
    (Fraction(3, 2), Fraction(1, 3), None)
    """
    sign, text = (-1 if text.startswith("-") else 1), re.sub(r"^[+-]\s*", "", text)
    if re.fullmatch(_D, text):
        return sign * Fraction(text)
    if match := _POWER.fullmatch(text):
        return sign * Fraction(match[1] or match[3] or 1) * Fraction(10) ** int(match[2] or match[4])
    if match := _REPEATING.fullmatch(text):
        head, block = (match[1] or "0") + match[2], match[3] or match[4]
        return sign * Fraction(int(head + block) - int(head), (10 ** len(block) - 1) * 10 ** len(match[2]))
    if match := _MIXED.fullmatch(text):
        top, bottom = Fraction(match[2] or match[4]), Fraction(match[3] or match[5])
        return None if bottom == 0 or match[1] and min(top, bottom) < 0 else sign * (int(match[1] or 0) + top / bottom)
    return None


_UNIT = {word: unit for unit, words in {
    "degree": "deg °", "%": "percent percentage pct", "dollar": "usd $", "pound": "lb £ pounds", "m": "meter metre",
    "cm": "centimeter centimetre", "mm": "millimeter millimetre", "km": "kilometer kilometre", "in": "inch inche",
    "ft": "foot feet", "yd": "yard", "mi": "mile", "s": "sec second", "min": "minute", "h": "hr hour", "yr": "year",
    "g": "gram", "kg": "kilogram", "mg": "milligram", "l": "liter litre", "ml": "milliliter millilitre", "rad": "radian",
    "oz": "ounce", "km/h": "kph kmh", "mi/h": "mph", "n": "newton", "j": "joule", "w": "watt", "hz": "hertz",
    "cent": "¢", "euro": "€", "yen": "¥", "rupee": "₹", "unit": "", "day": "", "week": "", "month": "",
}.items() for word in [unit, *words.split()]}  # fmt: skip
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
# Words that say something about a number instead of counting in it: with one of them it is prose and no unit.
_PROSE = frozenset(re.findall("[a-z]+", """
a abc about above after again all almost also am an and any approx approximately are aren around as at be because been before
below but by can certain choose correct could cubed depend doesn don dozen e eight eighth either eleven else equal error even
exactly except excluding factorial false few fewer fifth five four fourth give greater half halve hardly has have hundredth i
if impossible in including incorrect infinite is isn it its larger least les likely lost low lower many max maximum may maybe
might min minimum minus mod modulo more most much must near nearly negative neither never nine ninth no non none nor not
nothing odd off often one only opposite or other otherwise over perhap pi plu plus positive possibly probably quarter rather
remainder root roughly seven seventh should since six sixth small smaller so some sometimes sqrt squared ten tenth than that
then there third thirteen though thousandth three time to too true twelve twenty twice two undefined under unknown unles until
upper usually wait was wasn when where which while with without won wrong xyz yes you"""))
_UNIT_BEHIND = re.compile(
    r"(?:\\text\{[^{}]*\}|\\frac\s*\{\s*\\text\{[^{}]*\}\s*\}\s*\{\s*\\text\{[^{}]*\}\s*\})(?:\\text\{[^{}]*\}|[\s/]|\\cdot|\^\s*\{?-?\d\}?)*$"
    r"|(?<=\d|\}|i)\s*(?<![\\a-zA-Z])(?:[^\W\d_]{2,}|[^\W\d_a-zA-Z]|[km](?= ?/ ?\w))(?:[ /]+[^\W\d_]+)*(?:\s*\^\s*\{?[23]\}?)?$")
_SHORT_UNIT = re.compile(r"((?:\S.*)?\d\}?)\s+([mgshlLNJWVKCF](?:\s*\^\s*\{?[23]\}?)?|in)")


def unit_name(text: str) -> str | None:
    r"""One name for many spellings of a unit: `in^2` for "square inches"; an unknown noun is "?noun"; None for prose.

    >>> unit_name("square inches"), unit_name(r"\text{ in}^2"), unit_name("apples"), unit_name("or more")
    ('in^2', 'in^2', '?apple', None)
    """
    text = re.sub(r"\\text|\\frac|\\cdot|[{}.()]|\\", " ", text).strip().lower()
    text = re.sub(r"^(?:(?:square|sq) (.*)|(?:cubic|cu) (.*))$", lambda m: f"{m[1]}^2" if m[1] else f"{m[2]}^3", text)
    text, _, power = re.sub(r"\s*\^\s*(?=-?\d\s*$)", "^", text).partition("^")
    names = [_UNIT.get(word) or _UNIT.get(word.removesuffix("s")) for word in re.split(r"\s*/\s*|\s+per\s+", text.strip())]
    if all(names):
        return "/".join(map(str, names)) + (f"^{power}" if power else "")
    joining = ("of", "per", "different", "possible")
    nouns = [word.removesuffix("s") for word in re.findall(r"[^\s/]+", text) if word not in joining]
    fit = 1 <= len(nouns) <= 4 and not _PROSE & set(nouns) and all(re.fullmatch(r"[^\W\d_]+", noun) for noun in nouns)
    return "?" + " ".join(nouns) if fit else None


def quantity(text: str) -> tuple[str, str | None]:
    r"""(value, unit): `5.4 \text{ cents}` is ("5.4", "cent"), `10\%` is ("10", "%"), `x+1` is ("x+1", "").

    The unit of prose behind a number (`7 \text{ or more}`) is None: that is no value at all.
    """
    unit = ""
    if match := re.fullmatch(r"(-?)(?:(\\\$|[€¢£¥₹])\s*(.+)|(.+?)\s*(\\\$|[€¢£¥₹]|\\?%))", text):
        text, unit = match[1] + (match[3] or match[4]), unit_name(match[2] or match[5]) or ""
    bare = re.sub(r"\s*\\degree ?", "", text)
    if bare != text and not re.search(r"\\(?:text|sin|cos|tan|cot|sec|csc)|'", bare):  # 45^\circ + 30^\circ
        return bare, "degree"
    match = _UNIT_BEHIND.search(text)
    head, words = (text[: match.start()].strip(), re.sub(r"\\text\{([^{}]*)\}", r"\1", match[0]).strip()) if match else ("", "")
    first, _, rest = words.partition(" ")
    if not head or words in ("i", "e") or first in _MATHEMATICAL or re.search(r"([\^_+=*{(-]|\\cdot|\\times)$", head):
        return text, unit
    if first.lower() in _SCALES and number(head) is not None:
        return rf"{head}\cdot10^{{{_SCALES[first.lower()]}}}", unit or (unit_name(rest) if rest else "")
    return head, unit_name(words)


_MONTH = {name: month[:3] for month in re.findall("[a-z]+", "january february march april may june july august september october"
          " november december") for name in (month, month[:3])}  # fmt: skip
_MATHEMATICAL = frozenset("arcsin arccos arctan sinh cosh tanh sin cos tan cot sec csc log ln lg exp sqrt cbrt abs floor binom "
                          "choose pi infty infinity frac max min gcd lcm".split())
_SHORT_WORDS = frozenset(["yes", "no", "true", "false", "odd", "even", "all", "none", "east", "west", "dne"])
_SPOKEN = {
    "all real numbers": r"(-\infty,\infty)", "all reals": r"(-\infty,\infty)", "all integers": r"\mathbb{Z}",
    "no solution": r"\emptyset", "no solutions": r"\emptyset", "empty set": r"\emptyset", "infinity": r"\infty",
    "negative infinity": r"-\infty", **{word: str(n) for n, word in enumerate(_BASES)},
}  # fmt: skip


def words_of(text: str) -> str | None:
    r"""The words of an answer that is text (`\text{even}`, `June 20`), in one spelling; None for mathematics."""
    plain = re.sub(r"\\text\{([^{}]*)\}", r"\1", text).strip().lower()
    parts = re.findall(r"[a-z]+|\d+", re.sub(r"(?<=\d)(?:st|nd|rd|th)\b", "", plain.replace("'", "")))
    if not parts or not re.fullmatch(r"[a-z0-9][a-z0-9'., :\-]*", plain):
        return None
    if set(parts) & _MONTH.keys():  # 20 June is June 20 is Jun 20
        return " ".join(sorted(_MONTH.get(part, part) for part in parts))
    longest = max(len(part) * part.isalpha() for part in parts)
    known = plain in _SHORT_WORDS or plain in _SPOKEN or longest > 3 and not _MATHEMATICAL & set(parts)
    bare = inside(text, r"\text{") is None
    if longest < 2 or parts[0].isdigit() or bare and not (known and ("," not in plain or len(min(parts)) > 1)):
        return None
    return " ".join([part for part in parts if part not in ("the", "a", "an")] or parts)


# ---------------------------------------------------------------- shape

Equal = Callable[[str, str], bool]
_CHOICE = re.compile(r"(?:option |choice |answer )?(\()?([A-Za-z])(?(1)\)|[).:]?)", re.IGNORECASE)
_CHOICE_AND_MORE = re.compile(r"(?:\(([A-H])\)[.:]?\s|([A-H])[.:)]\s)\s*(\S.*)", re.DOTALL)
_KIND = r"(?:an? |any )?(real|integer)s?(?: numbers?| values?)?(?: of)?"
_DOMAIN = re.compile(
    r"(?<=.)[,;]?\s*\(?(?:(?:\\text\{[^{}]*\}\s*|\\forall\s*)?\s*[a-zA-Z]\s*\\in\s*\\mathbb\{([A-Z])\}"
    rf"|(?:\\text\{{)?\s*,?\s*(?:for (?:all|any|every|each)|where|with)\s+(?:{_KIND}\s*\}}?\s*[a-zA-Z]?"
    rf"|\}}?\s*[a-zA-Z]\s*(?:\\text\{{)?\s*(?:is )?{_KIND}\s*\}}?))\s*\)?$")


def same(gold: str, answer: str, leaf: Equal | None) -> bool:
    """Is `answer` the same as `gold`? `leaf` compares two expressions that are not numbers; NeedsParser where it is None."""
    gold, answer = tidy(gold), tidy(answer)
    bare, said = (re.sub(r"\s+(?=[).:])", "", re.sub(r"\\text\{([^{}]*)\}", r"\1 ", text)).strip() for text in (gold, answer))
    letter, given, more = _CHOICE.fullmatch(bare), _CHOICE.fullmatch(said), _CHOICE_AND_MORE.fullmatch(said)
    if letter and (letter[1] or r"\text" in gold or bare in "ABCDEFGH"):
        chosen, any_case = given or more, letter[1] or r"\text" in gold or given and given[1]
        said = (given[2] if given else more[1] or more[2]) if chosen else ""
        return said.upper() == letter[2].upper() if any_case else said == letter[2]
    answer = tidy(more[3]) if more and not letter else answer
    domains = ["".join(filter(None, m.groups()))[0].upper().replace("I", "Z") if m else ""
               for m in map(_DOMAIN.search, (gold, answer))]
    if domains[1] and domains[0] != domains[1] and (domains[0] or domains[1] not in "ZR"):
        return False
    gold, answer = _DOMAIN.sub("", gold), _DOMAIN.sub("", answer)
    if number(gold) is not None and re.fullmatch(r"[\d.]+ ?[kK]", answer):  # 5k
        answer = answer.rstrip("kK ") + r"\cdot10^3"
    return _same(gold, answer, leaf)


def _same(gold: str, answer: str, leaf: Equal | None) -> bool:
    gold, answer = core(gold), core(answer)
    if squeeze(gold) == squeeze(answer):
        return True
    for rule in (_literal, _ratio, _modulus, _list, _equation):
        verdict = rule(gold, answer, lambda x, y: _same(x, y, leaf))
        if verdict is not None:
            return verdict
    return _quantities(gold, answer, leaf)


def core(text: str) -> str:
    """One answer without superfluous text commands, brackets and thousands' commas; spoken sets and numbers as symbols."""
    text, words = tidy(text), words_of(text)
    if words is not None:
        return _SPOKEN.get(words, text)
    for left, right in (("(", ")"), ("[", "]"), (r"\text{", "}")):
        inner = inside(text, left, right)
        if inner and len(split(inner, ",", ";")) == 1:
            return core(inner)
    merged = re.sub(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])", lambda m: m[0].replace(",", ""), text)
    return text if re.search(r",\S|^(?:[(\[]|\\\{)", merged) else merged  # a tight comma elsewhere says that this is a list


_AND = re.compile(
    r"(?<=[^a-zA-Z\\])(?:\\text\{\s*,?\s*)?(?:and|or|和|或|及)(?=[^a-zA-Z])(?:\s*\})?|\\(?:lor|vee|land|wedge)(?![a-z])")


def elements(text: str) -> tuple[str, list[str]]:
    r"""(kind, parts): the kind is `,` for a list, the two brackets of a set, tuple or interval, "" for a single answer. A
    plus-minus counts as two."""
    parts = []
    text = _AND.sub(",", re.sub(r"\\text\{([^{}]*\w)\s+(?:and|or)\s*\}", r"\\text{\1},", text))
    for piece in filter(None, split(core(text), ",", ";")):
        both = re.search(r"\\(?:pm|mp)(?![a-z])", piece) and not piece.startswith(r"\{")
        for plus, minus in (("+", "-"), ("-", "+")) if both else ((r"\\pm ", r"\\mp "),):
            signed = re.sub(r"\\mp(?![a-z])", minus, re.sub(r"\\pm(?![a-z])", plus, piece))
            parts.append(re.sub(r"(^|[=(,])\s*\+", r"\1", signed))
    for left, right in ((r"\{", r"\}"), ("(", ")"), ("[", "]"), ("(", "]"), ("[", ")")):
        if len(parts) == 1 and (inner := inside(text, left, right)) is not None:
            many, found = elements(inner) if left == r"\{" else (",", split(inner.rstrip(", "), ",", ";"))
            return left + right, found if many == "," else [inner]
    return "," * (len(parts) > 1), parts


_CLOCK = re.compile(r"0?(\d{1,2}:\d{2})\s*(?:\\text\{)?\s*([aApP]?)\.?\s*[mM]?\.?\s*\}?")


def _literal(gold: str, answer: str, equal: Equal) -> bool | None:
    """Numbers, words, clock times; a time with two digits and no zero (7:32) may also be a ratio."""
    for read in (number, words_of):
        g, a = read(gold), read(answer)
        if g is not None and a is not None or read is words_of and (g or a):
            return g == a
    times = _CLOCK.fullmatch(gold), _CLOCK.fullmatch(answer)
    if not any(m and (m[2] or m[0][0] == "0" or ":0" in m[0]) for m in times):
        return None
    return all(times) and len({m[1] for m in times}) == 1 and len({m[2].lower() for m in times} - {""}) < 2  # type: ignore[index]


def _ratio(gold: str, answer: str, equal: Equal) -> bool | None:
    r"""`2:4` is `1:2` and `\frac{1}{2}`; `1:2:3` is not `1:3:2`."""
    g, a = split(gold, ":"), split(answer, ":")
    if len(g) == 1 or "" in g + a or "=" in gold + answer:
        return None
    if len(a) == 1:
        return len(g) == 2 and equal(rf"\frac{{{g[0]}}}{{{g[1]}}}", answer)
    parts = zip(g[1:], a[1:], strict=False)
    return len(g) == len(a) and all(equal(rf"\frac{{{x}}}{{{g[0]}}}", rf"\frac{{{y}}}{{{a[0]}}}") for x, y in parts)


_MODULUS = re.compile(r"(?:.*\\equiv\s*)?(.*?)\s*\(?\s*\\(pmod|bmod|mod|text\{\s*mod\s*\})\s*\{?\s*(\w+)\s*\}?\s*\)?")
_BASE = re.compile(r"(-?[0-9A-Fa-f]+)\s*_\s*\{?\s*(\w+)\s*\}?")


def _modulus(gold: str, answer: str, equal: Equal) -> bool | None:
    r"""`x\equiv2\pmod5` is `2` and `7\pmod5`; `22\bmod7` is 1; a base (`12_8`) may be missing in the answer only."""
    g, a = _BASE.fullmatch(gold), _BASE.fullmatch(answer)
    if g or a:
        return bool(g) and g[1].lower() == (a[1] if a else answer).lower() and (not a or g[2] == a[2])
    g, a = _MODULUS.fullmatch(gold), _MODULUS.fullmatch(answer)
    if not g and not a:
        return None
    x, y = (number(m[1] if m else text) for m, text in ((g, gold), (a, answer)))
    modulus = int(a[3]) if a and a[3].isdecimal() else 0
    if a and not g and a[2] in ("bmod", "mod"):
        return y is not None and modulus > 0 and equal(gold, str(y % modulus))
    if g and a and (g[3] != a[3] or modulus and x is not None and y is not None):
        return g[3] == a[3] and (x - y) % modulus == 0  # type: ignore[operator]
    return equal(g[1] if g else gold, a[1] if a else answer)


def _list(gold: str, answer: str, equal: Equal) -> bool | None:
    """Sets and lists in any order, but named values (x = 2, y = 1) in that of the names; tuples and intervals in order and with
    the same brackets, unless they are forgotten on one side."""
    (kind, g), (other, a) = elements(gold), elements(answer)
    if any(map(_RELATION.search, g + a)) and "," in kind + other:
        return None  # conditions: the parser makes a set of them
    if {kind, other} == {",", ""}:  # (x, y) = (1, 2) for 1, 2
        pairs = named(gold), named(answer)
        kind, g = elements(core(pairs[0][1])) if pairs[0] and not kind else (kind, g)
        other, a = elements(core(pairs[1][1])) if pairs[1] and not other else (other, a)
    kinds = {kind, other}
    if r"\{\}" in kinds and kinds <= {r"\{\}", ",", ""} and not re.search(r"\\(?:cup|cap|setminus)", gold + answer):
        return all(any(equal(x, y) for y in a) for x in g) and all(any(equal(x, y) for x in g) for y in a)
    if "" in kinds or len(g) != len(a):
        return None if "" in kinds and "," not in kinds else False
    names = [{pair[0].partition("_")[0] for pair in map(named, parts) if pair} for parts in (g, a)]  # x_1, x_2: roots
    if kinds != {","} or (len(names[0]) == len(g)) != (len(names[1]) == len(a)):
        alike = kind == other or kinds == {",", "()"} or len(g) != 2 and not kinds & {",", r"\{\}"}
        return alike and all(map(equal, g, a))
    for part in g:  # equality is transitive, so taking the first that fits is enough
        hit = next((index for index, found in enumerate(a) if equal(part, found)), None)
        if hit is None:
            return False
        a = a[:hit] + a[hit + 1 :]
    return True


_RELATION = re.compile(r"[<>]|\\(?:le|ge|ne)(?![a-zA-Z])")
_LETTER = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]|\\(?:alpha|beta|gamma|delta|theta|lambda|mu|phi|angle|triangle)(?![a-zA-Z])")
_ATOM = (
    r"(?:\\(?:angle|triangle|overline|max|min|sin|cos|tan|det|arg|text|deg)\s*)*(?:\{[A-Za-z ]+\}|\\?[A-Za-z]+)\s*'*"
    r"(?:\s*_\s*(?:\{(?:[^{}]|\{[^{}]*\})*\}|\\?[A-Za-z0-9]+))?'*(?:\s*\([^()=]*\)|\s*\[[^\[\]=]*\])?")
_NAME = re.compile(
    rf"(?!-?\\(?:pi|infty|emptyset)(?![a-zA-Z]))(?:{_ATOM}(?:\s+{_ATOM})?(?:\s*[:/]\s*{_ATOM})*|\|\s*{_ATOM}\s*\|"
    rf"|\\frac\s*\{{\s*{_ATOM}\s*\}}\s*\{{\s*{_ATOM}\s*\}}|\(\s*[a-zA-Z]\w*(?:\s*,\s*[a-zA-Z]\w*)+\s*\))?")


def named(text: str) -> tuple[str, str] | None:
    """(name, value) of `x=3`, `f(x)=2x`, `|AB|=3`, `3=x`; None for other equations and for no equation."""
    pieces = split(text.replace(":=", "="), "=", *(() if _RELATION.search(text) else (r"\in",)))
    if len(pieces) == 2 and re.fullmatch("[a-zA-Z]", pieces[1]) and pieces[0] and not _LETTER.search(pieces[0]):
        pieces.reverse()
    if len(pieces) < 2 or not pieces[-1] or not _NAME.fullmatch(pieces[0]):
        return None
    return re.sub(r"\\text|[{} \\]", "", pieces[0]), pieces[-1]


def _equation(gold: str, answer: str, equal: Equal) -> bool | None:
    """Named values by name, if both have one; an equation by its last side, if the other is none; else it is the parser's."""
    g, a = named(gold), named(answer)
    if g and a:
        heads = [re.fullmatch(r"(\w+)\(([a-z])\)", name) for name, _ in (g, a)]
        if heads[0] and heads[1] and heads[0][1] == heads[1][1] and heads[0][2] != heads[1][2]:  # f(t) = 2t is f(x) = 2x
            return equal(g[1], re.sub(rf"(?<![\\a-zA-Z]){heads[1][2]}(?![a-zA-Z])", heads[0][2], a[1]))
        if g[0] == a[0] or not (_LETTER.search(g[1]) and _LETTER.search(a[1])):
            return g[0] == a[0] and equal(g[1], a[1])
    sides, others = split(gold, "="), split(answer, "=")
    if len(sides) > 1 < len(others) or not g and not a and _RELATION.search(gold + answer):
        return None
    if g or len(sides) > 1:
        return bool(g or not _LETTER.search(gold)) and equal(g[1] if g else sides[-1], answer)
    if a or len(others) > 1:  # m + n = 7 for 7, and 14/2 = 7 but not 8 = 7
        chain = a or _LETTER.search(others[0]) or all(equal(gold, x) for x in others)
        return bool(chain) and equal(gold, a[1] if a else others[-1])
    return None


def _quantities(gold: str, answer: str, leaf: Equal | None) -> bool:
    """Units may be missing on one side but must not differ. What stands between the units goes to `leaf`."""
    bars = {text.lower().count(r"\begin{vmatrix}") for text in (gold, answer) if "matrix" in text}
    (g, unit), (a, other) = quantity(gold), quantity(answer)
    short = [_SHORT_UNIT.fullmatch(text) if have == "" else None for text, have in ((g, unit), (a, other))]
    if short[0] and other:  # "6 m" for 6 or for 6 metres: the space tells the unit from the variable
        g, unit = short[0][1], unit_name(short[0][2])
    elif short[1] and (unit or number(g) is not None):
        a, other = short[1][1], unit_name(short[1][2])
    if unit is None or other is None or len(bars) > 1 or r"\ldots" in gold + answer:
        return False
    words = [set(name[1:].split()) if name.startswith("?") else {name} for name in (unit, other)]
    if unit and other and not words[0] & words[1]:
        return False
    if (g, a) != (gold, answer):
        return _same(g, a, leaf)
    g, a = (re.sub(r"\\text\{\s*([A-Za-z]?)\s*\}", r" \1 ", text) for text in (g, a))
    if r"\text" in g + a and not _RELATION.search(g + a):  # words in the midst of it: 5 feet 3 inches
        return re.sub(r"\\text|[{}\s]", "", g).lower() == re.sub(r"\\text|[{}\s]", "", a).lower()
    if leaf is None and squeeze(g) != squeeze(a):
        raise NeedsParser
    return squeeze(g) == squeeze(a) or leaf(g, a)  # type: ignore[misc]


# ---------------------------------------------------------------- what needs a parser (in a worker process only)


class NeedsParser(Exception):
    """Numbers and shape do not decide."""


class UnparseableGold(Exception):
    """The gold answer is not something math-verify can read."""


_CALL = r"\(((?:[^()]|\((?:[^()]|\([^()]*\))*\))*)\)"
_CALLS = {"exp": ("e^{", "}"), "abs": ("|", "|"), "cbrt": (r"\sqrt[3]{", "}"),
          "floor": (r"\lfloor ", r"\rfloor "), "ceil": (r"\lceil ", r"\rceil ")}  # fmt: skip
_TRIG = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|lg"
_OPERAND = (rf"(?:\s*(?:\d+(?:\.\d+)?|(?<![\\a-zA-Z])[a-zA-Z](?![a-zA-Z(])|\\(?:pi|theta|alpha|beta|gamma|phi|varphi|omega)"
            rf"(?![a-zA-Z])|\\sqrt(?:\[\d+\])?\s*(?:{_ARG}|\d)|\\frac\s*{_ARG}\s*{_ARG})(?:\s*\^\s*(?:{_ARG}|\w))?)+")
_PREPARE = [(re.compile(pattern), replacement) for pattern, replacement in (
    (r"(\d+(?:\.\d+)?)\s*\\degree ?", r"(\1\\cdot\\frac{\\pi}{180})"),  # within an expression, as in sin
    (r"\\log\s*_\s*(?:e(?![a-z])|\{e\})", r"\\ln "), (r"\*\*", "^"),
    (r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([+-]?\d+)(?![\w^.])", r"(\1\\cdot10^{\2})"),
    (r"(?<![\w^.}])(\d+)\s*\\frac\s*(\{\d+\})\s*(\{\d+\})", r"(\1+\\frac\2\3)"),  # mixed numbers
    (rf"(?<![\\a-zA-Z])(exp|abs|floor|ceil|cbrt){_CALL}", lambda m: m[2].join(_CALLS[m[1]])),
    (r"(?<![\\a-zA-Z])(?:binom|choose|comb|nCr|C)\(([^(),]+),([^(),]+)\)", r"\\binom{\1}{\2}"),
    (r"(?<![\\a-zA-Z])[Pp][Ii](?![a-zA-Z])", r"\\pi "),
    (rf"(?<![\\a-zA-Z])(sqrt|infty|{_TRIG})(?![a-zA-Z])", r"\\\1 "),
    (rf"\\sqrt\s*{_CALL}", r"\\sqrt{\1}"), (r"\^\s*(-\s*\d+|\d{2,})", r"^{\1}"),
    (r"\{([^{}]*)\\choose\s*([^{}]*)\}|^([^{}]*)\\choose\s*([^{}]*)$", r"\\binom{\1\3}{\2\4}"),
    (r"(?:\{\s*\})?\s*[_^]\s*(\w|\{\w+\})\s*C\s*_\s*(\w|\{\w+\})", r"\\binom{\1}{\2}"),
    # the argument of a function without brackets ends before the next operator
    (rf"\\({_TRIG})(?![a-zA-Z])((?:\s*[\^_]\s*(?:{_ARG}|\w|\\pi))*)\s*({_ARG}(?!\s*{_ARG})|{_OPERAND})", r"\\\1\2(\3)"),
    # decimals as fractions: no expression holds a float
    (r"\d*\.\d*\\(?:overline|bar|dot)\s*(?:\{\s*\d+\s*\}|\d)|\d+\.\d*|\.\d+",
     lambda m: r"(\frac{{{0.numerator}}}{{{0.denominator}}})".format(number(m[0]))),
)]  # fmt: skip


@lru_cache(maxsize=8192)
def parse(text: str) -> Any:
    r"""The sympy expression math-verify reads in `\boxed{text}`, or None; a set for conditions on one letter."""
    import sympy
    from math_verify import parse as math_verify_parse
    from math_verify.grader import unwrap_fcs
    from math_verify.parser import LatexExtractionConfig, NormalizationConfig

    kind, parts = elements(text)
    if kind == "," and all(map(_RELATION.search, parts)):
        sets = [unwrap_fcs(parse(part)).as_set() for part in parts]
        return (sympy.Union if re.search(r"or|\\vee", text) else sympy.Intersection)(*sets)
    for pattern, replacement in _PREPARE:
        text = pattern.sub(replacement, text)
    if re.search(r"(?<![_^\d])\d+\s+\d", text):
        return None  # it would add them up
    # Its removal of units takes the m of "2n - m" for metres; units were split off before.
    rules = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="last", equations=False)
    found = math_verify_parse(
        rf"\boxed{{{text}}}", [LatexExtractionConfig(boxed_match_priority=0, normalization_config=rules)],
        fallback_mode="no_fallback", extraction_mode="first_match", parsing_timeout=None)  # fmt: skip
    if not found or getattr(found[0], "is_Relational", False) and not re.search(rf"=|{_RELATION.pattern}", text):
        return None  # it took a misspelt command (\geslant, \newline) for a relation
    names = {s: sympy.I for s in getattr(found[0], "free_symbols", ()) if s.name == "i"}
    return found[0].xreplace(names) if names else found[0]


def by_parser(gold: str, answer: str) -> bool:
    """The leaves of `same`, by math-verify. May take for ever. Raises UnparseableGold."""
    from math_verify import verify

    g, a = parse(gold), parse(answer)
    if g is None:
        raise UnparseableGold(gold)
    if a is None or _differ(g, a):
        return False
    letters = [getattr(e, "free_symbols", set()) for e in (g, a)]
    if letters[0] == letters[1] and len(letters[0]) == 1 and all(hasattr(e, "as_set") for e in (g, a)):  # 2 > x > 1 is 1 < x < 2
        return g.as_set() == a.as_set()
    return bool(verify(g, a, float_rounding=15, numeric_precision=40, allow_set_relation_comp=True, timeout_seconds=None))


def _differ(gold: Any, answer: Any) -> bool:
    """Have two expressions visibly different values at some point? Spares math-verify the search for a proof.

    Letters stand for positive numbers, for integers where floor, factorial and their like occur.
    """
    import sympy

    if not (isinstance(gold, sympy.Expr) and isinstance(answer, sympy.Expr)) or gold.is_Matrix or answer.is_Matrix:
        return False
    symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
    whole = any(e.has(sympy.floor, sympy.ceiling, sympy.factorial, sympy.binomial, sympy.Mod) for e in (gold, answer))
    for trial in range(3 if symbols else 1):
        values = [sympy.Integer(3 + 2 * n + 5 * trial) if whole else sympy.Rational(7919 * (n + 1) % 997, 997) + trial
                  for n in range(len(symbols))]  # fmt: skip
        with contextlib.suppress(TypeError, ValueError, ArithmeticError, AttributeError):
            x, y = (sympy.N(e.doit().subs(dict(zip(symbols, values, strict=True))), 25, maxn=200) for e in (gold, answer))
            if x.is_finite and y.is_finite and x.is_number and y.is_number and abs(x - y) > max(abs(x), abs(y)) * 1e-12:
                return True
    return False
