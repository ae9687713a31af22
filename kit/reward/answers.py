r"""Answers: where a response states one (`extract_answer`), how it is spelled (`tidy`), and whether two are the `same`: by shape
(words, lists, brackets, names, units) and by exact numbers. The expressions that are left go to math-verify, in a worker process.
"""

import contextlib
import re
import unicodedata
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from typing import Any

MAX_LENGTH = 2_000  # characters; no benchmark's gold is longer than 300, and a parser is not fed a megabyte
MAX_DEPTH = 40  # nested brackets
_ARG = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}"  # {…} with two more levels of braces inside

# ---------------------------------------------------------------- where the answer stands
_BOX = re.compile(r"\\{1,2}(?:boxed|fbox)(?![a-zA-Z])\s*(\{)?|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(rf"[-+]?(?:\d[\d,]*(?:[./]\d+)?|\\[a-zA-Z]+(?:\s*(?:\d|{_ARG})){{0,2}}|[a-zA-Z](?![a-zA-Z]))+")
_MARKER = re.compile(r"(?i)answers?(?:\s+(?:is|are)\b|\s*[:：])|答案(?:是|为)?\s*[:：]?|correct\s+(?:option|choice)\s+is\b")
_LONGEST = 400  # characters of an answer in words
_UNDONE = re.compile(  # numbers that are still to be added or multiplied: no answer, however right its value
    r"(?=.*\d\s*(?:[-+*×·÷−]|\\?[a-z]+)\s*[-(]*\d)(?:[\d\s.,()$*×·÷+−-]|\\(?:times|cdot|div)|times|plus|minus)+")


def extract_answer(response: str, reading: str = "last-number", finished: bool | None = None) -> str:
    """The answer a response gives, as it is written there; "" for none. Linear in the response's length."""
    _, closed, tail = response.rpartition("</think>")
    if reading == "strict" and (not closed or finished is False):
        return ""
    if (box := _last_box(tail if reading == "strict" else response)) is not None:
        return box
    begun = re.search(r"\\boxed|\\fbox", response) or not closed and "<think>" in tail  # and not ended
    if reading != "last-number" or finished is False or begun:
        return ""
    _, tagged, answer = tail.rpartition("<answer>")
    if tagged:
        answer, ended, _ = answer.partition("</answer>")
        return _stripped(answer) if ended else ""
    return _in_words(tail[-2_000:].strip(), complete=finished is True or bool(closed))


def _last_box(text: str) -> str | None:
    """What is in the last complete box, of nested boxes in the outermost; None where there is none. One pass over the braces."""
    first, begin, end = re.search(r"\\{1,2}(?:boxed|fbox)", text), -1, -1
    open_braces: list[int] = []  # where a box's content begins, or -1 for an ordinary brace
    for match in _BOX.finditer(text, first.start()) if first else ():
        if match[0] == "}" and open_braces:
            opened = open_braces.pop()
            if opened >= 0 and (opened > begin or match.start() - opened <= MAX_LENGTH):  # else it was never closed
                begin, end = opened, match.start()
        elif match[0] == "{" or match[1]:
            open_braces.append(match.end() if match[1] else -1)
        elif "box" in match[0] and (bare := _BARE_BOX.match(text, match.end())):
            begin, end = bare.span()
    return _stripped(text[begin:end]) if begin >= 0 else None


def _stripped(answer: str) -> str:
    return "" if re.fullmatch(r"(?:\\text|\\[,;:!]|[\s{}$~])*", answer) else answer.strip()


def _in_words(tail: str, complete: bool) -> str:
    """An answer given in words: behind "answer is", as all there is, or (if complete) as the last number of the last line."""
    if markers := list(_MARKER.finditer(tail)):
        said = tail[markers[-1].end() :].replace("**", "").strip(" :：\n")
        lines = re.sub(r"^(?:\\\[|\$\$)\s*(.*?)\s*(?:\\\]|\$\$)", r"\1", said, flags=re.DOTALL).split("\n")
        sentence = re.match(r"\s*(.*?)(?:,?\s(?:as|since|because)\s.*?)?(?:[.。!](?=\s|$)(.*))?$", lines[0])
        said, rest = sentence[1].strip(), (sentence[2] or "") + " ".join(lines[1:])
        if said and not _UNDONE.fullmatch(said) and (complete or re.fullmatch(r"\W*(?:I hope .*)?", rest)):
            return _stripped(said)
    lines = [line for line in tail.split("\n") if re.search(r"\w", line)]
    if len(lines) == 1 and len(tail) <= _LONGEST:
        bare = _stripped(tail.rstrip(". "))
        worded = re.search(r"(?<![\\a-zA-Z{])[a-zA-Z]{2,}", re.sub(r"\\text\{[^{}]*\}", "", bare))
        if bare and not worded and re.search(r"\d|\\", bare) and not _UNDONE.fullmatch(bare):
            return bare
    last = re.findall(r"-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)", lines[-1][-_LONGEST:]) if complete and lines else []
    return last[-1].rstrip(",") if last else ""


# ---------------------------------------------------------------- one spelling of many
_CHARACTERS = str.maketrans({character: text for text, characters in {
    "-": "−–—", "/": "÷∕⁄", ",": "、", ".": "。", "'": "’", " ": "\n", "": "\u200b`", r"\times ": "×", r"\cdot ": "⋅·",
    r"\infty ": "∞", r"\sqrt ": "√", r"^\circ ": "°", r"\pm ": "±", r"\le ": "≤", r"\ge ": "≥", r"\ne ": "≠", r"\cup ": "∪",
    r"\cap ": "∩", r"\in ": "∈", r"\emptyset ": "∅", r"\approx ": "≈", r"\equiv ": "≡", r"\mathbb{R}": "ℝ", r"\mathbb{Z}": "ℤ",
    r"\pi ": "π", r"\theta ": "θ", r"\alpha ": "α", r"\beta ": "β", "^2": "²", "^3": "³", r"\frac{1}{2}": "½",
}.items() for character in characters})  # fmt: skip
_COMMANDS = {name: command for command, names in {
    r"\frac": "dfrac tfrac cfrac sfrac nicefrac", r"\binom": "dbinom tbinom", r"\le ": "le leq leqslant", r"\ne ": "neq",
    r"\ge ": "ge geq geqslant", "<": "lt", ">": "gt", "(": "langle", ")": "rangle", "[": "lbrack", "]": "rbrack", r"\{": "lbrace",
    r"\}": "rbrace", "|": "vert lvert rvert mid", r"\emptyset": "varnothing O", r"\ldots ": "dots dotsc dotsb cdots",
    r"\mathbb{R}": "R reals", r"\setminus ": "backslash smallsetminus", ":": "colon",
    r"\text": "textbf textrm textit textnormal textsf texttt mbox hbox mathrm operatorname",
    "": "left right big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr displaystyle textstyle limits", " ": "quad qquad space "
    "mathbf mathit mathsf boldsymbol mathtt bm rm bf it underline emph large Large LARGE huge Huge vec mathcal",
}.items() for name in names.split()}  # fmt: skip
_SPOKEN = {w: str(n) for n, w in enumerate("zero one two three four five six seven eight nine ten eleven twelve".split())} | {
    "sixteen": "16", "allrealnumbers": r"(-\infty,\infty)", "allreals": r"(-\infty,\infty)", "allintegers": r"\mathbb{Z}",
    "infinity": r"\infty", "nosolution": r"\emptyset", "nosolutions": r"\emptyset", "emptyset": r"\emptyset"}  # fmt: skip
_DEGREE = r"\\degree "
_W = r"(?:\\text|[{}\s])*"  # between words that may be in a text command or not
_TIDY = [(re.compile(pattern), replacement) for pattern, replacement in (
    (r"\\(?:Bbb|mathbf|mathbb)\s*(?:\{([RZNQC])\}|([RZNQC])(?![a-zA-Z]))", r"\\mathbb{\1\2}"),
    (r"\\(?:(?:text)?color|[hv]space\*?|[hv]?phantom)\s*\{[^{}]*\}|\\(?:left|right)\.", " "),
    (r"\\mathrm\s*\{([eid])\}", r"\1"), (r"\\([a-zA-Z]+)", lambda m: _COMMANDS.get(m[1], m[0])),
    (r"\\(frac|binom)\s*(\d|(?<=\s)[a-zA-Z]|\\pi)(?![a-zA-Z])", r"\\\1{\2}"),
    (rf"\\(frac|binom)\s*({_ARG})\s*(\d|[a-zA-Z]|\\pi)(?![a-zA-Z])", r"\\\1\2{\3}"),
    (r"<=|=<", r"\\le "), (r">=", r"\\ge "), (r"\.\.\.+", r"\\ldots "), (r"\b([AaPp])\.\s?([Mm])\b", r"\1\2"),
    (r"\^\s*(?:\{\s*\\(?:circ|degree)\s*\}|\\(?:circ|degree))|\\(?:text)?degree(?:\{\})?|(?<=\d)\s*\^\s*(?:\{o\}|o\b)", _DEGREE),
    (r"(?<=\d)(?:,\s*(?:\\!)+|\{,\}|,?(?:\\[,;:> ]|~))\s*(?=\d{3}(?!\d))", ""),  # 10,\!080 and 10\,080: thousands for certain
    (r"(?<!\\)\\[,;:> ]|~", " "), (r"(?<!\\)\\!", ""), (r"\+\s*/?\s*-(?=\s*[\d\\a-z(])", r"\\pm "),
    (rf"{_DEGREE}\s*(?:\\text\{{\s*[CF]\s*\}}|[CF](?![a-zA-Z]))|\\text\{{\s*{_DEGREE}\s*[CF]?\s*\}}", _DEGREE),
    (r"(?i)^\s*(\\text\{)?\s*(?:the )?(?:final )?answer(?: is)?\s*:?\s*(?=[\s\d$\\}-])", r"\1"),
    (r"(?<!\\)(?:\$|\\[()\[\]])", " "), (r"\\\{\s*\\\}", r"\\emptyset"),
    (r"^\s*\\\{\s*[a-z]\s*[|:]([^|]*[<>][^|]*|[^|]*\\[gl]e [^|]*)\\\}$", r"\1"),  # {x | x > 3}
    # a modulus, a base and the domain of a letter are what a unit is: they may be missing
    (r"(^-?\d+\s*)\\bmod|\\mod(?![a-z])", r"\1\\pmod "), (r"\\equiv(?![a-z])", "="),
    (r"\(?\s*\\(?:pmod|text\{\s*mod\s*\})\s*\{?\s*(\w+)\s*\}?\s*\)?$", r"\\text{ mod \1}"),
    (r"(?:(?<==)|^)\s*(-?\d+)(?=\s*\\text\{ mod ([1-9]\d*)\}$)", lambda m: str(int(m[1]) % int(m[2]))),
    (r"^(?:\\text\{|\()?\s*(-?[\dA-Fa-f]+)\s*[)}]?\s*(?:_|(?:\\text\{)?\s*(?:in )?base)(?:\\text|[{}(\s])*(\w+)[)}\s]*$",
     lambda m: rf"{m[1].upper()}\text{{ base {_SPOKEN.get(m[2], m[2])}}}"),
    (r"(?<=.)[,;]?\s*\(?(?:\\text\{[^{}]*\}\s*|\\forall\s*)?\s*[a-zA-Z]\s*\\in\s*\\mathbb\{([RZ])\}\)?$", r"\\text{ domain \1}"),
    (rf"(?<=.){_W},?{_W}(?:for(?: all| any| every| each)?|where|with){_W}(?:[a-zA-Z]{_W})?(?:is )?(?:an? |any )?(real|integer)s?"
     rf"(?: numbers?| values?)?(?: of)?{_W}[a-zA-Z]?[}}\s]*$", lambda m: rf"\text{{ domain {'R' if m[1] == 'real' else 'Z'}}}"),
    (r"^(?:\\\{)?\s*\\begin\{(?:cases|aligned|array\}\{[lcr]+)\}((?:[^\\=]+=(?:[^\\]|\\[a-zA-Z])+(?:\\\\)?)+)\\end\{\w+\}$",
     lambda m: m[1].replace("&", "").replace(r"\\", ",")),
    (r"(\d*)\.(\d*)(?:\\(?:overline|bar|dot)\s*\{?\s*|\((?=\d+\)$))(\d+)\s*[})]?",  # 0.\overline{3} and 0.(3)
     lambda m: rf"\frac{{{int(m[1] + m[2] + m[3]) - int('0' + m[1] + m[2])}}}{{{(10 ** len(m[3]) - 1) * 10 ** len(m[2])}}}"),
    (r"\\text\{\s*(?:\(?approx(?:imately)?\.?\)?)?\s*\}|^\s*\\approx", ""), (r"^\s*=\s*(?=[^=]+$)|\s+", " "),
    (r"(?<![\d.,] )(?<![\d.,])(\d{1,3})((?: \d{3})+)(?![\d/ ])", lambda m: m[1] + m[2].replace(" ", "")),
)]  # fmt: skip
_SPACES = re.compile(r"(?<!\d) +| +(?!\d)")  # those between two digits mean something: 1 1/2 is not 11/2
_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|.", re.DOTALL)
_STEP = {"(": 1, "[": 1, "{": 1, r"\{": 1, r"\begin": 1, ")": -1, "]": -1, "}": -1, r"\}": -1, r"\end": -1}


@lru_cache(maxsize=8192)
def tidy(text: str) -> str:
    r"""One spelling of many: `\dfrac` and `\tfrac` become `\frac`, `\left` goes, `\mbox` becomes `\text`, `−` becomes `-`."""
    if re.search(r"\\\\(?:[a-zA-Z]{2}|[{}%$,;!])", text) and all(len(run) % 2 == 0 for run in re.findall(r"\\+", text)):
        text = text.replace("\\\\", "\\")  # escaped once too often
    text = unicodedata.normalize("NFKC", text.translate(_CHARACTERS))
    for pattern, replacement in _TIDY:
        text = pattern.sub(replacement, text)
    return text.strip().rstrip(",;.\\ ")


def _depths(text: str) -> Iterator[tuple[str, int]]:
    """(token, how many brackets are open before it) for every token and, as an empty one, for the end of the text."""
    tokens = [*_TOKEN.findall(text), ""]
    return zip(tokens, accumulate((_STEP.get(token, 0) for token in tokens), initial=0), strict=False)


def inside(text: str, left: str, right: str) -> str | None:
    """What is between the brackets `left` and `right`, where they stand around all of the text, else None."""
    if not (text.startswith(left) and text.endswith(right)):
        return None
    middle = text[len(left) : -len(right)]
    depths = [depth for _, depth in _depths(middle)]
    return middle.strip() if min(depths) == 0 == depths[-1] else None


def split(text: str, *separators: str) -> list[str]:
    """The pieces of `text` between top-level separators, stripped."""
    pieces = [""]
    for token, depth in _depths(text):
        if depth == 0 and token in separators:
            pieces.append("")
        else:
            pieces[-1] += token
    return [piece.strip() for piece in pieces]


def malformed(text: str) -> bool:
    """Is `text` no LaTeX expression at all: empty, longer than MAX_LENGTH, unbalanced, or deeper than MAX_DEPTH?"""
    if not text.strip(" \t\r\n$") or len(text) > MAX_LENGTH or text.count(r"\begin") != text.count(r"\end"):
        return True
    braces = [0, *accumulate(_STEP[brace] for brace in re.findall(r"[{}]", re.sub(r"\\.", "", text, flags=re.DOTALL)))]
    return min(braces) < 0 or braces[-1] > 0 or max(depth for _, depth in _depths(text)) > MAX_DEPTH


# ---------------------------------------------------------------- numbers, units and words
_D = r"(?:\d+\.?\d*|\.\d+)"
_IN_BRACES = rf"\s*\{{\s*(-?{_D})\s*\}}"
_FRACTION = re.compile(rf"(?:(\d+)(?:\s+|(?=\\)))?(?:\\frac{_IN_BRACES}{_IN_BRACES}|({_D})\s*(?:/|:(?!0))\s*({_D}))")
_UNIT = {word: group.split()[0] for group in (
    "degree deg °|% percent percentage|dollar usd $|cent ¢|euro €|yen ¥|pound lb £|rupee ₹|m meter metre|cm centimeter centimetre"
    "|mm millimeter millimetre|km kilometer kilometre|in inch inche|ft foot feet|mi mile|s sec second|min minute|h hr hour"
    "|yr year|day|g gram|kg kilogram|l liter litre|ml|oz ounce|rad radian|km/h kph kmh|mi/h mph|unit|people|men|women|children"
    "|am|pm").split("|") for word in group.split()}  # fmt: skip
# What stands behind a number and is no unit of it, though it ends in s or stands before a plural.
_PROSE = frozenset("""about all almost always and any as at besides but dozens double either else except few fewer fifths for half
halves hundreds if in is isn it less many minus modulo more most much nearly negative neither never no non none nor not of off
often only or other others over per perhaps plus possibly quarters sometimes squares tens tenths than that then thirds this
thousands times to too twice unless until up was when with without wrong""".split())
_UNIT_BEHIND = re.compile(r"\\text\{[^{}]*\}(?:\\text\{[^{}]*\}|[\s/]|\\cdot|\^\s*\{?-?\d\}?)*$|\s*(?:\\\$|[€¢£¥₹]|\\?%)$"
    r"|(?<=\d|\}|i)\s*(?<![\\a-zA-Z])(?:[^\W\d_]{2,}|[^\W\d_a-zA-Z]|[km](?= ?/ ?\w))(?:[ /]+[^\W\d_]+)*(?:\s*\^\s*\{?[23]\}?)?$")
_SHORT_UNIT = re.compile(r"(?<=[\d}])\s+([mgshlLNJWVKCF](?:\s*\^\s*\{?[23]\}?)?|in)$")
_MONTH = re.compile(r"\b(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*")
_WORDS = re.compile(r"\\text\{\s*(?=[^{}]*[A-Za-z]{2})(?:[A-Za-z][^{}]*|\d+ [A-Z][a-z]{2}[^{}]*)\}"
    r"|(?=.*[A-Za-z]{4})[A-Za-z][A-Za-z' .-]*(?: \d+\w*)?")


def number(text: str) -> Fraction | None:
    r"""The exact value of `-12`, `.5`, `3/4`, `\frac{3}{4}`, `1\frac{4}{5}`, `3:4`, `1e5`; else None."""
    sign, text = (-1 if text.startswith("-") else 1), re.sub(r"^[+-]\s*", "", text)
    if re.fullmatch(rf"{_D}(?:[eE][+-]?\d{{1,3}})?", text):
        return sign * Fraction(text)
    if not (match := _FRACTION.fullmatch(text)):
        return None
    top, bottom = Fraction(match[2] or match[4]), Fraction(match[3] or match[5])
    return None if bottom == 0 or match[1] and min(top, bottom) < 0 else sign * (int(match[1] or 0) + top / bottom)


def quantity(text: str) -> tuple[str, str | None]:
    r"""(value, unit): ("9", "in^2") of `9\text{ square inches}`, ("7", "?pig") of `7\text{ pigs}`, ("x", "") of x; None: prose"""
    bare = re.sub(r"\s*\\degree ?", "", text)
    if bare != text and not re.search(r"\\(?:text|sin|cos|tan|cot|sec|csc)|'", bare):  # 45^\circ + 30^\circ
        return bare, "degree"
    match = _UNIT_BEHIND.search(re.sub(r"^(-?)(\\\$|[€¢£¥₹])\s*(.+)$", r"\1\3\2", text))
    value = match.string[: match.start()].strip() if match else ""
    if not value or re.search(r"([\^_+=*{(-]|\\cdot|\\times)$", value):
        return text, ""
    unit = re.sub(r"\\text|\\cdot|[{}()\\]", " ", match[0]).strip().lower().replace(".", "")
    unit = re.sub(r"^(?:(?:square|sq) (.*)|(?:cubic|cu) (.*))$", lambda m: f"{m[1]}^2" if m[1] else f"{m[2]}^3", unit)
    unit, _, power = re.sub(r"\s*\^\s*(?=-?\d\s*$)", "^", unit).partition("^")
    names = [_UNIT.get(word) or _UNIT.get(word.removesuffix("s")) for word in re.split(r"\s*/\s*|\s+per\s+", unit.strip())]
    if all(names):
        return value, "/".join(map(str, names)) + (f"^{power}" if power else "")
    noun = re.fullmatch(r"((?:mod|base|domain) \w+)|(?:[^\W\d_]+\s+){0,2}([a-z]{3,}s|[^\W\da-z_]+)", unit)
    if noun and not _PROSE & set(unit.split()):
        return value, noun[1] or "?" + noun[2].removesuffix("s")
    return (value, None) if r"\text" in match[0] else (text, "")


def said(text: str) -> str:
    """The letters and digits of an answer that is text: without case, articles, and the order of a date."""
    plain = re.sub(r"\b(?:the|an?)\s|(?<=\d)(?:st|nd|rd|th)\b", "", re.sub(r"\\text|[{}\\]", "", text).strip().lower())
    plain = " ".join(sorted(_MONTH.sub(r"\1", plain).split())) if _MONTH.search(plain) else plain
    return re.sub(r"[\s',.-]", "", plain)


# ---------------------------------------------------------------- shape
_CHOSEN = re.compile(r"(?i:option |choice |answer )?\(?([A-Za-z])\s?(?:[).:]+(?:\s+(\S.*))?)?")
_AND = re.compile(
    r"(?<=[^a-zA-Z\\])(?:\\text\{\s*,?\s*)?(?:and|or|和|或|及)(?=[^a-zA-Z])(?:\s*\})?|\\(?:lor|vee|land|wedge)(?![a-z])")
_RELATION = re.compile(r"[<>]|\\(?:le|ge|ne)(?![a-zA-Z])")
_LETTER = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]|\\(?:alpha|beta|gamma|delta|theta|lambda|mu|phi|angle|triangle)(?![a-zA-Z])")
_NAME = re.compile(r"(?:[a-zA-Z'|:/,\s{}]|\\(?!pi|infty|emptyset|sqrt|cdot|times|pm|mp|cup|cap|setminus|mathbb)[a-zA-Z]+)*")


class Undecided(Exception):
    """It takes a parser, or not even the parser can read the gold answer."""


def same(gold: str, answer: str, leaf: Callable[[str, str], bool] | None) -> bool:
    """Is `answer` the same as `gold`? `leaf` compares two expressions that are not numbers; Undecided where it is None."""
    lengths = len(tidy(gold)), len(tidy(answer))
    gold, answer = core(gold), core(answer)
    chosen = _CHOSEN.fullmatch(re.sub(r"\\text\{([^{}]*)\}", r"\1 ", answer).strip())
    if len(gold) == 1 and gold.isalpha() and (lengths[0] > 1 or gold in "ABCDEFGH"):  # "a" is not "A", but (a) is
        return bool(chosen) and gold in ((chosen[1],) if lengths == (1, 1) else (chosen[1].upper(), chosen[1].lower()))
    if chosen and chosen[2] and chosen[1] in "ABCDEFGH":  # "(B) 12" where the gold is 12
        answer = core(chosen[2])
    if _SPACES.sub("", gold) == _SPACES.sub("", answer):
        return True
    if r"\ldots" in gold + answer:
        return False
    if None not in (values := [number(gold), number(answer)]):
        return values[0] == values[1]
    if _WORDS.fullmatch(gold) or _WORDS.fullmatch(answer):
        return said(gold) == said(answer)
    for rule in (_units, _list, _equation):
        if (verdict := rule(gold, answer, lambda x, y: same(x, y, leaf))) is not None:
            return verdict
    if r"\text" in gold + answer and not _RELATION.search(gold + answer) or ":0" in gold + answer:  # 5 feet 3 inches, 3:05
        return said(gold) == said(answer)
    if leaf is None:
        raise Undecided
    return leaf(gold, answer)


def core(text: str) -> str:
    """One answer without superfluous text commands, brackets and thousands' commas; spoken sets and numbers as symbols."""
    text = tidy(text)
    if _WORDS.fullmatch(text):
        return _SPOKEN.get(said(text), text)
    for left, right in ((r"\boxed{", "}"), (r"\fbox{", "}"), ("{", "}"), (r"\text{", "}"), ("(", ")"), ("[", "]")):
        if (inner := inside(text, left, right)) and (right == "}" or len(split(inner, ",", ";")) == 1):
            return core(inner)
    merged = re.sub(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])", lambda m: m[0].replace(",", ""), text)
    return text if re.search(r",\S|^(?:[(\[]|\\\{)", merged) else merged  # a tight comma elsewhere says that this is a list


def elements(text: str) -> tuple[str, list[str]]:
    """(kind, parts); the kind is a comma (a list, a plus-minus), a colon (a ratio of three), two brackets, or "" (one answer)."""
    text = core(_AND.sub(",", re.sub(r"\\text\{([^{}]*\w)(?:\s+(?:and|or)\s*|\s*,\s*)\}", r"\\text{\1},", text)))
    ratio, parts = split(text, ":"), []
    if len(ratio) > 2 and all(ratio) and "=" not in text:
        return ":", [rf"\frac{{{ratio[0]}}}{{{part}}}" for part in ratio[1:]]
    for piece in filter(None, split(text, ",", ";")):
        both = re.search(r"\\pm(?![a-z])", piece) and r"\mp" not in piece and not piece.startswith(r"\{")
        parts += [re.sub(r"\\pm(?![a-z])", sign, piece) for sign in "+-"] if both else [piece]
    for left, right in ((r"\{", r"\}"), ("(", ")"), ("[", "]"), ("(", "]"), ("[", ")")):
        if len(parts) == 1 and (inner := inside(text, left, right)) is not None:
            many, found = elements(inner) if left == r"\{" else (",", split(inner.rstrip(", "), ",", ";"))
            return left + right, found if many == "," else [inner]
    return "," * (len(parts) > 1), parts


def _list(gold: str, answer: str, equal: Callable[[str, str], bool]) -> bool | None:
    """Sets and lists in any order, but x = 2, y = 1 in that of the names; tuples and intervals in order, with their brackets."""
    (kind, g), (other, a) = elements(gold), elements(answer)
    if any(map(_RELATION.search, g + a)) and "," in (kind, other):
        return None  # conditions: the parser makes a set of them
    kinds = {kind, other}
    if kinds == {",", ""} and (pair := named(answer if kind else gold)):  # (x, y) = (1, 2) for 1, 2
        return equal(gold, pair[1]) if kind else equal(pair[1], answer)
    if r"\{\}" in kinds and kinds <= {r"\{\}", ",", ""} and not re.search(r"\\(?:cup|cap|setminus)", gold + answer):
        return all(any(equal(x, y) for y in a) for x in g) and all(any(equal(x, y) for x in g) for y in a)
    if "" in kinds or len(g) != len(a):
        return None if "" in kinds and not kinds & {",", ":"} else False
    names = [{pair[0].partition("_")[0] for pair in map(named, parts) if pair} for parts in (g, a)]  # x_1, x_2: roots
    if kinds != {","} or (len(names[0]) == len(g)) != (len(names[1]) == len(a)):
        alike = kind == other or kinds == {",", "()"} or len(g) != 2 and not kinds & {",", r"\{\}"}
        return alike and all(map(equal, g, a))
    for part in g:  # equality is transitive, so taking the first that fits is enough
        if not any(equal(part, fits := found) for found in a):
            return False
        a.remove(fits)
    return True


def named(text: str) -> tuple[str, str] | None:
    """(name, value) of `x=3`, `f(x)=2x`, `|AB|=3`; None for other equations and for no equation."""
    name, *values = split(text, "=", *(() if _RELATION.search(text) else (r"\in",)))
    head = re.sub(r"_\s*(?:\{[^{}]*\}|\w)|\([^()=]*\)", "", name)
    if not values or not values[-1] or not _NAME.fullmatch(head) or name and not re.search("[a-zA-Z]", name):
        return None
    return re.sub(r"\\text|[{} \\]", "", name), values[-1]


def _equation(gold: str, answer: str, equal: Callable[[str, str], bool]) -> bool | None:
    """Named values by name, if both have one; an equation by its last side, if the other is none; else it is the parser's."""
    g, a = named(gold), named(answer)
    if g and a and (g[0] == a[0] or not (_LETTER.search(g[1]) and _LETTER.search(a[1]))):
        return g[0] == a[0] and equal(g[1], a[1])
    sides, others = split(gold, "="), split(answer, "=")
    if len(sides) > 1 < len(others) or not (g or a) and len(sides) == len(others):
        return None
    if g or len(sides) > 1:
        return bool(g) and equal(g[1], answer)
    known = a or _LETTER.search(others[0]) or equal(gold, others[0])  # m + n = 7 for 7, and 14/2 = 7 but not 8 = 7
    return bool(known) and equal(gold, a[1] if a else others[-1])


def _units(gold: str, answer: str, equal: Callable[[str, str], bool]) -> bool | None:
    """Units may be missing on one side but must not differ; a base only in the answer; a space tells "6 m" from "6m"."""
    g, unit = quantity(gold)
    a, other = quantity(_SHORT_UNIT.sub(r"\\text{\1}", answer) if unit or number(gold) is not None else answer)
    if unit == other == "":
        return None
    return None not in (unit, other) and (unit == other or not other or not unit and other[:4] != "base") and equal(g, a)


# ---------------------------------------------------------------- what needs a parser (in a worker process only)
_CALL = r"\(((?:[^()]|\((?:[^()]|\([^()]*\))*\))*)\)"
_TRIG = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|lg"
_OPERAND = (rf"(?:\s*(?:\d+(?:\.\d+)?|(?<![\\a-zA-Z])[a-zA-Z](?![a-zA-Z(])|\\(?:pi|theta|alpha|beta|gamma|phi|varphi|omega)"
            rf"(?![a-zA-Z])|\\sqrt(?:\[\d+\])?\s*(?:{_ARG}|\d)|\\frac\s*{_ARG}\s*{_ARG})(?:\s*\^\s*(?:{_ARG}|\w))?)+")
_PREPARE = [(re.compile(pattern), replacement) for pattern, replacement in (
    (r"(\d+(?:\.\d+)?)\s*\\degree ?", r"(\1\\cdot\\frac{\\pi}{180})"),  # within an expression, as in sin
    (r"\*\*", "^"), (r"\\log\s*_\s*(?:e(?![a-z])|\{e\})", r"\\ln "),
    (r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([+-]?\d+)(?![\w^.])", r"(\1\\cdot10^{\2})"),
    (r"(?<![\w^.}])(\d+)\s*\\frac\s*(\{\d+\})\s*(\{\d+\})", r"(\1+\\frac\2\3)"),  # mixed numbers
    (rf"(?<![\\a-zA-Z])abs{_CALL}", r"|\1|"), (rf"(?<![\\a-zA-Z])cbrt{_CALL}", r"\\sqrt[3]{\1}"),
    (r"(?<![\\a-zA-Z])(?:binom|choose|comb|nCr|C)\(([^(),]+),([^(),]+)\)", r"\\binom{\1}{\2}"),
    (rf"(?<![\\a-zA-Z])(sqrt|exp|floor|ceil|infty|[Pp]i|{_TRIG})(?![a-zA-Z])", lambda m: f"\\{m[1].lower()} "),
    (rf"\\sqrt\s*{_CALL}", r"\\sqrt{\1}"),
    (r"(?:\{\s*\})?\s*[_^]\s*(\w|\{\w+\})\s*C\s*_\s*(\w|\{\w+\})", r"\\binom{\1}{\2}"),
    # the argument of a function without brackets ends before the next operator
    (rf"\\({_TRIG})(?![a-zA-Z])((?:\s*[\^_]\s*(?:{_ARG}|\w|\\pi))*)\s*({_ARG}(?!\s*{_ARG})|{_OPERAND})", r"\\\1\2(\3)"),
    # decimals as fractions: no expression holds a float
    (r"\d+\.\d*|\.\d+", lambda m: r"(\frac{{{0.numerator}}}{{{0.denominator}}})".format(Fraction(m[0]))),
)]  # fmt: skip


@lru_cache(maxsize=8192)
def parse(text: str) -> Any:
    r"""The sympy expression math-verify reads in `\boxed{text}`, or None; a set for conditions on one letter."""
    import math_verify
    import sympy

    kind, parts = elements(text)
    if kind == "," and all(map(_RELATION.search, parts)):
        sets = [math_verify.grader.unwrap_fcs(parse(part)).as_set() for part in parts]
        return (sympy.Union if re.search(r"or|\\vee", text) else sympy.Intersection)(*sets)
    for pattern, replacement in _PREPARE:
        text = pattern.sub(replacement, text)
    if re.search(r"(?<![_^\d])\d+\s+\d", text):
        return None  # it would add them up
    # Its removal of units takes the m of "2n - m" for metres; units were split off before.
    rules = math_verify.LatexNormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="last")
    latex = math_verify.LatexExtractionConfig(boxed_match_priority=0, normalization_config=rules)
    found = math_verify.parse(rf"\boxed{{{text}}}", [latex], "no_fallback", "first_match", parsing_timeout=None)
    if not found or getattr(found[0], "is_Relational", False) and not re.search(rf"=|{_RELATION.pattern}", text):
        return None  # it took a misspelt command (\geslant, \newline) for a relation
    return found[0].xreplace({symbol: sympy.I for symbol in found[0].free_symbols if symbol.name == "i"})


def by_parser(gold: str, answer: str) -> bool:
    """The leaves of `same`, by math-verify. May take for ever. Raises Undecided."""
    import sympy
    from math_verify import verify

    both = g, a = parse(gold), parse(answer)
    if g is None:
        raise Undecided
    if a is None:
        return False
    letters = sorted(g.free_symbols | a.free_symbols, key=str)
    if len(letters) == 1 and g.free_symbols == a.free_symbols and all(hasattr(e, "as_set") for e in both):
        return g.as_set() == a.as_set()  # 2 > x > 1 is 1 < x < 2
    whole = any(e.has(sympy.floor, sympy.ceiling, sympy.factorial, sympy.binomial, sympy.Mod) for e in both)
    for trial in range(3 if letters else 1):  # values that visibly differ somewhere spare the search for a proof
        points = [n + 3 + 5 * trial if whole else sympy.Rational(7919 * (n + 1) % 997, 997) + trial for n in range(len(letters))]
        with contextlib.suppress(TypeError, ValueError, ArithmeticError, AttributeError):
            x, y = (sympy.N(e.doit().subs(list(zip(letters, points, strict=True))), 25, maxn=200) for e in both)
            if x.is_finite and y.is_finite and abs(x - y) > max(abs(x), abs(y)) * 1e-12:
                return False
    return bool(verify(g, a, float_rounding=15, numeric_precision=40, allow_set_relation_comp=True, timeout_seconds=None))
