"""Elementwise: penalties Σ ρ(|x_i|) given by a profile ρ, its slope and its shrinkage."""

import abc
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from jaxreg._core import compiler, numerics, radial
from jaxreg._core import weights as weighting
from jaxreg._core.regularizer import Regularizer
from jaxreg._core.structure import Reach, Scalar


class Elementwise(Regularizer, Scalar):
    """Penalize every entry alone, R(x) = Σ_i ρ(|x_i|): the base class of L1, MCP and their like, and of your own.

    A subclass gives the profile ρ, with ρ(0) = 0 the least value, its slope and its scalar proximal operator, all three
    on moduli a ≥ 0, entry by entry. From these follow the value, the minimum-norm subgradient (0 at 0), `prox` for
    scalar and array steps, real and complex arrays, and all that takes an elementwise penalty: `Group`, `Spectral`,
    weights of `Anchored`, the metrics of `proximal`. `profile` must be differentiable in the coefficients; `slope` and
    `scalar_prox` must be finite, with finite derivatives, at a = 0 too: those in a are the second derivative of R and
    the derivative of `prox` at zero entries, groups and singular values. Set `convex = True` if ρ is convex.

    Example:
        >>> import jax, jax.numpy as jnp, jaxreg
        >>> class Root(jaxreg.Elementwise):                          # ρ(a) = strength·(√(1 + a²) − 1)
        ...     strength: float = 0.1
        ...
        ...     def profile(self, a):
        ...         return self.strength * (jnp.sqrt(1 + a**2) - 1)
        ...
        ...     def slope(self, a):
        ...         return self.strength * a / jnp.sqrt(1 + a**2)
        ...
        ...     def scalar_prox(self, a, step):                      # r + step·ρ′(r) = a, by Newton's method from a
        ...         c = step * self.strength
        ...         def newton(_, r):
        ...             root = jnp.sqrt(1 + r**2)
        ...             return r - (r + c * r / root - a) / (1 + c / root**3)
        ...         return jax.lax.fori_loop(0, 8, newton, a / (1 + c))
        >>> kernel = jnp.array([[3.0, 0.0], [4.0, 0.0]])
        >>> jaxreg.Group(Root(1.0), axis=0)(kernel).round(4)         # √26 − 1
        Array(4.099, dtype=float32)
        >>> jax.grad(Root(1.0))(jnp.array([0.75, 0.0]))              # 0.75/1.25
        Array([0.6, 0. ], dtype=float32)
    """

    reach: ClassVar[Reach] = Reach.ENTRY

    @abc.abstractmethod
    def scalar_prox(self, a: jax.Array, step: jax.Array) -> jax.Array:
        """argmin_{r ≥ 0} step·ρ(r) + ½(r − a)², entry by entry; ties go to the smaller r."""

    def __call__(self, x: ArrayLike) -> jax.Array:
        return weighted_sum(self, None, jnp.asarray(x))

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        return radial.resized(_scalar_prox, (self, jnp.asarray(step)), jnp.asarray(z))

    def scalar(self) -> Scalar:
        return self


def _scalar_prox(params: tuple[Elementwise, jax.Array], a: jax.Array) -> jax.Array:
    reg, step = params
    return reg.scalar_prox(a, step)


def _slope(reg: Scalar, a: jax.Array) -> jax.Array:
    return reg.slope(a)


def weighted_value(penalty: Regularizer, weights: jax.Array, x: jax.Array) -> jax.Array:
    """Σ_i weights_i·ρ(|x_i|), with the ρ of the penalty; ∞ where an entry that is excluded is not 0."""
    finite, excluded = weighting.split(weights)
    outside = jnp.any((excluded > 0) & (x != 0))
    value = weighted_sum(cast(Scalar, penalty.scalar()), finite, x)
    return value + jnp.where(outside, jnp.inf, jnp.zeros_like(value))


def weighted_prox(penalty: Regularizer, weights: jax.Array, z: jax.Array, step: jax.Array) -> jax.Array:
    """The proximal operator of `weighted_value(penalty, weights, ·)`: that of the penalty, a step for each entry."""
    finite, excluded = weighting.split(weights)
    return weighting.without_excluded(excluded, penalty.prox(z, numerics.threshold(step, finite)))


@jax.custom_jvp
def weighted_sum(reg: Scalar, weights: jax.Array | None, x: jax.Array) -> jax.Array:
    """Σ_i weights_i·ρ(|x_i|), without weights if they are None."""
    reg, weights, x = compiler.unshared((reg, weights, x))
    return jnp.sum(_weighted(weights, reg.profile(jnp.abs(x))))


def _weighted_sum_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (reg, weights, x), (*dcoefficients, dx) = primals, tangents
    a = numerics.absolute(x)

    def of_coefficients(reg: Scalar, weights: jax.Array | None) -> jax.Array:
        return jnp.sum(_weighted(weights, reg.profile(a)))

    tangent = jnp.zeros((), numerics.real_dtype(x))
    if not all(isinstance(d, SymbolicZero) for d in jax.tree.leaves(dcoefficients)):
        dreg, dweights = jax.tree.map(_written_out, tuple(dcoefficients))
        tangent += jax.jvp(of_coefficients, (reg, weights), (dreg, dweights))[1]
    if not isinstance(dx, SymbolicZero):
        gradient = _weighted(weights, radial.directed(_slope, reg, x))  # 0 at 0: the subgradient of least norm
        tangent += jnp.sum(numerics.real_product(gradient, dx))
    return weighted_sum(reg, weights, x), tangent


# Coefficients that are held have no derivative to be multiplied by 0: it may be infinite.
weighted_sum.defjvp(_weighted_sum_jvp, symbolic_zeros=True)


def _written_out(tangent: Any) -> Any:
    return np.zeros(tangent.shape, tangent.dtype) if isinstance(tangent, SymbolicZero) else tangent


def _weighted(weights: jax.Array | None, value: jax.Array) -> jax.Array:
    return value if weights is None else numerics.multiple(weights, value)
