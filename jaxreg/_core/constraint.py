"""Constraint: a set as a penalty, 0 inside and infinite outside, whose proximal operator is the projection."""

import abc
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg._core import checks, compiler, euclidean, numerics
from jaxreg._core.entry import TREES
from jaxreg._core.regularizer import Regularizer
from jaxreg._core.structure import Indicator

SCALAR_STEP = (
    "Give a scalar step: the Euclidean projection, which for a constraint does not depend on the step; or use a "
    "constraint that has one: NonNegative, Box, MaxNorm, L1Ball, Simplex, TopK, NofM."
)
_ROUNDING = 16  # units in the last place of ‖x‖₂ that a projection may be off after it was rounded to the dtype of x


class Constraint(Regularizer, Indicator, promoted=False):  # the tolerance is in the dtype of x
    """Keep an array in a set: the base class of the constraints. A subclass gives `prox`, the rest follows.

        R(x) = 0 in the set, +∞ outside, with gradient 0 everywhere: in a loss it changes nothing
        prox(z, τ) = argmin over w in the set of ‖w − z‖²                for a scalar τ, which does not matter
        prox(z, τ) = argmin over w in the set of Σ_i (w_i − z_i)²/τ_i    for a τ of the shape of z

    A point counts as inside if its violation is at most 16·ε·‖x‖₂, with ε the machine epsilon of the dtype of x: what
    a projection may be off by rounding. Sums, multiples, stacks and their like allow for the same. The value at nan is
    nan.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> class ZeroMean(jaxreg.Constraint):                       # the rows sum to 0
        ...     def prox(self, z, step=1.0):
        ...         if jnp.ndim(step):
        ...             raise NotImplementedError("ZeroMean takes one step for all entries.")
        ...         return z - jnp.mean(z, axis=-1, keepdims=True)
        >>> x = jnp.array([[1.0, 3.0]])
        >>> ZeroMean().prox(x)
        Array([[-1.,  1.]], dtype=float32)
        >>> float(ZeroMean()(x)), ZeroMean().violation(x).round(4)   # 2·√2
        (inf, Array(2.8284, dtype=float32))
    """

    def __call__(self, x: ArrayLike) -> jax.Array:
        x = jnp.asarray(x)
        return self.rounded_value(numerics.promote(x), x)

    def rounded_value(self, x: jax.Array, held: jax.Array) -> jax.Array:
        constraint, x, held = jax.lax.stop_gradient((self, x, held))
        distance = _distance(constraint, x)
        inexact = jnp.issubdtype(held.dtype, jnp.inexact)
        epsilon = float(jnp.finfo(held.dtype if inexact else x.dtype).eps)
        # An anchored x is a difference, which has the rounding of what was subtracted.
        tolerance = _ROUNDING * epsilon * jnp.maximum(euclidean.norm(numerics.promote(held)), euclidean.norm(x))
        inside = (distance == 0) | ((distance <= tolerance) & jnp.isfinite(distance))
        value = jnp.where(inside, 0, jnp.asarray(jnp.inf, distance.dtype))
        return jnp.where(jnp.isnan(distance), distance, value)

    @abc.abstractmethod
    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        """Return the nearest point of the set; raise NotImplementedError for array steps if only scalar ones work."""

    def violation(self, x: ArrayLike) -> jax.Array:
        """Return how far `x` is outside: its Euclidean distance to the set, a scalar, 0 inside. Differentiable."""
        return _violation(self, checks.array(f"{type(self).__name__}.violation", x, TREES))


def matrix(name: str, z: ArrayLike, step: ArrayLike) -> jax.Array:
    """Return `z`, of rank 2, for a projection that takes a scalar step."""
    checks.scalar_step(name, jnp.asarray(step), SCALAR_STEP)
    return checks.matrix(name, jnp.asarray(z))


@jax.jit
def _violation(constraint: Constraint, x: Any) -> jax.Array:
    x = numerics.promote(x)
    return compiler.automatic(_distance, x, replicated=True)(constraint, x)


def _distance(constraint: Constraint, x: jax.Array) -> jax.Array:
    nearest = constraint.prox(x)
    return euclidean.norm(jnp.where(x == nearest, jnp.zeros_like(x), x - nearest))  # 0 at an infinity that is inside
