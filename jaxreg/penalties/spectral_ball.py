"""SpectralBall: the largest singular value at most a radius."""

from typing import Any, final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg import _constraint, _numerics
from jaxreg._pytree import coefficient


@final
class SpectralBall(_constraint.Constraint):
    """Keep the largest singular value of a matrix at a radius or below, so that the linear map is Lipschitz.

        {W : σ_max(W) ≤ radius}
        prox(Z) = U·min(Σ, radius)·Vᴴ, where Z = U·Σ·Vᴴ

    The last two axes are the matrix, the ones before count matrices; also complex. Reshape a convolution kernel to
    (fan_in, fan_out) first. A matrix inside comes back bit for bit. The derivative of the prox is that of the map of
    matrices, finite also where singular values repeat or vanish (that of an SVD is nan there); at σ = radius it is
    that of the inside. `violation` is the root of Σ max(σ − radius, 0)². Cost: one SVD of every matrix. There is no
    exact prox in a diagonal metric (a step of the shape of Z).

    Args:
        radius: leaf; real, finite, non-negative.

    Raises:
        ValueError: the array has less than two axes.
        NotImplementedError: `prox` with a step of the shape of `z`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxreg.penalties.spectral_ball import SpectralBall
        >>> SpectralBall(radius=2.0).prox(jnp.array([[0.0, 3.0], [1.0, 0.0]])).round(5)
        Array([[0., 2.],
               [1., 0.]], dtype=float32)

    References:
        Gouk, Frank, Pfahringer and Cree, *Regularisation of neural networks by enforcing Lipschitz continuity*, Machine
        Learning, 2021 (who scale the whole matrix instead of projecting).
    """

    radius: ArrayLike = coefficient()

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        z = jnp.asarray(z)
        _constraint.refuse_metric("SpectralBall", jnp.asarray(step))
        if z.ndim < 2:
            raise ValueError(f"`SpectralBall` takes a matrix or a stack of matrices, got shape {z.shape}.")
        return _clip(z, jnp.asarray(self.radius, _numerics.real_dtype(z))) if z.size else z


@jax.custom_jvp
def _clip(z: jax.Array, radius: jax.Array) -> jax.Array:
    u, s, vh = jnp.linalg.svd(z, full_matrices=False)
    clipped = _times(u * jnp.minimum(s, radius)[..., None, :], vh)
    return jnp.where((s[..., :1] <= radius)[..., None], z, clipped)


@_clip.defjvp
def _clip_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    # Divided differences of σ ↦ min(σ, radius), extended to an odd function, in the basis of the singular vectors.
    (z, radius), (dz, dradius) = primals, tangents
    u, s, vh = jnp.linalg.svd(z, full_matrices=False)
    uh, v = _adjoint(u), _adjoint(vh)
    inner = _times(_times(uh, dz), v)
    low, high = jnp.minimum(s[..., :, None], s[..., None, :]), jnp.maximum(s[..., :, None], s[..., None, :])
    crossing = (high > radius) & (low < radius)
    slope = jnp.where(crossing, (radius - low) / jnp.where(crossing, high - low, 1), jnp.where(high > radius, 0, 1))
    total = low + high
    mean = (jnp.minimum(low, radius) + jnp.minimum(high, radius)) / jnp.where(total > 0, total, 1)
    mean = jnp.where(total > 0, mean, 1)
    core = (slope * (inner + _adjoint(inner)) + mean * (inner - _adjoint(inner))) / 2
    gain = jnp.where(s > radius, radius / jnp.where(s > radius, s, 1), 1)
    right = gain[..., :, None] * (_times(uh, dz) - _times(inner, vh))  # the part of dz in the null space of Z
    left = (_times(dz, v) - _times(u, inner)) * gain[..., None, :]
    edge = _times(u * (s > radius).astype(s.dtype)[..., None, :], vh)
    tangent = _times(_times(u, core) + left, vh) + _times(u, right) + dradius * edge
    return _clip(z, radius), tangent


def _adjoint(a: jax.Array) -> jax.Array:
    return jnp.conj(jnp.swapaxes(a, -1, -2))


def _times(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
