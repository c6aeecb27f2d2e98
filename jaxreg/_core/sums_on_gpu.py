"""Three sums over the groups of large arrays in one pass over the memory, as the compiler for GPUs makes one kernel.

It fuses sums with what they are made of only where one operation takes all of that. So one takes the three terms, two
of them side by side as complex numbers: sums of parts of lines, or along columns of windows of rows. These are then
added as complex numbers, so that devices which share the groups exchange all of them at once. The operation itself is
not divided, and no part and no window lies on two devices: of how many there are the mesh of an array tells. Without
one, where a program is divided by `in_shardings` alone, it may be 2, 4, … or 256, of which each has at least 32 rows or
entries.

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
_PARTS = 256, 128, 64, 32, 16, 8, 4, 2  # of an axis: as many as devices that may share it, or a multiple
_SHARE = 32  # rows or entries of each: the more, the less is left to be added
_WINDOWS = range(64, 1, -1)  # rows, which one thread adds


def three_sums(terms: tuple[Arrays, Arrays, Arrays], groups: Grouping, lines: bool = True) -> Three:
    """Σ of each of three arrays of real numbers, or of three tuples of them.

    Without `lines` in one pass only along columns: three sums along lines, of one array, are one kernel as they are.
    Needed by `tests/accelerators/limits.py::test_a_step_with_groups_on_a_gpu`, held by
    `test_sums_on_gpu.py::test_sums_are_those_of_numpy`.
    """
    if isinstance(groups, Units):
        of_arrays = [three_sums((a, b, c), unit, lines) for a, b, c, unit in zip(*terms, groups.places, strict=True)]
        first, second, third = (functools.reduce(operator.add, sums) for sums in zip(*of_arrays, strict=True))
        return first, second, third
    plain, x = functools.partial(_one_by_one, groups), terms[0]
    if isinstance(groups, Labels) or not compiler.is_large(x) or compiler.is_explicit(x):
        return plain(*terms)
    if not lines and x.ndim - 1 in axes_of(groups):
        return plain(*terms)
    return compiler.on_gpu(functools.partial(_at_once, groups), plain, *terms)


def _one_by_one(groups: Grouping, *terms: jax.Array) -> Three:
    first, second, third = (partition.total(term, groups) for term in terms)
    return first, second, third


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _at_once(groups: tuple[int, ...] | Unit, *terms: jax.Array) -> Three:
    axes, shape = axes_of(groups), terms[0].shape
    if terms[0].ndim - 1 in axes:
        parts = next((n for n in _parts(terms[0], -1) if shape[-1] % n == 0), 1)
        terms = tuple(x.reshape(*shape[:-1], parts, shape[-1] // parts) for x in terms)
        operands, nothing, add = _operation(*terms)
        third, both = lax.reduce(operands, nothing, add, (len(shape),))
    elif isinstance(groups, Unit):
        third, both = terms[2], lax.complex(*terms[:2])
    elif window := _window(terms[0], axes):
        operands, nothing, add = _operation(*terms)
        third, both = lax.reduce_window(operands, nothing, add, window, window, "VALID")
    else:
        return _one_by_one(groups, *terms)
    third, both = jnp.sum(lax.complex(third, jnp.zeros_like(third)), axes).real, jnp.sum(both, axes)
    first, second, third = (x.reshape(partition.shape(shape, groups)) for x in (both.real, both.imag, third))
    return first, second, third


_at_once.defjvp(lambda groups, terms, changes: (_at_once(groups, *terms), _one_by_one(groups, *changes)))


def _operation(first: jax.Array, second: jax.Array, third: jax.Array) -> tuple[Any, Any, Any]:
    """The third and the first two, where a sum begins, and how it goes on."""
    both = lax.complex(first, second)

    def add(a: Any, b: Any) -> Any:
        return a[0] + b[0], a[1] + b[1]

    return (third, both), (jnp.zeros((), third.dtype), jnp.zeros((), both.dtype)), add


def _parts(x: jax.Array, axis: int) -> list[int]:
    """Into how many an axis may be cut so that each device has whole ones, many first."""
    devices = compiler.devices(x)
    more = [n for n in _PARTS if n > devices and n % devices == 0 and x.shape[axis] >= _SHARE * n]
    return [*more, devices]


def _window(x: jax.Array, axes: tuple[int, ...]) -> tuple[int, ...] | None:
    """The lengths of a window along all axes, of which it cuts one; None if it can cut none."""
    cuts = [
        (parts, length, -place)
        for place, axis in enumerate(axes)
        for parts in _parts(x, axis)
        for length in _WINDOWS
        if x.shape[axis] % (parts * length) == 0
    ]
    if not cuts:
        return None
    _, length, place = max(cuts)
    return tuple(length if axis == axes[-place] else 1 for axis in range(x.ndim))
