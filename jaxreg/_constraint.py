"""Constraint: a set as a penalty, 0 inside and infinite outside, whose proximal operator is the projection."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxreg import _checks, _numerics, _sharding
from jaxreg._compiled import TREES
from jaxreg._regularizer import Regularizer

_ROUNDING = 16  # units in the last place of ‖x‖₂ that a projection may be off after it was rounded to the dtype of x


class Constraint(Regularizer):
    """Keep an array in a set: the base class of the constraints. A subclass gives `prox`, the rest follows.

        R(x) = 0 in the set, +∞ outside, with gradient 0 everywhere: in a loss it changes nothing
        prox(z, τ) = argmin over w in the set of ‖w − z‖²                for a scalar τ, which does not matter
        prox(z, τ) = argmin over w in the set of Σ_i (w_i − z_i)²/τ_i    for a τ of the shape of z

    A point counts as inside if its violation is at most 16·ε·‖x‖₂, with ε the machine epsilon of the dtype of x: what
    a projection is off by rounding. `nan` in, `nan` out.
    """

    def __call__(self, x: ArrayLike) -> jax.Array:
        return _indicator(self, _checks.array(type(self).__name__, x, TREES))

    def violation(self, x: ArrayLike) -> jax.Array:
        """Return how far `x` is outside: its Euclidean distance to the set, a scalar, 0 inside. Differentiable."""
        return _violation(self, _checks.array(f"{type(self).__name__}.violation", x, TREES))


# `Regularizer` wraps `__call__` so that it sees the array promoted; the tolerance needs the dtype that came in.
Constraint.__call__ = Constraint.__call__.__wrapped__  # type: ignore[method-assign, attr-defined]


@jax.jit
def _violation(constraint: Constraint, x: Any) -> jax.Array:
    x = _numerics.promote(x)
    return _sharding.automatic(_distance, x, whole=True)(constraint, x)


def _distance(constraint: Constraint, x: jax.Array) -> jax.Array:
    nearest = constraint.prox(x)
    outside = jnp.where(x == nearest, jnp.zeros_like(x), x - nearest)  # 0 at an infinity that is inside
    return _numerics.norms(outside, tuple(range(x.ndim))).reshape(())


@jax.jit
def _indicator(constraint: Constraint, x: Any) -> jax.Array:
    constraint, x = jax.lax.stop_gradient((constraint, jnp.asarray(x)))
    return _sharding.automatic(_inside_or_infinite, x, whole=True)(constraint, x)


def _inside_or_infinite(constraint: Constraint, x: jax.Array) -> jax.Array:
    wide = _numerics.promote(x)
    epsilon = float(jnp.finfo(x.dtype if jnp.issubdtype(x.dtype, jnp.inexact) else wide.dtype).eps)
    distance = _distance(constraint, wide)
    tolerance = _ROUNDING * epsilon * _numerics.norms(wide, tuple(range(x.ndim))).reshape(())
    inside = (distance == 0) | ((distance <= tolerance) & jnp.isfinite(distance))
    value = jnp.where(inside, 0, jnp.asarray(jnp.inf, distance.dtype))
    return jnp.where(jnp.isnan(distance), distance, value)


# ------------------------------------------------------------------------------------------------------ arguments


def refuse_complex(owner: str, x: jax.Array) -> None:
    """Raise for an array of a dtype that has no order."""
    if jnp.iscomplexobj(x):
        raise TypeError(f"`{owner}` takes real numbers, got dtype {x.dtype}.")


def refuse_metric(owner: str, step: jax.Array) -> None:
    """Raise for a step of the shape of `z`, where the projection has no closed form."""
    if step.ndim:
        raise NotImplementedError(
            f"`{owner}.prox` has no exact answer in a diagonal metric (a step of the shape of `z`). Give a scalar "
            "step: the Euclidean projection, which for a constraint does not depend on the step; or use a constraint "
            "that has one: NonNegative, Box, MaxNorm, L1Ball, Simplex."
        )


# --------------------------------------------------------------------------------------------- metrics and simplices


def relative_steps(step: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Steps divided by the largest of their group: projections depend on no more. 0 and inf become finite ratios."""
    info = jnp.finfo(step.dtype)
    step = jnp.minimum(step, info.max)
    largest = jax.lax.stop_gradient(jnp.max(step, axis=axes, keepdims=True, initial=0))
    ratio = step / jnp.where(largest == 0, 1, largest)
    return jnp.where(largest == 0, 1, jnp.maximum(ratio, float(info.tiny) ** 0.375))


def as_last_axis(x: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """Return `x` with `axes` flattened into the last axis, and the way back."""
    kept = tuple(i for i in range(x.ndim) if i not in axes)
    order = (*kept, *axes)
    moved = jnp.transpose(x, order)
    flat = moved.reshape(*(x.shape[i] for i in kept), math.prod(x.shape[i] for i in axes))
    return flat, lambda y: jnp.transpose(y.reshape(moved.shape), tuple(np.argsort(order).tolist()))


def onto_simplex(z: jax.Array, step: jax.Array, total: jax.Array) -> jax.Array:
    """argmin ½ Σ (w_i − z_i)²/s_i over w ≥ 0, Σ w_i = total along the last axis; `step` is a scalar or like z.

    w_i = max(z_i − s_i·θ, 0), where f(θ) = Σ max(z_i − s_i·θ, 0) = total. As f is the largest of the linear functions
    Σ_S (z_i − s_i·θ), θ is the largest of (Σ_S z_i − total)/Σ_S s_i, over those S that are first by z_i/s_i.
    """
    if z.shape[-1] == 0:
        return z
    constant = jax.lax.stop_gradient
    largest = constant(jnp.maximum(jnp.max(jnp.abs(z), axis=-1, keepdims=True), total))
    scale = jnp.where(largest > 0, jnp.ldexp(jnp.ones_like(largest), jnp.frexp(largest)[1] - 1), 1)  # a power of two
    r, total = z / scale, total / scale
    s = relative_steps(step, (z.ndim - 1,)) if step.ndim else jnp.ones_like(r)
    for _ in range(2):  # S of one element bounds θ below; with that subtracted, no r is larger than the total
        r = r - s * constant(jnp.max((r - total) / s, axis=-1, keepdims=True))
    order = jnp.argsort(constant(-r / s), axis=-1)
    above, weight = (jnp.cumsum(jnp.take_along_axis(constant(v), order, axis=-1), axis=-1) for v in (r, s))
    theta = jnp.max((above - constant(total)) / weight, axis=-1, keepdims=True)

    def newton(theta: jax.Array) -> jax.Array:
        support = r - s * theta > 0
        mass = jnp.sum(jnp.where(support, s, 0), axis=-1, keepdims=True)
        excess = jnp.sum(jnp.where(support, r - s * theta, 0), axis=-1, keepdims=True) - total
        return theta + jnp.where(mass > 0, excess / jnp.where(mass > 0, mass, 1), 0)

    theta = newton(constant(newton(theta)))  # the first mends rounding in the sums; the last carries the derivatives
    w = jnp.where((r - s * theta > 0) & (total > 0), r - s * theta, 0)
    return jnp.where(jnp.isnan(theta), theta, scale * w)
