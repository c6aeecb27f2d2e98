"""The group lasso in Adam's own metric on a CPU: one pass for the norms where a step changes them little.

    w_i = z_i·f_i,   f_i = D_i/(D_i + cη/r),   r = ‖w_g‖,   τ_i = η/D_i,   z and τ after L1 and L2 of the entries

Newton's method for r is that of `_group_metric.py`, h(r) = 1/‖w/r‖ = 1, and begins at the norm that the state keeps.
With S = Σ (w_i/r)² and F = Σ (w_i/r)²·f_i, both of one pass (`two_sums.py`), a step goes to r·(1 + e),
e = (√S − 1)·S/F. All f_i are at most 1, so that −h″/h′ ≤ 3·(1 − F/S)/r, and what the step leaves is at most
1.5·(1 − F/S)·e² of r: known without another pass. At r = 0, h(0) ≥ 1 tells that the group stays 0.

Groups that such steps do not settle, as at the ends of the floating range, have the operator without a beginning.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from jaxreg._core import compiler, numerics, partition
from jaxreg._core.partition import Arrays, Grouping, Units
from jaxreg._core.structure import Parts
from jaxreg._core.two_sums import Plans, plans, two_sums
from jaxreg._optax.groups import Grouped
from jaxreg._optax.metrics import PULL
from jaxreg.penalties._group_metric import roots
from jaxreg.penalties.l1 import L1

_MOST_PASSES = 5


class Beside(NamedTuple):
    """The numbers of L1 and L2 of the entries, None for none."""

    l1: Any
    l2: Any


class Given(NamedTuple):
    """What z and D are made of, with the numbers of `adam_groups.py`; of several arrays tuples."""

    numbers: Any
    beside: Any
    p: Arrays
    m: Arrays
    v: Arrays


def applies(form: Grouped, p: Arrays, v: Arrays) -> Plans | None:
    """How to cut the parameter, or those of a unit, if one is large, for the group lasso beside L1 and L2."""
    return plans_of(form, p, v) if isinstance(form.groups.penalty, L1) else None


def plans_of(form: Grouped, p: Arrays, v: Arrays) -> Plans | None:
    """The same for every profile."""
    by_entry = isinstance(v, tuple) if isinstance(p, tuple) else v.shape == p.shape
    if not by_entry or not all(map(_is_known, form.of_arrays)):
        return None
    # Also a small array beside large ones, which `plans` leaves whole, has to be of this kind.
    others = any(jnp.iscomplexobj(x) or compiler.is_explicit(x) for x in (p if isinstance(p, tuple) else (p,)))
    return None if others else plans(p, form.where)


def _is_known(beside: Parts) -> bool:
    return beside.is_elastic and not beside.have_weights and beside.excluded is None


def beside(form: Grouped, p: Arrays) -> Any:
    """`Beside` of the array, or a tuple of that of each."""
    found = tuple(Beside(parts.l1, parts.l2) for parts in form.of_arrays)
    return found if isinstance(p, tuple) else found[0]


def step(
    form: Grouped, how: Plans, numbers: Any, p: Arrays, r: jax.Array, m: Arrays, v: Arrays
) -> tuple[Any, jax.Array]:
    """The point after the step and the norms of its groups; r are those of p, `numbers` as in `adam_groups.py`."""
    c = jnp.broadcast_to(jnp.asarray(form.groups.weight * form.groups.penalty.l1, r.dtype), r.shape)
    largest = float(jnp.finfo(r.dtype).max)
    bound = jnp.minimum(jnp.where(r > 0, c / jnp.where(r > 0, r, 1), 0) * (1 / PULL), largest)
    b = c * jnp.asarray(numbers.eta, r.dtype)
    given = Given(numbers, beside(form, p), p, m, v)
    new = _norms(form.where, how, r, *jax.lax.stop_gradient((c, b, bound, given)))
    z, divisor = _metric_of_all(form.where, given, bound)
    new = numerics.exact(new, _differentiable(z, divisor, b, new, form.where))
    positive = ~(new <= 0)  # nan too

    def moved(groups: Grouping, z: jax.Array, divisor: jax.Array) -> jax.Array:
        is_positive, of_entries, step = (partition.spread(x, groups) for x in (positive, new, b))
        return jnp.where(is_positive, z * (divisor / (divisor + step / jnp.where(is_positive, of_entries, 1))), 0)

    return partition.each(moved, form.where, z, divisor), new


def metric(numbers: Any, beside: Beside, p: Any, m: Any, v: Any, bound: Any) -> tuple[jax.Array, jax.Array]:
    """z and D."""
    rate, eta, first, second, eps, eps_root = (jnp.asarray(x, p.dtype) for x in numbers[:6])
    l1, l2 = (None if c is None else jnp.asarray(c, p.dtype) for c in beside)
    divisor = jnp.sqrt(jnp.asarray(v, p.dtype) * (1 / second) + eps_root) + eps
    z = p - jnp.asarray(m, p.dtype) * (rate / (first * divisor))
    if numbers.max_step is None:
        least = jnp.abs(p * (bound if l2 is None else bound + 2 / PULL * l2))
        least = least if l1 is None else jnp.where(compiler.read_again(bound, p) == 0, 0, least + l1 / PULL)
    else:
        most = jnp.maximum(jnp.asarray(numbers.max_step, p.dtype), float(jnp.finfo(p.dtype).tiny))  # 0/0 would be nan
        least = eta / most
    divisor = jnp.minimum(jnp.maximum(divisor, least), float(jnp.finfo(p.dtype).max) / 8)
    if l1 is not None:
        z = numerics.soft_threshold(z, numerics.threshold(eta / divisor, l1))
    if l2 is not None:
        more = divisor + 2 * eta * l2
        z, divisor = z * (divisor / more), more
    return z, divisor


def sums(where: Any, how: Plans, terms: Callable[..., Any], of_groups: Sequence[Any], of_arrays: Sequence[Any]) -> Any:
    """Two sums over the groups, of `terms` of what stands in `of_arrays`, `Beside` first, and of the numbers."""

    def of_array(groups: Any, how: Any, beside: Beside, *arrays: jax.Array) -> tuple[jax.Array, jax.Array]:
        return two_sums(functools.partial(terms, beside), arrays, of_groups, groups, how)

    found = partition.results(of_array, where, how, *of_arrays)
    return (functools.reduce(jnp.add, x) for x in found) if isinstance(where, Units) else found


def _metric_of_all(where: Any, given: Given, bound: jax.Array) -> tuple[Any, Any]:
    numbers, *of_arrays = given

    def of_array(groups: Grouping, beside: Beside, p: Any, m: Any, v: Any) -> tuple[jax.Array, jax.Array]:
        return metric(numbers, beside, p, m, v, partition.spread(bound, groups))

    return cast(Any, partition.results(of_array, where, *of_arrays))


def _norms(
    where: Any, how: Plans, r: jax.Array, c: jax.Array, b: jax.Array, bound: jax.Array, given: Given
) -> jax.Array:
    numbers, *of_arrays = given

    def terms(
        beside: Beside, p: Any, m: Any, v: Any, bound: Any, second: Any, k: Any, a: Any, b: Any
    ) -> tuple[jax.Array, jax.Array]:
        """The terms of S and of F, where w/r is k·z·f with f = D/(aD + b)."""
        z, divisor = metric(numbers._replace(second=second), beside, p, m, v, bound)
        f = divisor * (1 / (a * divisor + b))  # a quotient of two arrays would be kept for both terms
        square = (z * k * f) ** 2
        return square, square * f

    def one_pass(state: Any) -> Any:
        r, _, passes = state
        positive = r > 0
        k = jnp.where(positive, 1 / jnp.where(positive, r, 1), 1)
        a = jnp.where(positive, jnp.ones_like(r), 0)  # at r = 0 the limit, of which f is D/(cη)
        # What is made of p, m and v without a number that depends on r would be kept for the next pass.
        again = compiler.read_again(r, (bound, jnp.broadcast_to(jnp.asarray(numbers.second, r.dtype), r.shape)))
        s, f = sums(where, how, terms, (*again, k, a, b * k), of_arrays)
        stays = ~positive & (s <= 1)
        vanishes = (s == 0) & (f == 0)  # z = 0, by L1
        e = jnp.where(stays, 0, (jnp.sqrt(s) - 1) * jnp.where(vanishes, 1, s / f))
        left = 1.5 * (1 - f / s) * e**2
        settled = positive & (jnp.abs(e) <= 0.125) & (left <= 4 * float(jnp.finfo(r.dtype).eps))
        return jnp.maximum(r + e / k, 0), jnp.all(stays | settled), passes + 1

    def without_a_beginning() -> jax.Array:
        z, divisor = _metric_of_all(where, given, bound)
        return roots(where, z, jax.tree.map(lambda d: jnp.asarray(numbers.eta, r.dtype) / d, divisor), c)

    begin = jax.lax.stop_gradient(r), jnp.zeros((), bool), 0
    r, settled, _ = jax.lax.while_loop(lambda state: ~state[1] & (state[2] < _MOST_PASSES), one_pass, begin)
    return jax.lax.cond(settled, lambda: r, without_a_beginning)


def _differentiable(z: Arrays, divisor: Arrays, b: jax.Array, root: jax.Array, where: Any) -> jax.Array:
    """A step from the root: it ends there, and has the derivative of the root; where that is 0, 0."""
    root = jax.lax.stop_gradient(root)
    positive = root > 0
    r = jnp.where(positive, root, 1)

    def terms(groups: Grouping, z: jax.Array, divisor: jax.Array) -> tuple[jax.Array, jax.Array]:
        r_i, b_i = partition.spread(r, groups), partition.spread(b, groups)
        f = divisor / (divisor + b_i / r_i)
        square = (z / r_i * f) ** 2
        return square, square * f

    sums = (partition.total(term, where) for term in partition.results(terms, where, z, divisor))
    s, slope = (jnp.where(positive, x, 1) for x in sums)
    return jnp.where(positive, r * (1 + (jnp.sqrt(s) - 1) * s / slope), 0)
