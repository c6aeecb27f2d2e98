"""Three sums over the groups of large arrays in one pass over the memory, as the compiler for GPUs makes one kernel.

It fuses sums with what they are made of only where one operation takes all of that. So one takes the three terms, two
of them side by side as complex numbers: a sum along lines, and along columns one over windows of rows, whose results
are then added. Those are complex too, so that devices which share the groups exchange all of them at once. No window
lies on two devices where 2, 4, … or 64 of them share an axis, as far as one of 8 rows is found; else parts are sent.

Across arrays, columns are added as complex numbers without windows: what one array has divided by rows and another by
columns would be sent whole.
"""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxreg._core import compiler, partition
from jaxreg._core.partition import Arrays, Grouping, Labels, Unit, Units, axes_of

Three = tuple[jax.Array, jax.Array, jax.Array]
_WINDOWS = range(64, 7, -1)  # rows; the more, the less is left to be added
_DEVICES = 64, 32, 16, 8, 4, 2, 1  # that may share an axis, each with whole windows


def three_sums(terms: tuple[Arrays, Arrays, Arrays], groups: Grouping) -> Three:
    """Σ of each of three arrays of real numbers, or of three tuples of them.

    Needed by `tests/accelerators/limits.py::test_a_step_with_groups_on_a_gpu`, held by
    `test_sums_on_gpu.py::test_sums_are_those_of_numpy`.
    """
    if isinstance(groups, Units):
        of_arrays = list(map(three_sums, zip(*terms, strict=True), groups.places))
        first, second, third = (functools.reduce(operator.add, sums) for sums in zip(*of_arrays, strict=True))
        return first, second, third
    plain = functools.partial(_one_by_one, groups)
    if isinstance(groups, Labels) or not compiler.is_large(terms[0]) or compiler.is_explicit(terms[0]):
        return plain(*terms)
    return compiler.on_gpu(functools.partial(_at_once, groups), plain, *terms)


def _one_by_one(groups: Grouping, *terms: jax.Array) -> Three:
    first, second, third = (partition.total(term, groups) for term in terms)
    return first, second, third


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _at_once(groups: tuple[int, ...] | Unit, first: jax.Array, second: jax.Array, third: jax.Array) -> Three:
    axes, both = axes_of(groups), lax.complex(first, second)
    operands, nothing = (third, both), (jnp.zeros((), third.dtype), jnp.zeros((), both.dtype))
    if first.ndim - 1 in axes:
        third, both = lax.reduce(operands, nothing, _add, axes)
    else:
        if not isinstance(groups, Unit) and (window := _window(first.shape, axes)):
            third, both = lax.reduce_window(operands, nothing, _add, window, window, "VALID")
        third, both = jnp.sum(lax.complex(third, jnp.zeros_like(third)), axes).real, jnp.sum(both, axes)
    shape = partition.shape(first.shape, groups)
    return both.real.reshape(shape), both.imag.reshape(shape), third.reshape(shape)


_at_once.defjvp(lambda groups, terms, changes: (_at_once(groups, *terms), _one_by_one(groups, *changes)))


def _add(a: Any, b: Any) -> Any:
    return a[0] + b[0], a[1] + b[1]


def _window(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...] | None:
    """The lengths of a window along all axes, of which it cuts one; None if it can cut none."""
    for devices in _DEVICES:
        for length in _WINDOWS:
            for axis in axes:
                if shape[axis] and shape[axis] % (devices * length) == 0:
                    return tuple(length if a == axis else 1 for a in range(len(shape)))
    return None
