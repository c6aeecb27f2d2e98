"""Neighbours along an axis that are kept in order, or near each other: isotonic regression and total variation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxreg._core import double, numerics
from jaxreg._core.double import Double

_TOGETHER = 32  # so many entries of a scan are taken one after the other, in all stretches of so many at once


def along_a_chain(z: jax.Array, step: jax.Array, rise: Any, fall: Any, axis: int) -> jax.Array:
    """argmin Σ (w_i − z_i)²/(2·s_i) + Σ rise_i·(w_{i+1} − w_i)₊ + fall_i·(w_i − w_{i+1})₊ along `axis`; real z.

    `step` s is a scalar or like z; `rise` and `fall` broadcast against the differences; ∞ forbids. Neighbours that end
    up equal are a block, whose value is the mean of its z, weighted by 1/s, plus what its two ends are drawn by. From
    the blocks come the derivatives; where z_i lies on the border of two partitions, they are those of the one found.

    For a number t, whether w_i > t is itself a problem of this kind, of zeros and ones (Chambolle and Darbon): along
    the chain, the advantage of 1 over 0 is d_{i+1} = clip(d_i, −rise, fall) + (z_{i+1} − t)/s_{i+1}, and from its end
    backwards a 1 is right where d > fall, a 0 where d < −rise, else what the neighbour is. With the means of all blocks
    as t, each round cuts every block that is not constant: log₂ n rounds, give or take a few, for noise, walks and
    ramps (`test_chains.py::test_few_rounds_cut_a_chain`), and each takes O(n) work in O(log n) dependent steps. Sums
    have twice the digits of the dtype.
    """
    n = z.shape[axis]
    if not isinstance(n, int):
        raise NotImplementedError(
            f"The proximal operators of `Monotone`, `SLOPE` and `Difference` need a known length, got the symbolic one "
            f"{n}: export the program for each length, `jax.ShapeDtypeStruct((1000,), dtype)`."
        )
    if z.size == 0 or n == 1:
        return z

    def columns(x: jax.Array) -> jax.Array:
        """The chains as the columns of a matrix."""
        x = jnp.moveaxis(x, axis, 0)
        return x.reshape(len(x), -1)

    def of_edges(strength: Any) -> jax.Array:
        """One for every entry: that of the edge to the next one, and 0 behind the last, where there is none."""
        strength = jnp.asarray(strength, z.dtype)
        strength = columns(strength) if strength.ndim else strength
        return jnp.pad(jnp.broadcast_to(strength, (n - 1, z.size // n)), ((0, 1), (0, 0)))

    unit, precision = step, jnp.ones_like(columns(z))
    if step.ndim:
        unit, precision = _precisions(columns(step))
    c, (rise, fall) = _folded(precision, 1.0), (numerics.threshold(unit, of_edges(x)) for x in (rise, fall))
    folded, rise, fall = (_folded(x, 0.0) for x in (columns(z), rise, fall))  # what fills the last stretch is cut off
    value, ends = _solve(*lax.stop_gradient((folded, c, rise, fall)))
    w = _unfolded(_means(folded, c, rise, fall, value, ends), n)
    return jnp.moveaxis(w.reshape(jnp.moveaxis(z, axis, 0).shape), 0, axis)


def _precisions(step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A unit for each chain, in the middle of its steps, and the inverse of its steps in it: 0 and ∞ become finite."""
    constant = lax.stop_gradient(step)
    usual = (constant > 0) & jnp.isfinite(constant)
    least, most = (reduce(jnp.where(usual, constant, 1), axis=0, keepdims=True) for reduce in (jnp.min, jnp.max))
    unit = jnp.sqrt(least) * jnp.sqrt(most)
    bound = 2.0 ** (jnp.finfo(step.dtype).maxexp * 11 // 16)
    positive = step > 0
    return unit, jnp.where(positive, jnp.clip(unit / jnp.where(positive, step, 1), 1 / bound, bound), bound)


def _solve(z: jax.Array, precision: jax.Array, rise: jax.Array, fall: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The values, and whether a block ends at each entry."""
    sound = jnp.all(jnp.isfinite(z) & ~jnp.isnan(rise) & ~jnp.isnan(fall), axis=(0, 1), keepdims=True)
    info = jnp.finfo(z.dtype)
    largest = jnp.max(jnp.where(sound, jnp.abs(z), 0), axis=(0, 1), keepdims=True)
    scale = 2 * numerics.power_of_two(largest)
    in_range = jnp.clip(scale, 2.0 ** (info.minexp + 2), 2.0 ** (info.maxexp - 2))  # it and 1/scale are not subnormal
    scale = jnp.where(scale > 0, in_range, 1)
    z = jnp.where(sound, z / scale, 0)
    bound = 2.0 ** (info.maxexp * 15 // 16)  # stands for ∞: no sum reaches it
    low, high = -jnp.minimum(rise / scale, bound), jnp.minimum(fall / scale, bound)
    # Sums with an entry of so small a step would not tell how its neighbours draw it. It may move by 2⁻³⁴ of the scale
    # (float32), and they do.
    drawn_by = high - low + _shifted(high - low, 0.0)
    precision = jnp.where(drawn_by > 0, jnp.minimum(precision, 2.0 ** (info.nmant * 3 // 2) * drawn_by), precision)

    def cut(state: Any) -> Any:
        low, high, _, _ = state
        ends = low == high
        drawn = jnp.where(ends, low, 0)
        total = double.add(double.times(double.exactly(z), precision), double.exactly(_shifted(drawn, 0.0)))
        total = double.subtract(total, double.exactly(drawn))
        none = double.exactly(0.0)
        _, total, mass = _scan(_sums, (False, none, none), (_shifted(ends, True), total, double.exactly(precision)))
        _, t = _scan(_last, (False, none), (ends, double.divide(total, mass)), reverse=True)
        gain = double.times(double.subtract(double.exactly(z), t), precision)
        free = none, double.exactly(-bound), double.exactly(bound)
        flow, least, most = _scan(_clips, free, (gain, double.exactly(low), double.exactly(high)))
        flow = double.clip(flow, least, most)  # that of 0 from the left
        advantage = double.add(Double(*(_shifted(x, 0.0) for x in flow)), gain)
        above, below = double.greater(advantage, double.exactly(high)), double.greater(double.exactly(low), advantage)
        _, above = _scan(_last, (False, False), (above | below | ends, above), reverse=True)
        apart = (above != _shifted(above, False, back=True)) & ~ends
        low, high = jnp.where(apart & above, high, low), jnp.where(apart & ~above, low, high)
        return low, high, t.high, jnp.any(apart)

    low, high, t, _ = lax.while_loop(lambda state: state[-1], cut, (low, high, z, jnp.array(True)))
    return jnp.where(sound, scale * t, jnp.nan), low == high


def _means(
    z: jax.Array, precision: jax.Array, rise: jax.Array, fall: jax.Array, value: jax.Array, ends: jax.Array
) -> jax.Array:
    """The values again, with the derivatives of the means of blocks: in z, in the steps, in the strengths."""
    step_up = jnp.sign(_shifted(value, 0.0, back=True) - value)
    drawn = jnp.where(ends, jnp.where(step_up > 0, -rise, jnp.where(step_up < 0, fall, 0)), 0)
    pull = precision * (z - value) + _shifted(drawn, 0.0) - drawn
    blocks = jnp.cumsum(_shifted(ends, True).T.ravel()) - 1  # transposed, one chain comes after the other

    def total(x: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(x.T.ravel(), blocks, z.size, indices_are_sorted=True)

    mass = total(precision)
    move = total(pull) / jnp.where(mass > 0, mass, 1)
    return numerics.exact(value, value + move[blocks].reshape(z.T.shape).T)


# Three operations that a scan applies, each associative, on tuples of arrays; the left one comes first.


def _clips(a: Any, b: Any) -> Any:
    """x ↦ clip(x + shift, least, most), one after the other."""
    (shift_a, least_a, most_a), (shift_b, least_b, most_b) = a, b
    least, most = (double.clip(double.add(x, shift_b), least_b, most_b) for x in (least_a, most_a))
    return double.add(shift_a, shift_b), least, most


def _sums(a: Any, b: Any) -> Any:
    """Sums that begin anew where the flag is set."""
    (flag_a, *sums_a), (flag_b, *sums_b) = a, b
    sums = (double.where(flag_b, y, double.add(x, y)) for x, y in zip(sums_a, sums_b, strict=True))
    return lax.bitwise_or(flag_a, flag_b), *sums


def _last(a: Any, b: Any) -> Any:
    """The last value whose flag is set."""
    (flag_a, value_a), (flag_b, value_b) = a, b
    return lax.bitwise_or(flag_a, flag_b), jax.tree.map(lambda x, y: lax.select(flag_b, y, x), value_a, value_b)


def _scan(operation: Callable[[Any, Any], Any], identity: Any, folded: Any, reverse: bool = False) -> Any:
    """All partial results of an associative operation along folded chains; `reverse` from their ends.

    The stretches are taken side by side, then their totals in the same way: a short program, and few steps that wait
    for each other.
    """

    def one(before: Any, x: Any) -> Any:
        new = operation(before, x)
        return new, new

    start = jax.tree.map(lambda x, empty: lax.full_like(x, empty, shape=x.shape[1:]), folded, identity)
    totals, found = lax.scan(one, start, folded, reverse=reverse)
    count = len(jax.tree.leaves(totals)[0])
    if count == 1:
        return found
    before = _scan(operation, identity, jax.tree.map(_folded, totals, identity), reverse)
    before = jax.tree.map(lambda x, empty: _unfolded(_shifted(x, empty, reverse), count), before, identity)
    return operation(jax.tree.map(lambda x, y: jnp.broadcast_to(x, y.shape), before, found), found)


def _folded(x: jax.Array, empty: Any) -> jax.Array:
    """Chains that are columns, in stretches of neighbours: entry i is at (i % length, i // length)."""
    length = min(len(x), _TOGETHER)
    if missing := -len(x) % length:
        x = lax.pad(x, jnp.asarray(empty, x.dtype), ((0, missing, 0), (0, 0, 0)))
    return jnp.moveaxis(x.reshape(-1, length, x.shape[1]), 1, 0)


def _unfolded(x: jax.Array, n: int) -> jax.Array:
    return jnp.moveaxis(x, 0, 1).reshape(-1, x.shape[2])[:n]


def _shifted(x: jax.Array, first: Any, back: bool = False) -> jax.Array:
    """Each entry's predecessor in a folded chain, `first` for the first one; `back`: its successor."""
    (length, stretches, _), outside = x.shape, jnp.asarray(first, x.dtype)
    if back:
        border = lax.slice_in_dim(lax.slice_in_dim(x, 0, 1), 1, stretches, axis=1)
        border = lax.pad(border, outside, ((0, 0, 0), (0, 1, 0), (0, 0, 0)))
        return lax.concatenate([lax.slice_in_dim(x, 1, length), border], 0)
    border = lax.slice_in_dim(lax.slice_in_dim(x, length - 1, length), 0, stretches - 1, axis=1)
    border = lax.pad(border, outside, ((0, 0, 0), (1, 0, 0), (0, 0, 0)))
    return lax.concatenate([border, lax.slice_in_dim(x, 0, length - 1)], 0)
