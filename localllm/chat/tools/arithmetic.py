"""Arithmetic of expressions that a model wrote: parsed, never run as a program, and bounded, so
that no expression takes noticeable time or memory."""

import ast
import math
import operator
from collections.abc import Callable
from typing import Final

from localllm.errors import UsageError

MAX_CHARS = 1_000
MAX_BITS = 4_096
"""Of a whole number: 1,233 digits."""
MAX_FACTORIAL = 400
MAX_DIGITS = 400
"""Of rounding: a float has 308 before the point."""

Number = int | float

_BINARY: Final[dict[type[ast.operator], Callable[[Number, Number], Number]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}

_TYPOGRAPHY: Final = {0xD7: "*", 0xB7: "*", 0xF7: "/", 0x2212: "-", ord("^"): "**"}
"""The signs of print for times (two), divided by and minus."""

_CONSTANTS: Final = {"pi": math.pi, "e": math.e, "tau": math.tau}

_FUNCTIONS: Final[dict[str, Callable[..., Number]]] = {
    "abs": abs,
    "round": lambda x, digits=0: round(x, digits) if abs(digits) <= MAX_DIGITS else x,
    "floor": math.floor,
    "ceil": math.ceil,
    "min": min,
    "max": max,
    "sum": lambda *values: sum(values),
    "mean": lambda *values: sum(values) / len(values),
    "sqrt": math.sqrt,
    "exp": math.exp,
    "log": math.log,
    "ln": math.log,
    "log2": math.log2,
    "log10": math.log10,
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "asin": math.asin,
    "acos": math.acos,
    "atan": math.atan,
    "degrees": math.degrees,
    "radians": math.radians,
    "gcd": math.gcd,
    "factorial": lambda n: math.factorial(_bounded(n, MAX_FACTORIAL)),
}


def calculate(expression: str) -> str:
    """Return the value of an expression as text. Raises UsageError that says what is wrong.

    Python's operators, `^` for powers, parentheses, the usual functions and pi, e and tau.
    """
    if len(expression) > MAX_CHARS:
        raise UsageError(f"The expression has more than {MAX_CHARS} characters.")
    text = expression.strip().translate(_TYPOGRAPHY).removesuffix("=")
    try:
        value = _value(ast.parse(text, mode="eval").body)
    except UsageError:
        raise
    except ZeroDivisionError:
        raise UsageError("Division by zero.") from None
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise UsageError(f"This is no expression that can be calculated: {reason}.") from None
    except OverflowError:
        raise UsageError("The result is too large.") from None
    return str(value) if isinstance(value, int) else f"{value:.15g}"


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=bool() | complex()):
            raise UsageError("Only real numbers can be calculated.")
        case ast.Constant(value=int() | float() as number):
            return _checked(number)
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left), _value(right))
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in _BINARY:
            return _checked(_BINARY[type(operation)](_value(left), _value(right)))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            return _checked(_FUNCTIONS[name](*map(_value, args)))
    raise UsageError(
        "Only numbers, + - * / // % ^, parentheses, pi, e, tau and these functions can be"
        f" calculated: {', '.join(_FUNCTIONS)}."
    )


def _power(base: Number, exponent: Number) -> Number:
    if (
        isinstance(base, int)
        and isinstance(exponent, int)
        and exponent > 0
        and base.bit_length() * exponent > MAX_BITS
    ):
        raise OverflowError
    result = base**exponent
    if isinstance(result, complex):
        raise UsageError("The result is no real number.")
    return _checked(result)


def _checked(value: Number) -> Number:
    if value.bit_length() > MAX_BITS if isinstance(value, int) else not math.isfinite(value):
        raise OverflowError
    return value


def _bounded(value: Number, most: int) -> int:
    if not isinstance(value, int) or value > most:
        raise UsageError(f"Only whole numbers up to {most} can be used there.")
    return value
