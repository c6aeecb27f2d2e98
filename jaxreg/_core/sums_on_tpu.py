"""Sums of squares over groups as products with ones, which a TPU takes nearly as fast as its memory is read.

By the account of its compiler a sum alone takes a TPU twice as long as that; the units for products of matrices are
idle then. The ones have eight rows: of fewer the compiler makes a sum again. What the squares are made of becomes a
part of the product, and devices that share a group exchange the sums of what they have.
"""

import functools

import jax
import jax.numpy as jnp

from jaxreg._core import compiler, numerics, partition
from jaxreg._core.partition import Arrays, Grouping, Labels, Unit, Units, axes_of

_ONES = 8
_ROWS = 64  # that a device has at least: of fewer the compiler makes copies


def squares(x: Arrays, groups: Grouping) -> jax.Array:
    """Σ |x|² over each group, as it is: a sum may be out of range. On a TPU each square is rounded to 16 bits.

    Needed by `tests/accelerators/limits.py::test_a_step_with_groups_that_are_whole`, held by
    `test_sums_on_tpu.py::test_squares_are_those_of_numpy`.
    """
    if isinstance(groups, Units):
        return functools.reduce(jnp.add, map(squares, x, groups.places))
    plain, square = functools.partial(partition.total, groups=groups), numerics.real_product(x, x)
    if isinstance(groups, Labels) or square.dtype != jnp.float32 or not compiler.is_large(x) or compiler.is_explicit(x):
        return plain(square)
    if x.ndim < 2 or x.shape[-2] < _ROWS * compiler.devices(x):
        return plain(square)
    return compiler.on_tpu(functools.partial(_product, groups), plain, square)


def _product(groups: tuple[int, ...] | Unit, square: jax.Array) -> jax.Array:
    # The units take a number as the sum of two or three, and infinity as that of infinity and nan.
    square = jnp.minimum(square, jnp.finfo(square.dtype).max / 2)
    axes = axes_of(groups)
    inner = axes if len(axes) < square.ndim else axes[:-1]  # something is left, so that it is a product of matrices
    ones = jnp.ones((_ONES, *(square.shape[axis] for axis in inner)), square.dtype)
    contracted = (tuple(range(1, ones.ndim)), inner), ((), ())
    found = jax.lax.dot_general(ones, square, contracted, precision=jax.lax.Precision.HIGH)[0]
    found = found if inner == axes else jnp.sum(found)
    return found.reshape(partition.shape(square.shape, groups))
