"""What Python's operators mean for a penalty: sums and multiples; every other one raises and says what to write."""

import numbers
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import jax
import numpy as np

from jaxreg._core import checks

_RULE = "regularizers are added to each other, and multiplied or divided by numbers that are not negative."
_COMPARISONS = ("<", "<=", ">", ">=")


def _binary(sign: str, reflected: bool = False) -> Callable[[Any, Any], NoReturn]:
    def operator(self: Any, other: Any) -> NoReturn:
        raise TypeError(refusal(sign, *((other, self) if reflected else (self, other))))

    return operator


def _unary(written: str) -> Callable[[Any], NoReturn]:
    def operator(self: Any) -> NoReturn:
        value = written.format(f"reg({self._argument})")
        whole = "" if self._argument != "x" else f", or as a penalty `jaxreg.Function(lambda x: {value})`"
        raise TypeError(f"`{written.format(checks.short(self))}`: {_RULE} Write it with values: `{value}`{whole}.")

    return operator


class Operators:
    """A base of penalties. `a + b`, `factor * a` and `a / divisor` are the subclass's; the others are refused here."""

    _argument: ClassVar[str] = "x"  # what a penalty is called with

    if not TYPE_CHECKING:  # to type checkers too, `a - b` is no expression
        __sub__, __rsub__ = _binary("-"), _binary("-", reflected=True)
        __truediv__, __rtruediv__ = _binary("/"), _binary("/", reflected=True)
        __floordiv__, __rfloordiv__ = _binary("//"), _binary("//", reflected=True)
        __mod__, __rmod__ = _binary("%"), _binary("%", reflected=True)
        __pow__, __rpow__ = _binary("**"), _binary("**", reflected=True)
        __matmul__, __rmatmul__ = _binary("@"), _binary("@", reflected=True)
        __lt__, __le__, __gt__, __ge__ = map(_binary, _COMPARISONS)
        __neg__, __abs__ = _unary("-{}"), _unary("abs({})")

    def _factor(self, factor: Any) -> Any:
        """Return `factor`, if it is no function and no negative number."""
        if callable(factor) and not checks.is_variable(factor):  # `Scaled` has the words for variables
            raise TypeError(refusal("*", self, factor))
        if isinstance(factor, numbers.Real) and factor < 0:
            raise ValueError(refusal("*", factor, self, "the factor must be a real, finite, non-negative number."))
        return factor

    def _inverse(self, divisor: Any) -> Any:
        """Return 1/divisor, if that is a number."""
        if callable(divisor):
            raise TypeError(refusal("/", self, divisor))
        if isinstance(divisor, numbers.Real) and divisor < 0:
            raise ValueError(refusal("/", self, divisor, "the divisor must be a real, finite number greater than 0."))
        return 1 / checks.number(f"n` in `{checks.short(self)} / n", divisor, above=0.0)


def adds(left: Any, right: Any, is_penalty: Callable[[Any], bool]) -> bool:
    """Raise unless both are penalties; return False if one is the 0 that the built-in `sum` starts from."""
    if any(isinstance(value, (int, float)) and value == 0 for value in (left, right)):
        return False
    if not is_penalty(left) or not is_penalty(right):
        raise TypeError(refusal("+", left, right))
    return True


def refusal(sign: str, left: Any, right: Any, rule: str = _RULE) -> str:
    """The message for an operator that has no meaning: the call, the rule, the way out."""
    return f"`{checks.short(left)} {sign} {checks.short(right)}`: {rule} {_way_out(sign, left, right)}"


def _way_out(sign: str, left: Any, right: Any) -> str:
    penalties = [value for value in (left, right) if isinstance(value, Operators)]
    of_trees = any(penalty._argument != "x" for penalty in penalties)
    for other in (left, right):
        if isinstance(other, (type, str, dict)):
            return checks.instead(other).strip()
        if sign in ("*", "/") and callable(other) and not isinstance(other, Operators):
            written = f"{_name(left, 'schedule(step)')} {sign} {_name(right, 'schedule(step)')}"
            return (
                f"A strength that changes with the step is a function: give `lambda step: {written}` to "
                "`jaxreg.add_regularization` or `jaxreg.proximal` in place of the regularizer."
            )
    if sign == "+" and len(penalties) == 2:
        return "Let the one of arrays be one of trees: `jaxreg.TreeRegularizer({'**': reg}) + tree`."
    if sign == "@":
        return f"Call it: `reg({penalties[0]._argument})`."
    names = iter(["a", "b"] if len(penalties) == 2 else ["reg"])
    shown = [
        f"{next(names)}({value._argument})" if isinstance(value, Operators) else _name(value, "")
        for value in (left, right)
    ]
    base = f"({shown[0]})" if sign == "**" and shown[0].startswith("-") else shown[0]
    values = f"{base} {sign} {shown[1]}"
    if of_trees or sign == "+" or sign in _COMPARISONS:
        return f"Write it with values: `{values}`."
    return f"Write it with values: `{values}`, or as a penalty `jaxreg.Function(lambda x: {values})`."


def _name(value: Any, of_function: str) -> str:
    """How an operand is called in an advice: numbers as they are."""
    if isinstance(value, Operators):
        return "reg"
    if callable(value):
        return of_function
    return "loss" if isinstance(value, (jax.Array, np.ndarray, np.generic)) else checks.short(value)
