"""Numbers that a program makes of a width, such as log n: in the program of a narrower network they are others."""

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from jaxreg._rules.paths import Leaves
from jaxreg._shrink.families import Family
from jaxreg._shrink.walk import programs_inside


def counted(
    apply: Callable[..., Any], flat: Leaves, inputs: Sequence[Any], jaxpr: Any, families: Sequence[Family]
) -> list[Family]:
    """Return the families of whose sizes the program holds numbers: it is traced with one unit less of them.

    First of all families, then, if that is another program or none, of those of one kind, the same in each layer, and
    one by one only where the numbers of a kind differ. A network whose widths are written down, as those of Linen's
    modules are, cannot be traced so: of it nothing is known, nor where the narrower program has other operations.
    """

    def differs(chosen: Sequence[Family]) -> bool | None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                other = jax.make_jaxpr(apply)(_narrower(flat, chosen), *inputs)
        except Exception:  # whatever a network says of shapes that it was not built for
            return None
        one, two = list(_operations(jaxpr)), list(_operations(other))
        if [name for name, _ in one] != [name for name, _ in two]:
            return None
        return not all(_is_same(a, b) for (_, a), (_, b) in zip(one, two, strict=True))

    if not families or differs(families) is False:
        return []
    kinds: dict[Any, list[Family]] = {}
    for family in families:
        where = tuple((re.sub(r"\d+", "", part.path), part.axis) for part in family.parts)
        kinds.setdefault((family.size, where), []).append(family)
    found = [kind for kind in kinds.values() if differs(kind)]
    return [family for kind in found for family in kind if len(kind) == 1 or differs([family])]


def _narrower(flat: Leaves, families: Sequence[Family]) -> Any:
    """The parameters' shapes without the last unit of each family."""
    kept: dict[int, list[Any]] = {}
    for family in families:
        for part in family.parts:
            axes = kept.setdefault(part.leaf, [np.full(n, True) for n in flat.leaves[part.leaf].shape])
            axes[part.axis] &= part.labels != family.size - 1
    leaves = list(flat.leaves)
    for i, axes in kept.items():
        leaves[i] = jax.ShapeDtypeStruct([int(np.sum(keep)) for keep in axes], leaves[i].dtype)
    return flat.treedef.unflatten(leaves)


def _operations(program: Any) -> Iterator[tuple[str, list[Any]]]:
    """The names of all operations and the numbers that each holds, those of programs inside too."""
    yield "program", list(getattr(program, "consts", []))
    for eqn in getattr(program, "jaxpr", program).eqns:
        exponent = [eqn.params["y"]] if eqn.primitive.name == "integer_pow" else []
        yield eqn.primitive.name, [atom.val for atom in eqn.invars if isinstance(atom, Literal)] + exponent
        for inside in programs_inside(eqn.params):
            yield from _operations(inside)


def _is_same(one: list[Any], other: list[Any]) -> bool:
    """Whether numbers are the same; arrays of other shapes have a width, which is looked at where they are read."""
    if len(one) != len(other):
        return False
    for a, b in zip(one, other, strict=True):
        if a is b or np.shape(a) != np.shape(b) or not (_is_number(a) and _is_number(b)):
            continue
        if not np.array_equal(np.asarray(a), np.asarray(b)) and not (np.all(np.isnan(a)) and np.all(np.isnan(b))):
            return False
    return True


def _is_number(value: Any) -> bool:
    is_key = isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.extended)
    return not (isinstance(value, jax.core.Tracer) or is_key)
