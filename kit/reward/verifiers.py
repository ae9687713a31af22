"""Answers graded by the verifier that came with a problem, in the grading workers: reasoning-gym's (github.com/open-thought).

A problem's `verifier` is JSON: the task's name and the problem's entry. An answer is correct when the task's own `score_answer`
gives it 1; what it gives for a part of the answer earns nothing, as ThinkPrune's reward is 0 or 1. Some of these verifiers call
`eval`, or sympy, which does, on what a model wrote. `harmless` stands in its place.
"""

import ast
import builtins
import json
import sys
from typing import Any
from unittest import mock

# What sympy makes of a formula calls these by name; their arguments are formulas again.
FUNCTIONS = frozenset(("Integer Float Rational Symbol Abs sqrt exp log ln sin cos tan sec csc cot asin acos atan sinh cosh tanh "
                       "factorial Integral").split())
HARMLESS = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.Constant, ast.Name, ast.Load, ast.Call,
            ast.List, ast.Tuple, ast.Set)


def harmless(text: str, names: Any = None, local: Any = None) -> Any:
    """`eval` of numbers, texts, lists of them, and formulas; ValueError or SyntaxError for anything else."""
    for node in ast.walk(ast.parse(text.strip(), mode="eval")):
        called = node.func if isinstance(node, ast.Call) else None
        if not isinstance(node, HARMLESS) or called and not (isinstance(called, ast.Name) and called.id in FUNCTIONS):
            raise ValueError(f"{type(node).__name__} in an answer")
    return builtins.eval(text.strip(), names or {"__builtins__": {}}, local)


def correct(verifier: str, answer: str) -> bool:
    """Whether the verifier gives the answer full marks. Hostile text: call it in a grading worker only."""
    import reasoning_gym
    from sympy.parsing import sympy_parser

    asked = json.loads(verifier)
    for name, module in list(sys.modules.items()):
        if name.startswith("reasoning_gym."):
            vars(module).setdefault("eval", harmless)
    with mock.patch.object(sympy_parser, "eval", harmless, create=True):
        return reasoning_gym.get_score_answer_fn(asked["reasoning_gym"])(answer, asked["entry"]) >= 1
