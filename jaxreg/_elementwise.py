"""Elementwise: penalties Σ ρ(|x_i|) given by a profile ρ, its slope and its shrinkage."""

import abc
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg import _numerics
from jaxreg._regularizer import Regularizer


class Elementwise(Regularizer, abc.ABC):
    """R(x) = Σ_i ρ(|x_i|), with ρ(0) = 0 the least value.

    Subclasses give ρ, ρ′ and the scalar proximal operator on moduli; value, minimum-norm subgradient, and `prox` for
    scalar and array steps follow, also over norms of groups and singular values. `profile` must be differentiable in
    the coefficients, `slope` and `shrink` must have finite derivatives, at a = 0 too.
    """

    @abc.abstractmethod
    def profile(self, a: jax.Array) -> jax.Array:
        """ρ(a) for moduli a ≥ 0, entry by entry."""

    @abc.abstractmethod
    def slope(self, a: jax.Array) -> jax.Array:
        """ρ′(a) for a > 0. At a = 0 the value does not matter: the subgradient of least norm is 0 there."""

    @abc.abstractmethod
    def shrink(self, a: jax.Array, step: jax.Array) -> jax.Array:
        """argmin_{r ≥ 0} step·ρ(r) + ½(r − a)², entry by entry; ties go to the smaller r."""

    def __call__(self, x: ArrayLike) -> jax.Array:
        x = jnp.asarray(x)
        return weighted_sum(self, jnp.ones((), _numerics.real_dtype(x)), x)

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        z = jnp.asarray(z)
        a = _numerics.absolute(z)
        r = self.shrink(a, jnp.asarray(step))
        return _numerics.with_modulus(z, a, r)

    def _is_elementwise(self) -> bool:
        return True


@jax.custom_jvp
def weighted_sum(reg: Elementwise, weights: jax.Array, x: jax.Array) -> jax.Array:
    """Σ_i weights_i·ρ(|x_i|)."""
    reg, weights, x = _numerics.unshared((reg, weights, x))
    return jnp.sum(weights * reg.profile(jnp.abs(x)))


@weighted_sum.defjvp
def _weighted_sum_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (reg, weights, x), (dreg, dweights, dx) = primals, tangents
    a = _numerics.absolute(x)

    def of_coefficients(reg: Elementwise, weights: jax.Array) -> jax.Array:
        return jnp.sum(weights * reg.profile(a))

    _, tangent = jax.jvp(of_coefficients, (reg, weights), (dreg, dweights))
    gradient = weights * reg.slope(a) * jnp.sign(x)  # sign(0) = 0: the subgradient of least norm
    return weighted_sum(reg, weights, x), tangent + jnp.sum(_numerics.real_product(gradient, dx))
