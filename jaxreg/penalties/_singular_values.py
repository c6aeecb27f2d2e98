"""Functions of singular values, with derivatives finite at repeated and zero ones.

Derivatives never go through those of the singular vectors, which divide by the gaps between singular values: the map
X = UΣVᵀ ↦ U f(Σ) Vᵀ is differentiated as an operator, by divided differences of f.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxreg._core import compiler, numerics
from jaxreg._core.compiler import matmul
from jaxreg.penalties import _polar

SCALAR_STEP = (
    "Singular values know none. Use one step for all entries (`metric=None`), or put the gradient in by "
    "`jaxreg.add_regularization`."
)


def _adjoint(a: jax.Array) -> jax.Array:
    return jnp.conj(a).T


def _svd(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    def by_svd(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        u, s, vh = jnp.linalg.svd(x, full_matrices=False)
        return u, s, vh

    return _polar.unless_large(by_svd, _polar.svd, x)


def _values(x: jax.Array) -> jax.Array:
    def by_svd(x: jax.Array) -> jax.Array:
        return jnp.linalg.svd(x, compute_uv=False)

    return _polar.unless_large(by_svd, lambda x: _polar.svd(x)[1], x)


def negligible(s: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """What the rounding of a decomposition makes of a zero singular value."""
    is_known = all(isinstance(n, int) for n in shape)
    longest = max(shape) if is_known else functools.reduce(jnp.maximum, map(numerics.number_of, shape))
    return longest * jnp.finfo(s.dtype).eps * jnp.max(s, initial=0)


@jax.custom_jvp
def singular_values(x: jax.Array) -> jax.Array:
    """σ in decreasing order; dσ_i = Re u_iᴴ dX v_i.

    Taken from the whole decomposition, for callers that need the vectors too: the compiler makes one of the two.
    """
    return _svd(x)[1]


@singular_values.defjvp
def _singular_values_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    u, s, vh = _svd(x)
    return s, jnp.real(jnp.einsum("mi,mn,in->i", jnp.conj(u), dx, jnp.conj(vh)))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def spectral_map(f: Callable[[Any, jax.Array], jax.Array], params: Any, x: jax.Array) -> jax.Array:
    """U f(params, Σ) Vᴴ for x = UΣVᴴ; f acts entry by entry and is 0 at 0."""
    u, s, vh = _svd(x)
    return compiler.placed_like(x, matmul(u * f(params, s)[None, :], vh))


@spectral_map.defjvp
def _spectral_map_jvp(
    f: Callable[[Any, jax.Array], jax.Array], primals: Any, tangents: Any
) -> tuple[jax.Array, jax.Array]:
    (params, x), (dparams, dx) = primals, tangents
    u, s, vh = _svd(x)
    v = _adjoint(vh)
    value, df = jax.jvp(lambda p: f(p, s), (params,), (dparams,))
    slope = jax.jvp(lambda t: f(params, t), (s,), (jnp.ones_like(s),))[1]
    tiny = negligible(s, x.shape)

    rows, columns = s[:, None], s[None, :]
    gap, total = rows - columns, rows + columns
    near, small = jnp.abs(gap) <= 8 * tiny, total <= tiny
    mean_slope = (slope[:, None] + slope[None, :]) / 2
    difference = (value[:, None] - value[None, :]) / jnp.where(near, 1, gap)
    odd = (value[:, None] + value[None, :]) / jnp.where(small, 1, total)
    inside = matmul(matmul(_adjoint(u), dx), v)
    hermitian, skew = (inside + _adjoint(inside)) / 2, (inside - _adjoint(inside)) / 2
    core = jnp.where(near, mean_slope, difference) * hermitian + jnp.where(small, mean_slope, odd) * skew
    core = core + jnp.eye(s.size, dtype=x.dtype) * df[None, :]

    zero = s <= tiny
    ratio = jnp.where(zero, slope, value / jnp.where(zero, 1, s))[None, :]
    outside_left = matmul(dx - matmul(u, matmul(_adjoint(u), dx)), v) * ratio
    outside_right = matmul(u * ratio, matmul(_adjoint(u), dx - matmul(matmul(dx, v), vh)))
    tangent = matmul(matmul(u, core), vh) + matmul(outside_left, vh) + outside_right
    mapped = matmul(u * value[None, :], vh)
    return compiler.placed_like(x, mapped), compiler.placed_like(x, tangent)


def clip(params: tuple[jax.Array, jax.Array], s: jax.Array) -> jax.Array:
    """min(σ, bound), or less σ itself, for `spectral_map`."""
    bound, is_change = params
    return jnp.where(is_change > 0, -jnp.maximum(s - bound, 0), jnp.minimum(s, bound))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def spectral_sum(
    total: Callable[[Any, jax.Array], jax.Array],
    slopes: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    x: jax.Array,
) -> jax.Array:
    """total(params, σ), with the gradient U slopes(params, Σ) Vᴴ over the singular values that are not negligible."""
    return total(params, _values(x))


@spectral_sum.defjvp
def _spectral_sum_jvp(total: Any, slopes: Any, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (params, x), (dparams, dx) = primals, tangents
    sigma = singular_values(x)
    s = jnp.where(sigma <= negligible(sigma, x.shape), 0, sigma)
    _, tangent = jax.jvp(lambda p: total(p, s), (params,), (dparams,))
    gradient = spectral_map(functools.partial(_not_negligible, slopes, x.shape), params, x)
    return total(params, sigma), tangent + jnp.sum(numerics.real_product(gradient, dx))


def _not_negligible(slopes: Any, shape: tuple[int, ...], params: Any, s: jax.Array) -> jax.Array:
    rounding = jax.lax.stop_gradient(jnp.where(s <= negligible(s, shape), s, 0))
    return slopes(params, s - rounding)  # at 0 the slope is 0, and its derivative the curvature there


def share_of_largest(params: Any, s: jax.Array) -> jax.Array:
    """The slope of σ₁: the mean over the largest ones, for `spectral_map`."""
    del params
    top = jnp.max(s)
    ties = jax.lax.stop_gradient((s >= top * (1 - 8 * jnp.finfo(s.dtype).eps)) & (top > 0)).astype(s.dtype)
    return ties / jnp.maximum(jnp.sum(ties), 1)


def with_derivative_of(exact: Callable[..., jax.Array], fast: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The function `fast`, and where it is differentiated `exact`, with the same values."""

    @jax.custom_jvp
    def function(*args: jax.Array) -> jax.Array:
        return fast(*args)

    function.defjvp(lambda primals, tangents: jax.jvp(exact, primals, tangents))
    return function
