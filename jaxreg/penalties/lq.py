"""Lq: the sum of q-th powers, 0 < q < 1."""

from typing import final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg._core import checks, numerics
from jaxreg._core.elementwise import Elementwise
from jaxreg._core.struct import coefficient, static

_NEWTON_STEPS = 8  # float64 accuracy for q from 0.1 to 0.97


@final
class Lq(Elementwise):
    """Push small entries to zero harder than L1 does, and large ones less.

        R(x) = lq · Σ_i |x_i|^q                                                                     (0 < q < 1)
        ∇R(x)_i = lq · q · |x_i|^(q−1) · sign(x_i)
        prox(z, τ)_i = 0 or the larger root r of r − |z_i| + τ·lq·q·r^(q−1) = 0, whichever is better

    A sum over all axes; any shape. The slope is infinite towards 0; the subgradient at 0 is 0, and the modulus is
    taken as at least 1e-9 (float32) in derivatives so that they stay finite. The prox is in closed form for q = ½ and
    q = ⅔, and by a fixed number of Newton steps otherwise; where 0 and the root are equally good it gives 0. It takes
    a scalar step or an array. Not convex.

    Args:
        lq: leaf; real, finite, non-negative.
        q: static; between 0 and 1, both excluded.

    Raises:
        TypeError, ValueError: `lq` or `q` is not such a number.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> reg = jaxreg.Lq(1.0, q=0.5)
        >>> float(reg(jnp.array([-4.0, 0.0, 1.0])))
        3.0
        >>> reg.prox(jnp.array([-4.0, 1.4, 0.0])).round(3)
        Array([-3.742,  0.   ,  0.   ], dtype=float32)

    References:
        Xu, Chang, Xu and Zhang, *L1/2 regularization: a thresholding representation theory and a fast solver*, IEEE
        TNNLS, 2012. Cao, Sun and Xu, *Fast image deconvolution using closed-form thresholding formulas of Lq (q = ½,
        ⅔) regularization*, JVCIR, 2013.
    """

    lq: ArrayLike = coefficient(0.01)
    q: float = static(0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.q, bool) or not isinstance(self.q, (int, float)):
            raise TypeError(f"`Lq(q=...)` must be a number between 0 and 1, got {checks.short(self.q)}.")
        if not 0 < self.q < 1:
            raise ValueError(
                f"`Lq(q=...)` must lie between 0 and 1 (use L0 or L1 at the ends), got {checks.short(self.q)}."
            )

    def profile(self, a: jax.Array) -> jax.Array:
        positive = a != 0
        return jnp.asarray(self.lq, a.dtype) * jnp.where(positive, jnp.where(positive, a, 1) ** self.q, 0)

    def slope(self, a: jax.Array) -> jax.Array:
        return jnp.asarray(self.lq, a.dtype) * self.q * _floored(a) ** (self.q - 1)

    def scalar_prox(self, a: jax.Array, step: jax.Array) -> jax.Array:
        u = numerics.threshold(step, self.lq)
        q, above = self.q, _floored(a)
        least = (2 * jnp.where(u == 0, 1, u) * (1 - q)) ** (1 / (2 - q))  # the smallest r > 0 that is ever optimal
        at_least = least * (1 + q / (2 * (1 - q)))  # the |z| from which on it is
        # One Newton step from a has all digits of the root, and its derivatives, where it moves a by less than a digit:
        # where u·q·a^(q−1) < ε·a.
        far = (q / (2 * (1 - q) * float(jnp.finfo(a.dtype).eps))) ** (1 / (2 - q)) * least
        free = (u == 0) | ((a > far) & (above == a))
        inside = (a <= at_least) & ~free
        safe_a, safe_u = jnp.where(inside | free, 2 * at_least, a), jnp.where(free, 1, u)
        root = {0.5: _root_half, 2 / 3: _root_two_thirds}.get(q, _root_newton)(safe_a, safe_u, least, q)
        force = u * q * above ** (q - 1)
        step_from_a = a - force / (1 - jnp.where(free, force * (1 - q) / above, 0))
        return jnp.where(free, step_from_a, jnp.where(inside, 0, root))


def _floored(a: jax.Array) -> jax.Array:
    return jnp.maximum(a, float(jnp.finfo(a.dtype).tiny) ** 0.25)


def _root_half(a: jax.Array, u: jax.Array, least: jax.Array, q: float) -> jax.Array:
    del least, q
    angle = jnp.arccos(jnp.maximum(-(3**1.5 / 4) * u * a**-1.5, -1 + 1e-7))
    return 2 / 3 * a * (1 + jnp.cos(2 / 3 * angle))


def _root_two_thirds(a: jax.Array, u: jax.Array, least: jax.Array, q: float) -> jax.Array:
    del u, q
    scaled = a / (3**0.75 * least)  # a/(2u)^¾, of which r/a is a function; one step has one such power of u
    length = 2 / 3**0.5 * jnp.sqrt(jnp.cosh(jnp.arccosh(27 / 16 * scaled**2) / 3))
    return a * (((length + jnp.sqrt(2 * scaled / length - length**2)) / 2) ** 3 / scaled)


def _root_newton(a: jax.Array, u: jax.Array, least: jax.Array, q: float) -> jax.Array:
    r = a
    for _ in range(_NEWTON_STEPS):
        r = jnp.maximum(r - (r - a + u * q * r ** (q - 1)) / (1 - u * q * (1 - q) * r ** (q - 2)), least)
    return jnp.where(jnp.isinf(a), a, r)
