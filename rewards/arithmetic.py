"""Arithmetic in the text of a model: + - * / and parentheses over whole numbers, exactly.

Its own parser, never `eval`: a text can cost no more than its length, since only numbers of up to
`MAX_DIGITS` digits are read, there are no powers, and nothing is called by depth (shunting yard,
Dijkstra 1961). Values are fractions, so 1/3*3 is 1.
"""

import re
from fractions import Fraction
from typing import NamedTuple

from kernels.errors import DataError

MAX_LENGTH = 400  # characters of an expression
MAX_DIGITS = 12
_TOKEN = re.compile(r"\s*(?:([0-9]+)|([-+*/()]))")
_WRITTEN = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-"})  # noqa: RUF001
_LATEX = (("\\times", "*"), ("\\cdot", "*"), ("\\div", "/"), ("\\left", ""), ("\\right", ""))
_RANK = {"+": 1, "-": 1, "*": 2, "/": 2, "negative": 3}


class Evaluated(NamedTuple):
    """The value of an expression and the numbers that stand in it, in order."""

    value: Fraction
    numbers: tuple[int, ...]


def evaluate(text: str) -> Evaluated:
    """Value and numbers of an expression such as `(25 - 3) * 4`; DataError if it is none, is too
    long, or divides by zero.
    """
    if len(text) > MAX_LENGTH:
        raise DataError(f"the expression has {len(text)} characters, {MAX_LENGTH} are read")
    values: list[Fraction] = []
    operators: list[str] = []
    numbers: list[int] = []
    is_operand_next = True
    for token in _tokens(text):
        if is_operand_next and token.isdigit():
            numbers.append(int(token))
            values.append(Fraction(numbers[-1]))
            is_operand_next = False
        elif is_operand_next and token == "(":
            operators.append(token)
        elif is_operand_next and token == "-":
            operators.append("negative")
        elif not is_operand_next and token == ")":
            while operators and operators[-1] != "(":
                _apply(operators.pop(), values)
            if not operators:
                raise DataError(f"{text!r} closes a parenthesis that was not opened")
            operators.pop()
        elif not is_operand_next and token in _RANK:
            while operators and _RANK.get(operators[-1], 0) >= _RANK[token]:
                _apply(operators.pop(), values)
            operators.append(token)
            is_operand_next = True
        else:
            raise DataError(f"{text!r}: {token!r} does not fit where it stands")
    if is_operand_next:
        raise DataError(f"{text!r} ends where a number is due")
    while operators:
        if operators[-1] == "(":
            raise DataError(f"{text!r} leaves a parenthesis open")
        _apply(operators.pop(), values)
    return Evaluated(values.pop(), tuple(numbers))


def _tokens(text: str) -> list[str]:
    plain = text.translate(_WRITTEN)
    for written, meant in _LATEX:
        plain = plain.replace(written, meant)
    tokens, place = [], 0
    plain = plain.rstrip()
    while place < len(plain):
        found = _TOKEN.match(plain, place)
        if found is None:
            raise DataError(f"{text!r} is no arithmetic of + - * / and parentheses")
        token = found[1] or found[2]
        if len(token) > MAX_DIGITS:
            raise DataError(f"{token[:20]}... has {len(token)} digits, {MAX_DIGITS} are read")
        tokens.append(token)
        place = found.end()
    return tokens


def _apply(operator: str, values: list[Fraction]) -> None:
    right = values.pop()
    if operator == "negative":
        values.append(-right)
        return
    left = values.pop()
    if operator == "/" and right == 0:
        raise DataError("the expression divides by zero")
    match operator:
        case "+":
            values.append(left + right)
        case "-":
            values.append(left - right)
        case "*":
            values.append(left * right)
        case _:
            values.append(left / right)
