"""A regularizer in a place of a Keras variable that is not for it: a set as a penalty, a penalty as a projection."""

import dataclasses
from typing import Any

from jaxreg._core import checks
from jaxreg._core.struct import Struct
from jaxreg._core.structure import Indicator


def check(reg: Any, x: Any) -> None:
    """Raise if `x` is a Keras variable that has `reg` as its constraint, or as its regularizer where that is a set.

    Keras calls both with the variable itself, so the variable can be asked; a call by hand is none of its business.
    """
    if getattr(x, "constraint", None) is reg:
        raise TypeError(
            f"`kernel_constraint={checks.short(reg)}` (of {x.path}): Keras takes a projection there, and a regularizer "
            f"called gives a penalty. {_way_out(reg)}"
        )
    if getattr(x, "regularizer", None) is reg and sets_in(reg):
        raise TypeError(
            f"`kernel_regularizer={checks.short(reg)}` (of {x.path}): a constraint is 0 in its set and inf outside, "
            f"with gradient 0, so that a loss keeps no weights in the set. {_way_out(reg)}"
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
    sets = sets_in(reg)
    if not sets:
        return f"Write `kernel_regularizer={checks.short(reg)}`."
    rest = "" if sets == [reg] else " The other terms belong to `kernel_regularizer=`."
    inside = " + ".join(map(checks.short, sets))
    return f"Write `kernel_constraint=jaxreg.keras.constraint({inside})`, which projects after every step.{rest}"
