"""SpectralBall: the largest singular value at most a radius."""

from typing import final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg._core import constraint, numerics
from jaxreg._core.struct import coefficient
from jaxreg.penalties import _polar, _singular_values


@final
class SpectralBall(constraint.Constraint):
    """Keep the largest singular value of a matrix at a radius or below, so that the linear map is Lipschitz.

        {W : σ_max(W) ≤ radius}
        prox(Z) = U·min(Σ, radius)·Vᴴ, where Z = U·Σ·Vᴴ

    For an array of rank 2, also complex. Kernels of a higher rank: `Matrix(SpectralBall(...), outputs)`; stacks of
    matrices: `Stacked(SpectralBall(...), axes)`. A matrix inside comes back bit for bit. The derivative of the prox is
    that of the map of matrices, finite also where singular values repeat or vanish (that of an SVD is nan there); at
    σ = radius it is that of the inside. `violation` is the root of Σ max(σ − radius, 0)². Cost: one SVD; for real
    matrices of 256 and more on a TPU or a GPU 50 to 100 matrix products, with an error of a few 1e-6 of the
    largest singular value. There is no exact prox in a diagonal metric (a step of the shape of Z). A sharded matrix is
    gathered: 4·m·n bytes on every device for float32.

    Args:
        radius: leaf; real, finite, non-negative.

    Raises:
        ValueError: the rank is not 2, or `radius` is not such a number.
        NotImplementedError: `prox` with a step of the shape of `z`.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> jaxreg.SpectralBall(radius=2.0).prox(jnp.array([[0.0, 3.0], [1.0, 0.0]])).round(5)
        Array([[0., 2.],
               [1., 0.]], dtype=float32)

    References:
        Gouk, Frank, Pfahringer and Cree, *Regularisation of neural networks by enforcing Lipschitz continuity*, Machine
        Learning, 2021 (who scale the whole matrix instead of projecting).
    """

    radius: ArrayLike = coefficient()

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        z = constraint.matrix("SpectralBall", z, step)
        if z.size == 0:
            return z
        radius = jnp.asarray(self.radius, numerics.real_dtype(z))

        def by_svd(z: jax.Array) -> jax.Array:
            largest = jnp.max(_singular_values.singular_values(z))
            near = largest <= 2 * radius  # there what is cut off has less rounding than what is left
            params = radius, jnp.asarray(near, radius.dtype)
            nearest = jnp.where(near, z, 0) + _singular_values.spectral_map(_singular_values.clip, params, z)
            return jnp.where(largest <= radius, z, nearest)

        return _polar.unless_large(by_svd, lambda z: _polar.clipped_polar(z, radius), z)
