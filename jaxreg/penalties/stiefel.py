"""Stiefel: orthonormal columns, or rows, times a scale."""

from typing import final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg._core import constraint, numerics
from jaxreg._core.struct import coefficient
from jaxreg.penalties import _polar, _singular_values


@final
class Stiefel(constraint.Constraint):
    """Keep the columns of a matrix orthonormal times a scale, or its rows if there are fewer of them.

        {W : WᴴW = scale²·I}  of a matrix that is not wide, else {W : WWᴴ = scale²·I}
        prox(Z) = scale·U·Vᴴ, where Z = U·Σ·Vᴴ: the polar factor

    For an array of rank 2, also complex. Kernels of a higher rank: `Matrix(Stiefel(...), outputs)`; stacks of matrices:
    `Stacked(Stiefel(...), axes)`. A matrix of the set comes back bit for bit, up to the rounding of its dtype. Of a
    matrix whose rank is not full the nearest point is not unique; one of them is returned. The derivative of the prox
    is that of the polar factor, finite also where singular values repeat; in directions in which one vanishes it is 0.
    `violation` is the root of Σ (σ − scale)². Cost: one SVD; for real matrices of 256 and more on a TPU or a GPU 25 to
    50 matrix products, twice as many where the rank is not full. There is no exact prox in a diagonal metric (a step of
    the shape of Z). A sharded matrix is gathered.

    Args:
        scale: leaf; real, finite, non-negative.

    Raises:
        ValueError: the rank is not 2, or `scale` is not such a number.
        NotImplementedError: `prox` with a step of the shape of `z`.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> jaxreg.Stiefel(scale=2.0).prox(jnp.array([[0.0, 3.0], [1.0, 0.0]])).round(5)
        Array([[0., 2.],
               [2., 0.]], dtype=float32)

    References:
        Fan and Hoffman, *Some metric inequalities in the space of matrices*, Proceedings of the American Mathematical
        Society, 1955 (the polar factor is the nearest isometry).
    """

    scale: ArrayLike = coefficient(1.0)

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        z = constraint.matrix("Stiefel", z, step)
        if z.size == 0:
            return z
        scale = jnp.asarray(self.scale, numerics.real_dtype(z))

        def by_svd(z: jax.Array) -> jax.Array:
            return _singular_values.spectral_map(_all_alike, scale, z)

        nearest = _polar.unless_large(by_svd, lambda z: scale * _polar.isometry(z), z)
        rounding = _singular_values.negligible(scale[None], z.shape)
        inside = jnp.linalg.norm(jax.lax.stop_gradient(z - nearest)) <= rounding
        return numerics.exact(jnp.where(inside, z, nearest), nearest)


def _all_alike(scale: jax.Array, sigma: jax.Array) -> jax.Array:
    return scale + 0 * sigma  # nan stays nan
