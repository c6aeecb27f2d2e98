"""The group lasso in Adam's own metric on a CPU: one pass for the norms where a step changes them little.

    w_i = z_i·f_i,   f_i = D_i/(D_i + cη/r),   r = ‖w_g‖,   τ_i = η/D_i

Newton's method for r is that of `_group_metric.py`, h(r) = 1/‖w/r‖ = 1, and begins at the norm that the state keeps.
With S = Σ (w_i/r)² and F = Σ (w_i/r)²·f_i, both of one pass (`two_sums.py`), a step goes to r·(1 + e),
e = (√S − 1)·S/F. All f_i are at most 1, so that −h″/h′ ≤ 3·(1 − F/S)/r, and what the step leaves is at most
1.5·(1 − F/S)·e² of r: known without another pass. At r = 0, h(0) ≥ 1 tells that the group stays 0.

Groups that such steps do not settle, as at the ends of the floating range, have the operator without a beginning.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxreg._core import compiler, numerics, partition
from jaxreg._core.two_sums import Plan, plan, two_sums
from jaxreg._optax.groups import Grouped
from jaxreg._optax.metrics import PULL
from jaxreg.penalties._group_metric import roots
from jaxreg.penalties.l1 import L1

_MOST_PASSES = 5


def applies(form: Grouped, p: Any, v: Any) -> Plan | None:
    """How to cut the parameter, if it is large, in one array, and has the group lasso with nothing beside it."""
    if isinstance(p, tuple) or v.shape != p.shape or not isinstance(form.groups.penalty, L1):
        return None
    beside = form.entries
    alone = beside.is_l2 and beside.l2 is None and beside.excluded is None
    return plan(p, form.axes) if alone else None


def step(
    form: Grouped, how: Plan, numbers: Any, p: jax.Array, r: jax.Array, m: jax.Array, v: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The point after the step and the norms of its groups; r are those of p, `numbers` as in `adam_groups.py`."""
    c = jnp.broadcast_to(jnp.asarray(form.groups.weight * form.groups.penalty.l1, p.dtype), r.shape)
    largest = float(jnp.finfo(p.dtype).max)
    bound = jnp.minimum(jnp.where(r > 0, c / jnp.where(r > 0, r, 1), 0) * (1 / PULL), largest)
    b, max_step = c * jnp.asarray(numbers.eta, p.dtype), numbers.max_step
    numbers = numbers._replace(max_step=None)
    held = jax.lax.stop_gradient((numbers, max_step, (p, m, v), bound, b))
    new = _norms(form.axes, how, r, c, *held)
    z, divisor = _metric(numbers, max_step, p, m, v, bound)
    new = numerics.exact(new, _differentiable(z, divisor, b, new, form.axes))
    positive = ~(new <= 0)  # nan too
    return jnp.where(positive, z * (divisor / (divisor + b / jnp.where(positive, new, 1))), 0), new


def _metric(numbers: Any, max_step: Any, p: Any, m: Any, v: Any, bound: Any) -> tuple[jax.Array, jax.Array]:
    """z and D."""
    rate, eta, first, second, eps, eps_root = (jnp.asarray(x, p.dtype) for x in numbers[:6])
    divisor = jnp.sqrt(jnp.asarray(v, p.dtype) * (1 / second) + eps_root) + eps
    z = p - jnp.asarray(m, p.dtype) * (rate / (first * divisor))
    least = jnp.abs(p * bound) if max_step is None else eta / jnp.asarray(max_step, p.dtype)
    return z, jnp.minimum(jnp.maximum(divisor, least), float(jnp.finfo(p.dtype).max) / 8)


def _norms(
    axes: Any, how: Plan, r: jax.Array, c: jax.Array, numbers: Any, max_step: Any, arrays: Any, bound: Any, b: Any
) -> jax.Array:
    def terms(p: Any, m: Any, v: Any, bound: Any, second: Any, k: Any, a: Any, b: Any) -> tuple[jax.Array, jax.Array]:
        """The terms of S and of F, where w/r is k·z·f with f = D/(aD + b)."""
        z, divisor = _metric(numbers._replace(second=second), max_step, p, m, v, bound)
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
        s, f = two_sums(terms, arrays, (*again, k, a, b * k), axes, how)
        stays = ~positive & (s <= 1)
        e = jnp.where(stays, 0, (jnp.sqrt(s) - 1) * (s / f))
        left = 1.5 * (1 - f / s) * e**2
        settled = positive & (jnp.abs(e) <= 0.125) & (left <= 4 * float(jnp.finfo(r.dtype).eps))
        return jnp.maximum(r + e / k, 0), jnp.all(stays | settled), passes + 1

    def without_a_beginning() -> jax.Array:
        p, m, v = arrays
        z, divisor = _metric(numbers, max_step, p, m, v, bound)
        return roots(axes, z, jnp.asarray(numbers.eta, z.dtype) / divisor, jax.lax.stop_gradient(c))

    begin = jax.lax.stop_gradient(r), jnp.zeros((), bool), 0
    r, settled, _ = jax.lax.while_loop(lambda state: ~state[1] & (state[2] < _MOST_PASSES), one_pass, begin)
    return jax.lax.cond(settled, lambda: r, without_a_beginning)


def _differentiable(z: jax.Array, divisor: jax.Array, b: jax.Array, root: jax.Array, axes: Any) -> jax.Array:
    """A step from the root: it ends there, and has the derivative of the root; where that is 0, 0."""
    root = jax.lax.stop_gradient(root)
    positive = root > 0
    r = jnp.where(positive, root, 1)
    f = divisor / (divisor + b / r)
    square = (z / r * f) ** 2
    s, slope = (jnp.where(positive, partition.total(term, axes), 1) for term in (square, square * f))
    return jnp.where(positive, r * (1 + (jnp.sqrt(s) - 1) * s / slope), 0)
