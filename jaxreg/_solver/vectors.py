"""Vectors: lists of real arrays, a complex one as its two parts, with the inner product of all entries."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxreg._core import euclidean, numerics

Vector = Any  # a list whose entries are real arrays, or pairs of them


def vector(leaves: list[Any]) -> Vector:
    """The leaves as a vector. A leaf of a tree of Python numbers is an array of its dtype."""
    arrays = [jnp.asarray(leaf, jnp.result_type(leaf)) for leaf in leaves]
    return [(jnp.real(x), jnp.imag(x)) if jnp.iscomplexobj(x) else x for x in arrays]


def arrays(v: Vector) -> list[jax.Array]:
    """The leaves of which `vector` made v."""
    return [jax.lax.complex(*x) if isinstance(x, tuple) else x for x in v]


def dtype(v: Vector) -> Any:
    """The dtype of inner products."""
    return numerics.common_dtype(*(x.dtype for x in jax.tree.leaves(v)))


def dot(a: Vector, b: Vector) -> jax.Array:
    """Σ a_i·b_i."""
    kind = dtype(a)
    products = jax.tree.leaves(jax.tree.map(lambda x, y: jnp.sum(x * y).astype(kind), a, b))
    return sum(products, start=jnp.zeros((), kind))


def norm(a: Vector) -> jax.Array:
    """√⟨a, a⟩, also where the squares are out of range."""
    kind = dtype(a)
    return euclidean.norm(jnp.stack([euclidean.norm(x).astype(kind) for x in jax.tree.leaves(a)]))


def plus(a: Vector, factor: Any, b: Vector) -> Vector:
    """a + factor·b."""
    return jax.tree.map(lambda x, y: x + jnp.asarray(factor, x.dtype) * y, a, b)


def minus(a: Vector, b: Vector) -> Vector:
    """a − b."""
    return jax.tree.map(jnp.subtract, a, b)


def where(condition: jax.Array, a: Vector, b: Vector) -> Vector:
    """a or b."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)
