"""Functions of singular values, with derivatives finite at repeated and zero ones; the polar factor by matmuls.

Derivatives never go through those of the singular vectors, which divide by the gaps between singular values: the map
X = UΣVᵀ ↦ U f(Σ) Vᵀ is differentiated as an operator, by divided differences of f.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxreg import _numerics, _sharding

# Amsel, Persson, Musco and Gower, *The Polar Express*, arXiv:2505.16932, Algorithm 1 (their safety factor is 1.01).
_POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
)
_SAFETY = 1.01
_POLISH = ((1.875, -1.25, 0.375),) * 9  # the quintic Newton-Schulz step, for what is still below 1


def _matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _adjoint(a: jax.Array) -> jax.Array:
    return jnp.conj(jnp.swapaxes(a, -1, -2))


def _svd(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    u, s, vh = jnp.linalg.svd(x, full_matrices=False)
    return u, s, vh


def _negligible(s: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """What the rounding of a decomposition makes of a zero singular value."""
    largest = jnp.max(s, axis=-1, keepdims=True, initial=0)
    return max(shape[-2:]) * jnp.finfo(s.dtype).eps * largest


@jax.custom_jvp
def singular_values(x: jax.Array) -> jax.Array:
    """σ of the last two axes, in decreasing order; dσ_i = Re u_iᴴ dX v_i.

    Taken from the whole decomposition, for callers that need the vectors too: the compiler makes one of the two.
    """
    return _svd(x)[1]


@singular_values.defjvp
def _singular_values_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    u, s, vh = _svd(x)
    return s, jnp.real(jnp.einsum("...mi,...mn,...in->...i", jnp.conj(u), dx, jnp.conj(vh)))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def spectral_map(f: Callable[[Any, jax.Array], jax.Array], params: Any, x: jax.Array) -> jax.Array:
    """U f(params, Σ) Vᴴ for x = UΣVᴴ; f acts entry by entry and is 0 at 0."""
    u, s, vh = _svd(x)
    return _sharding.placed_like(x, _matmul(u * f(params, s)[..., None, :], vh))


@spectral_map.defjvp
def _spectral_map_jvp(
    f: Callable[[Any, jax.Array], jax.Array], primals: Any, tangents: Any
) -> tuple[jax.Array, jax.Array]:
    (params, x), (dparams, dx) = primals, tangents
    u, s, vh = _svd(x)
    v = _adjoint(vh)
    value, df = jax.jvp(lambda p: f(p, s), (params,), (dparams,))
    slope = jax.jvp(lambda t: f(params, t), (s,), (jnp.ones_like(s),))[1]
    tiny = _negligible(s, x.shape)

    rows, columns = s[..., :, None], s[..., None, :]
    gap, total = rows - columns, rows + columns
    near, small = jnp.abs(gap) <= 8 * tiny[..., None], total <= tiny[..., None]
    mean_slope = (slope[..., :, None] + slope[..., None, :]) / 2
    difference = (value[..., :, None] - value[..., None, :]) / jnp.where(near, 1, gap)
    odd = (value[..., :, None] + value[..., None, :]) / jnp.where(small, 1, total)
    inside = _matmul(_matmul(_adjoint(u), dx), v)
    hermitian, skew = (inside + _adjoint(inside)) / 2, (inside - _adjoint(inside)) / 2
    core = jnp.where(near, mean_slope, difference) * hermitian + jnp.where(small, mean_slope, odd) * skew
    core = core + jnp.eye(s.shape[-1], dtype=x.dtype) * df[..., None, :]

    zero = s <= tiny
    ratio = jnp.where(zero, slope, value / jnp.where(zero, 1, s))[..., None, :]
    outside_left = _matmul(dx - _matmul(u, _matmul(_adjoint(u), dx)), v) * ratio
    outside_right = _matmul(u * ratio, _matmul(_adjoint(u), dx - _matmul(_matmul(dx, v), vh)))
    tangent = _matmul(_matmul(u, core), vh) + _matmul(outside_left, vh) + outside_right
    mapped = _matmul(u * value[..., None, :], vh)
    return _sharding.placed_like(x, mapped), _sharding.placed_like(x, tangent)


def refuse_metric(owner: str, step: jax.Array) -> None:
    """Raise for a step of the shape of the matrix."""
    if step.ndim:
        raise NotImplementedError(
            f"`{owner}(...).prox` with an array step has no closed form: singular values know no diagonal metric. Use "
            "one step for all entries (`metric=None`), or put the gradient in by `jaxreg.add_regularization`."
        )


def clip(bound: jax.Array, s: jax.Array) -> jax.Array:
    """min(σ, bound), for `spectral_map`."""
    return jnp.minimum(s, bound)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def spectral_sum(
    total: Callable[[Any, jax.Array], jax.Array],
    slopes: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    x: jax.Array,
) -> jax.Array:
    """total(params, σ), with the gradient U slopes(params, Σ) Vᴴ over the singular values that are not negligible."""
    return total(params, jnp.linalg.svd(x, compute_uv=False))


@spectral_sum.defjvp
def _spectral_sum_jvp(total: Any, slopes: Any, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (params, x), (dparams, dx) = primals, tangents
    sigma = singular_values(x)
    s = jax.lax.stop_gradient(sigma)
    s = jnp.where(s <= _negligible(s, x.shape), 0, s)
    _, tangent = jax.jvp(lambda p: total(p, s), (params,), (dparams,))
    gradient = spectral_map(functools.partial(_not_negligible, slopes, x.shape), params, x)
    return total(params, sigma), tangent + jnp.sum(_numerics.real_product(gradient, dx))


def _not_negligible(slopes: Any, shape: tuple[int, ...], params: Any, s: jax.Array) -> jax.Array:
    zero = s <= jax.lax.stop_gradient(_negligible(s, shape))
    return jnp.where(zero, 0, slopes(params, jnp.where(zero, 0, s)))


def polar_factor(x: jax.Array) -> jax.Array:
    """U Vᵀ of the last two axes by matrix products alone; the null space maps to 0.

    Singular values below about 1e-6 of the Frobenius norm are mapped to less than 1.
    """
    if x.shape[-2] < x.shape[-1]:
        return jnp.swapaxes(polar_factor(jnp.swapaxes(x, -1, -2)), -1, -2)
    frobenius = jax.lax.stop_gradient(_numerics.norms(x, (x.ndim - 2, x.ndim - 1)))
    y = x / jnp.where(frobenius == 0, 1, frobenius)
    safe = tuple((a / _SAFETY, b / _SAFETY**3, c / _SAFETY**5) for a, b, c in _POLAR_EXPRESS)

    def step(y: jax.Array, coefficients: jax.Array) -> tuple[jax.Array, None]:
        a, b, c = coefficients
        gram = _matmul(jnp.swapaxes(y, -1, -2), y)
        return a * y + _matmul(y, b * gram + c * _matmul(gram, gram)), None

    return jax.lax.scan(step, y, jnp.asarray((*safe, *_POLISH), x.dtype))[0]


@jax.custom_jvp
def nuclear_norm_polar(x: jax.Array) -> jax.Array:
    """Σσ = ⟨polar factor, X⟩; the gradient is the polar factor."""
    return jnp.sum(polar_factor(x) * x)


@nuclear_norm_polar.defjvp
def _nuclear_norm_polar_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    factor = polar_factor(x)
    return jnp.sum(factor * x), jnp.sum(factor * dx)


def singular_value_threshold_polar(x: jax.Array, t: jax.Array) -> jax.Array:
    """U max(Σ − t, 0) Vᵀ = ½·(X − tO)·(I + sign(P − tI)), O the polar factor and P = OᵀX symmetrized."""
    if x.shape[-2] < x.shape[-1]:
        return jnp.swapaxes(singular_value_threshold_polar(jnp.swapaxes(x, -1, -2), t), -1, -2)
    factor = polar_factor(x)
    p = _matmul(jnp.swapaxes(factor, -1, -2), x)
    p = (p + jnp.swapaxes(p, -1, -2)) / 2
    sign = polar_factor(p - t * jnp.eye(p.shape[-1], dtype=p.dtype))
    rest = x - t * factor
    return (rest + _matmul(rest, sign)) / 2
