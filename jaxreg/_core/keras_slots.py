"""A regularizer in a place of a Keras variable that is not for it: a set as a penalty, a penalty as a projection."""

import dataclasses
from types import FrameType
from typing import Any

from jaxreg._core import checks
from jaxreg._core.struct import Struct
from jaxreg._core.structure import Indicator

LAYERS = "keras.src.layers.layer"  # the module whose code calls regularizers, those of weights and those of outputs
_RULE = "a constraint is 0 in its set and inf outside, with gradient 0, so that a loss keeps no {} in the set."


def check_penalty(reg: Any, caller: FrameType) -> None:
    """Raise if `reg`, which a layer of Keras calls as a regularizer, is a set.

    In a training loop of one's own (`stateless_call`) Keras gives it arrays, which tell nothing: the caller does.
    """
    if not sets_in(reg):
        return
    variable = caller.f_locals.get("variable")
    if variable is not None:
        raise TypeError(
            f"`kernel_regularizer={checks.short(reg)}` (of {variable.path}): {_RULE.format('weights')} {_way_out(reg)}"
        )
    layer = caller.f_locals.get("self")
    raise TypeError(
        f"`activity_regularizer={checks.short(reg)}` (of {getattr(layer, 'path', layer)}): {_RULE.format('outputs')} "
        f"Project them in a layer that comes after it, `keras.layers.Lambda(jaxreg.keras.constraint({_sum_of(reg)}))`."
        f"{_rest(reg, 'activity_regularizer')}"
    )


def check(reg: Any, x: Any) -> None:
    """Raise if `x` is a Keras variable that has `reg` as its constraint.

    Keras calls it with the variable itself, so the variable can be asked; a call by hand is none of its business.
    """
    if getattr(x, "constraint", None) is reg:
        raise TypeError(
            f"`kernel_constraint={checks.short(reg)}` (of {x.path}): Keras takes a projection there, and a regularizer "
            f"called gives a penalty. {_way_out(reg)}"
        )


def sets_in(reg: Any) -> list[Any]:
    """The parts of a regularizer that are sets: constraints, and structures of nothing but constraints."""
    if isinstance(reg, Indicator):
        return [reg]
    values = [getattr(reg, field.name) for field in dataclasses.fields(reg)]
    parts = [part for value in values for part in (value if isinstance(value, tuple) else (value,))]
    parts = [part for part in parts if isinstance(part, Struct)]
    sets = [sets_in(part) for part in parts]
    is_set = bool(parts) and all(found == [part] for found, part in zip(sets, parts, strict=True))
    return [reg] if is_set else [one for found in sets for one in found]


def _way_out(reg: Any) -> str:
    if not sets_in(reg):
        return f"Write `kernel_regularizer={checks.short(reg)}`."
    written = f"kernel_constraint=jaxreg.keras.constraint({_sum_of(reg)})"
    return f"Write `{written}`, which projects after every step.{_rest(reg, 'kernel_regularizer')}"


def _sum_of(reg: Any) -> str:
    return " + ".join(map(checks.short, sets_in(reg)))


def _rest(reg: Any, argument: str) -> str:
    return "" if sets_in(reg) == [reg] else f" The other terms belong to `{argument}=`."
