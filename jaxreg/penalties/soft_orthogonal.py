"""SoftOrthogonal: the distance of the Gram matrix from the identity."""

from typing import final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg._core import checks, numerics, sums
from jaxreg._core.regularizer import Regularizer
from jaxreg._core.struct import coefficient
from jaxreg.penalties import _singular_values

_NEWTON_STEPS = 30  # from the right of the root, where the cubic is convex: quadratic in the end, ⅔ a step far away
_OF_DERIVATIVES = 4  # so many of them carry derivatives: at the root one gives the first, two three, four fifteen


@final
class SoftOrthogonal(Regularizer):
    """Push the columns of a matrix towards orthonormality.

        R(W) = factor · ‖WᵀW − I‖_F² = factor · (Σ_i (σ_i² − 1)² + max(n − m, 0))            for W of shape (m, n)
        ∇R(W) = 4 · factor · W (WᵀW − I)
        prox(Z, τ) = U s(Σ) Vᴴ, s(σ) the largest root of 4us³ + (1 − 4u)s − σ = 0, u = τ·factor

    The Gram matrix of the smaller side is used: ‖WWᵀ − I‖² and ‖WᵀW − I‖² differ by the constant m − n, which is added,
    so the value is the one of the formula for either shape, and so is the gradient. Smooth everywhere. Not convex; the
    prox of a singular value 0 stays 0. Of a sharded (m, n) matrix in float32 every device gathers at most 4·m·n bytes;
    where the longer side is sharded, an all-reduce of at most 4·min(m, n)² bytes sums the Gram matrix. Only `prox`
    takes a decomposition.

    For an array of rank 2. Kernels of a higher rank: `Matrix(SoftOrthogonal(...), outputs)`; stacks of matrices
    (`nn.scan`, `vmap`): `Stacked(SoftOrthogonal(...), axes)`.

    Args:
        factor: leaf; real, finite, non-negative.

    Raises:
        ValueError: the rank is not 2, or `factor` is not such a number.
        NotImplementedError: `prox` with an array step; there is no closed form in a diagonal metric.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> reg = jaxreg.SoftOrthogonal(1.0)
        >>> float(reg(jnp.eye(3))), float(reg(2 * jnp.eye(2)))
        (0.0, 18.0)
        >>> float(reg(jnp.ones((1, 2))))  # [[0, 1], [1, 0]] is what WᵀW − I leaves
        2.0

    References:
        Bansal, Chen and Wang, *Can we gain more from orthogonality regularizations in training deep CNNs?*,
        arXiv:1810.09102 ("SO"; their double soft orthogonality is 2·SO up to a constant).
    """

    factor: ArrayLike = coefficient(0.01)

    def __call__(self, x: ArrayLike) -> jax.Array:
        w = checks.matrix("SoftOrthogonal", jnp.asarray(x))
        if w.size == 0:
            return jnp.zeros((), numerics.real_dtype(w))
        m, n = w.shape
        is_wide = isinstance(m, int) and isinstance(n, int) and m < n  # else the symbolic sizes of `jax.export`
        gram = numerics.gram(w if is_wide else jnp.conj(w).T)
        rest = gram - jnp.eye(m if is_wide else n, dtype=w.dtype)
        factor = jnp.asarray(self.factor, numerics.real_dtype(w))
        return sums.scaled_l2(factor, rest) + factor * (n - m if is_wide else 0)

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        z, step = checks.matrix("SoftOrthogonal.prox", jnp.asarray(z)), jnp.asarray(step)
        checks.scalar_step("SoftOrthogonal(...)", step, _singular_values.SCALAR_STEP)
        u = numerics.threshold(step, self.factor)
        return _singular_values.spectral_map(_largest_root, u, z) if z.size else z


def _largest_root(u: jax.Array, sigma: jax.Array) -> jax.Array:
    b = 0.25 / (1 + 4 * u)  # the cubic divided by 4 + 16u: neither u nor σ is too large
    a = 0.25 - b
    # At or beyond the root: it is at most σ, and from √2 on s³ − s ≥ s³/2, so there at most (σ/2u)^⅓.
    start = jnp.maximum(jnp.minimum(sigma, jnp.maximum(2**0.5, jnp.cbrt(sigma) / jnp.cbrt(2 * u))), 1.0)
    s, *held = jax.lax.stop_gradient((start, a, b, sigma))
    for left in reversed(range(_NEWTON_STEPS)):
        a_, b_, sigma_ = held if left >= _OF_DERIVATIVES else (a, b, sigma)
        s = s - (s * (a_ * s) * s + (b_ - a_) * s - b_ * sigma_) / (3 * (a_ * s) * s + b_ - a_)
    return jnp.where(sigma == 0, sigma / jnp.where(4 * u < 1, 1 - 4 * u, jnp.inf), s)
