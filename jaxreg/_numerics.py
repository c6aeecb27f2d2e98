"""|x|, sums and thresholds that are right at 0, in half precision and at the ends of the floating range."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

T = TypeVar("T")


def promote(x: Any) -> jax.Array:
    """Cast to the dtype in which penalties are summed: float32 for float16, bfloat16, float8, integers and bool.

    float32, float64 and complex stay. With x64 enabled, integers and bool become float64.
    """
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return x
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x.astype(jnp.result_type(float))
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


def real_dtype(x: jax.Array) -> Any:
    """The dtype of |x|: the one of a penalty of `x` and of its coefficients."""
    return jnp.finfo(x.dtype).dtype


@jax.custom_jvp
def absolute(x: jax.Array) -> jax.Array:
    """|x| with derivative sign(x) = x/|x|, which is 0 at 0, where that of `jnp.abs` is +1."""
    return jnp.abs(x)


@absolute.defjvp
def _absolute_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    return absolute(x), real_product(jnp.sign(x), dx)


def scaled_l1(c: Any, x: jax.Array) -> jax.Array:
    """c·Σ|x| for a promoted x, without overflow on the way if the result is representable."""
    return _scaled_l1(jnp.asarray(c, real_dtype(x)), x)


def scaled_l2(c: Any, x: jax.Array) -> jax.Array:
    """c·Σ|x|² for a promoted x, without overflow on the way if the result is representable."""
    return _scaled_l2(jnp.asarray(c, real_dtype(x)), x)


def scaled_l1l2(l1: Any, l2: Any, x: jax.Array) -> jax.Array:
    """l1·Σ|x| + l2·Σ|x|² in one pass over a promoted x, without overflow on the way."""
    return _scaled_l1l2(jnp.asarray(l1, real_dtype(x)), jnp.asarray(l2, real_dtype(x)), x)


@jax.custom_jvp
def _scaled_l1(c: jax.Array, x: jax.Array) -> jax.Array:
    return _factored(c, x, lambda c, x: c * jnp.abs(x))


@_scaled_l1.defjvp
def _scaled_l1_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (c, x), (dc, dx) = primals, tangents
    tangent = dc * _scaled_l1(jnp.ones_like(c), x) + jnp.sum(real_product(c * jnp.sign(x), dx))
    return _scaled_l1(c, x), tangent


@jax.custom_jvp
def _scaled_l2(c: jax.Array, x: jax.Array) -> jax.Array:
    return _factored(c, x, _times_square if x.size < _LARGE else lambda c, x: real_product(c * x, x))


@_scaled_l2.defjvp
def _scaled_l2_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (c, x), (dc, dx) = primals, tangents
    tangent = dc * _scaled_l2(jnp.ones_like(c), x) + jnp.sum(real_product(2 * c * x, dx))
    return _scaled_l2(c, x), tangent


def unshared(operands: T) -> T:
    """The same, but leaves of one shape will not share broadcast coefficients, which would be kept in memory for it."""
    return jax.lax.optimization_barrier(operands)


@jax.custom_jvp
def _scaled_l1l2(l1: jax.Array, l2: jax.Array, x: jax.Array) -> jax.Array:
    l1, l2, x = unshared((l1, l2, x))
    a = jnp.abs(x)
    return jnp.sum(a * (l1 + l2 * a))


@_scaled_l1l2.defjvp
def _scaled_l1l2_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (l1, l2, x), (dl1, dl2, dx) = primals, tangents
    one = jnp.ones_like(l1)
    tangent = dl1 * _scaled_l1(one, x) + dl2 * _scaled_l2(one, x)
    return _scaled_l1l2(l1, l2, x), tangent + jnp.sum(real_product(l1 * jnp.sign(x) + 2 * l2 * x, dx))


_LARGE = 1 << 16  # from this size on, the time to read the memory is what a sum costs


def _factored(c: jax.Array, x: jax.Array, term: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
    """Σ term(c, x), for a term that is linear in c.

    On a CPU, large arrays are read at the speed of the memory only without the multiplication by c: c·Σ term(1, x), and
    once more with it, where that sum is out of range. Elsewhere the multiplication is free, and a branch is not.
    """

    def inside(c: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.sum(term(c, x))

    def outside(c: jax.Array, x: jax.Array) -> jax.Array:
        total = jnp.sum(term(jnp.ones_like(c), x))
        info = jnp.finfo(total.dtype)
        enough = x.size * float(info.tiny) / float(info.eps)  # what is flushed to 0 is below the rounding
        return jax.lax.cond((total > enough) & (total < info.max), lambda c, x: c * total, inside, c, x)

    return jax.lax.platform_dependent(c, x, cpu=outside, default=inside) if x.size >= _LARGE else inside(c, x)


def _times_square(c: jax.Array, x: jax.Array) -> jax.Array:
    """c·|x|²: the square first, which has the digits of Keras, where it is in range."""
    in_range = (jnp.abs(x) > 2.0**-60) & (jnp.abs(x) < 2.0**60)
    return jnp.where(in_range, c * real_product(x, x), real_product(c * x, x))


def real_product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Re(conj(a)·b): the real inner product, element by element."""
    return jnp.real(jnp.conj(a) * b) if jnp.iscomplexobj(a) or jnp.iscomplexobj(b) else a * b


def threshold(step: jax.Array, c: Any) -> jax.Array:
    """step·c, and 0 where c is 0 even for an infinite step."""
    c = jnp.asarray(c, step.dtype)
    return jnp.where(c == 0, jnp.zeros_like(step), step * c)


def shrunk_step(step: jax.Array, l2: Any) -> jax.Array:
    """step/(1 + 2·step·l2), also for an infinite step."""
    positive = step > 0
    inverse = 1 / jnp.where(positive, step, 1) + 2 * jnp.asarray(l2, step.dtype)
    return jnp.where(positive, 1 / inverse, 0)


def soft_threshold(z: jax.Array, u: jax.Array) -> jax.Array:
    """argmin_w u|w| + ½|w − z|²; +0.0 inside the threshold, where sign(z)·max(|z| − u, 0) gives −0.0 too."""
    size = jnp.abs(z)
    if not jnp.iscomplexobj(z):
        return jnp.where(size <= u, 0, jnp.sign(z) * (size - u))  # less work than a clip
    outside = size > u
    return z * jnp.where(outside, 1 - u / jnp.where(outside, size, 1), 0)


def unit_vectors(x: jax.Array, axis: int | tuple[int, ...]) -> jax.Array:
    """x/‖x‖₂ along `axis`, and 0 with derivative 0 where ‖x‖ = 0; entries of 1e±30 neither overflow nor vanish."""
    y, largest = normalized(x, axis)
    zero = largest == 0
    square = jnp.sum(real_product(y, y), axis=axis, keepdims=True)
    return jnp.where(zero, jnp.zeros_like(y), y * jax.lax.rsqrt(jnp.where(zero, 1, square)))


def normalized(x: jax.Array, axis: int | tuple[int, ...] | None) -> tuple[jax.Array, jax.Array]:
    """(x/m, m) with m = max|x| along `axis`, held constant: for functions in which the scale cancels."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=axis, keepdims=True, initial=0))
    # The compiler multiplies by 1/m, which would be subnormal, and flushed to 0, near the end of the range.
    down = jnp.where(largest > 1, 2.0**-16, 1).astype(largest.dtype)
    y = (x * down) / jnp.where(largest == 0, 1, largest * down)
    return (y if jnp.iscomplexobj(x) else jnp.where(jnp.isinf(x), jnp.sign(x), y)), largest  # inf/inf would be nan


def with_modulus(z: jax.Array, a: jax.Array, r: jax.Array) -> jax.Array:
    """The number of the sign (or phase) of z and of modulus r, where a = |z|; z itself where r = a."""
    if not jnp.iscomplexobj(z):
        return jnp.where(r == 0, 0, jnp.sign(z) * r)
    positive = a > 0
    return z * jnp.where(positive, r / jnp.where(positive, a, 1), 0)


def norms(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """‖x‖₂ over `axes`, kept with length 1; the derivative is x/‖x‖, and 0 at 0."""
    return _norms(axes, x)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _norms(axes: tuple[int, ...], x: jax.Array) -> jax.Array:
    scale = _largest(x, axes)
    return scale * jnp.sqrt(_square(x, 1 / scale, axes))


@_norms.defjvp
def _norms_jvp(axes: tuple[int, ...], primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    down = 1 / _largest(x, axes)
    square = _square(x, down, axes)
    y = x * unshared(down)  # what is inside `square` stays inside its sum, which is faster
    y = y if jnp.iscomplexobj(x) else jnp.where(jnp.isinf(y), jnp.sign(x), y)  # beside inf, all else counts nothing
    unit = y * jax.lax.rsqrt(jnp.where((square > 0) & (square < jnp.inf), square, 1))
    return norms(x, axes), jnp.sum(real_product(unit, dx), axis=axes, keepdims=True)


def _square(x: jax.Array, down: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    y = x * down
    return jnp.sum(real_product(y, y), axis=axes, keepdims=True)


def _largest(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """max|x| over `axes`, held constant, within the range where it and its reciprocal are normal numbers."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=axes, keepdims=True, initial=0))
    info = jnp.finfo(largest.dtype)
    return jnp.clip(largest, info.tiny, 2.0 ** (info.maxexp - 2))


@jax.custom_jvp
def gram(x: jax.Array) -> jax.Array:
    """X Xᴴ. Its derivative M + Mᴴ takes one product, M = dX Xᴴ, and so does its transpose: (G + Gᴴ) X."""
    return _times_adjoint(x, x)


@gram.defjvp
def _gram_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    m = _times_adjoint(dx, x)
    return gram(x), m + jnp.conj(m).T


def _times_adjoint(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, jnp.conj(b).T, precision=jax.lax.Precision.HIGHEST)
