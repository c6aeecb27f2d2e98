"""The largest singular value and its singular vectors, by matrix products alone."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxreg._core import euclidean
from jaxreg._core.compiler import matmul, multiply_add
from jaxreg.penalties import _polar, _singular_values


@jax.custom_jvp
def largest_singular_value(x: jax.Array) -> jax.Array:
    """σ₁, with the gradient u₁v₁ᵀ: the mean over the singular vectors where σ₁ is repeated, 0 at 0."""
    return _with_gradient(x)[0]


@largest_singular_value.defjvp
def _largest_singular_value_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    value, gradient = _with_gradient(x)
    return value, jnp.sum(gradient * dx)


@jax.custom_jvp
def _with_gradient(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of X = UΣVᵀ, by G = XᵀX = VΣ²Vᵀ, where U₁V₁ᵀ = XV₁V₁ᵀ/σ₁."""
    if x.shape[0] < x.shape[1]:
        value, gradient = _with_gradient(x.T)
        return value, gradient.T
    frobenius = euclidean.norms(x, (0, 1))
    y = x / jnp.where(frobenius == 0, 1, frobenius)
    square, mean, _ = top(matmul(y.T, y))
    value = jnp.sqrt(square)
    return value * frobenius[0, 0], matmul(y, mean / jnp.where(value == 0, 1, value))


@_with_gradient.defjvp
def _with_gradient_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    """The second derivative is a map of matrices, which takes a decomposition."""
    (x,), (dx,) = primals, tangents
    share = _singular_values.share_of_largest
    gradient, change = jax.jvp(lambda x: _singular_values.spectral_map(share, (), x), (x,), (dx,))
    return (largest_singular_value(x), gradient), (jnp.sum(gradient * dx), change)


def top(p: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """λ₁ of a symmetric P ≥ 0, the mean of vvᵀ over its eigenvectors v, and how many there are.

    The powers P, P², P⁴, ... with trace 1 have the eigenvalues w_i = λ_i^N/Σ_j λ_j^N. Where Σw_i² is nearly 1, one more
    has a single one; else they go on until N is 1/ε: λ₁ is from Σw_iλ_i to (1 + log n/N)·Σw_iλ_i. The mean is taken at
    N = 1/(64ε), so that eigenvalues that differ by rounding alone count alike.
    """
    info = jnp.finfo(p.dtype)

    def is_unfinished(state: Any) -> jax.Array:
        _, _, _, purity, count = state
        return (count <= info.nmant) & (purity < 1 - float(info.eps) ** 0.5)

    def square(state: Any) -> Any:
        power, mean, of_mean, purity, count = state
        power = multiply_add(1 / _or_1(purity) ** 2, power, power, 0)  # of the one before with trace 1
        purity, is_early = jnp.trace(power), count < info.nmant - 5  # Σw_i²
        mean, of_mean = jnp.where(is_early, power, mean), jnp.where(is_early, purity, of_mean)
        return power, mean, of_mean, purity, count + 1

    start, zero = p / _or_1(jnp.trace(p)), jnp.zeros((), p.dtype)
    found = jax.lax.while_loop(is_unfinished, square, (start, start, zero, zero, jnp.int32(0)))
    power, mean, of_mean, purity, _ = found
    mean = mean / _or_1(of_mean)
    return jnp.sum(p * power) / _or_1(purity), mean, 1 / _or_1(jnp.sum(mean * mean))


def _or_1(x: jax.Array) -> jax.Array:
    return jnp.where(x == 0, 1, x)


def clipped(x: jax.Array, excess: jax.Array) -> jax.Array:
    """U min(Σ, θ) Vᵀ with Σ_i (σ_i − θ)₊ = excess, and 0 if Σ_i σ_i ≤ excess; not to be differentiated.

    That is X − OC for X = OP and C = (P − θI)₊, which has the trace `excess`. Mostly σ₁ alone is above θ: then C is
    excess·v₁v₁ᵀ, and σ₁(P − C) ≤ θ proves it.
    """
    if x.shape[0] < x.shape[1]:
        return clipped(x.T, excess).T
    factor, p = _polar.polar_decomposition(x)

    def peeled(rest: jax.Array, _: None) -> tuple[jax.Array, Any]:
        value, mean, count = top(rest)
        return rest - excess * mean, (value, mean, count)

    _, (values, means, counts) = jax.lax.scan(peeled, p, None, length=2)
    largest, level, rounding = values[0], values[0] - excess / counts[0], 4 * jnp.finfo(p.dtype).eps
    is_alone = (level > 0) & (values[1] <= level + rounding * largest)
    part = jax.lax.cond(is_alone, lambda: excess * means[0], lambda: _excess(p, largest, excess, rounding))
    moved = jnp.where(jnp.trace(p) <= excess, 0, x - matmul(factor, part))
    return jnp.where(excess == 0, x, moved)


def _excess(p: jax.Array, largest: jax.Array, excess: jax.Array, rounding: Any) -> jax.Array:
    """(P − θI)₊ with the trace `excess`.

    θ by Newton's method for Σ_i (λ_i − θ)₊ = excess, convex in θ, from the left: it rises to the root and stays there.
    """
    n = len(p)
    start = jnp.maximum(jnp.maximum(largest - excess, (jnp.trace(p) - excess) / n), 0)

    def rises(state: tuple[jax.Array, jax.Array, jax.Array, jax.Array]) -> jax.Array:
        level, last, _, count = state
        return (level - last > rounding * largest) & (count < n)

    def newton(state: tuple[jax.Array, jax.Array, jax.Array, jax.Array]) -> Any:
        level, _, _, count = state
        projector = (jnp.eye(n, dtype=p.dtype) + _polar.above(p, level)) / 2
        better = (jnp.sum(projector * p) - excess) / jnp.maximum(jnp.trace(projector), 1)
        return jnp.maximum(better, level), level, projector, count + 1

    before = (start, -jnp.ones_like(start) * jnp.inf, jnp.zeros_like(p), jnp.int32(0))
    level, _, projector, _ = jax.lax.while_loop(rises, newton, before)
    part = matmul(p, projector) - level * projector
    return part * (excess / _or_1(jnp.trace(part)))
