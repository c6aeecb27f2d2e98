"""Sums over the calls of a module that `vmap` runs at once.

There are two kinds of `vmap`. Inside the model, `nnx.vmap` with `in_axes=None` calls a module once an example, and the
penalties of these calls are added up: the sum has no mapped axis. A `vmap` around `with_losses` must keep its axis, as
each example has its own losses. The total of a module tells the two apart. It starts at `zero(inputs of the call)`,
which has the axes mapped outside of the call and no others; `collect(penalty, total)` sums over all other mapped axes.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

_collect = Primitive("jaxreg_collect")
_zero = Primitive("jaxreg_zero")


def collect(value: jax.Array, total: jax.Array) -> jax.Array:
    """Return `value`, summed over the mapped axes that `total` does not have: what `nnx.vmap` runs at once."""
    if not isinstance(value, jax.core.Tracer) and not isinstance(total, jax.core.Tracer):
        return value
    return _collect.bind(value, total)


def zero(inputs: Any) -> jax.Array:
    """Return 0 with the mapped axes of all traced arrays in `inputs`; float64 if one of them has that precision."""
    leaves = [leaf for leaf in jax.tree.leaves(inputs) if hasattr(leaf, "dtype")]
    traced = [leaf for leaf in leaves if isinstance(leaf, jax.core.Tracer)]
    double = any(leaf.dtype in (jnp.float64, jnp.complex128) for leaf in leaves)
    start = jnp.zeros((), jnp.float64 if double else jnp.float32)
    return _zero.bind(start, *traced) if traced else start


def _collect_batch(args: Any, dims: Any) -> tuple[jax.Array, Any]:
    (value, total), (value_dim, total_dim) = args, dims
    if total_dim is None:
        return _collect.bind(jnp.sum(value, value_dim), total), None
    total = jnp.moveaxis(total, total_dim, 0)
    value = jnp.broadcast_to(value, total.shape) if value_dim is None else jnp.moveaxis(value, value_dim, 0)
    return _collect.bind(value, total), 0


def _collect_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, Any]:
    (value, total), (tangent, _) = primals, tangents
    out = _collect.bind(value, total)
    return out, tangent if type(tangent) is ad.Zero else _collect.bind(tangent, total)


def _zero_batch(args: Any, dims: Any) -> tuple[jax.Array, int]:
    size = next(arg.shape[dim] for arg, dim in zip(args, dims, strict=True) if dim is not None)
    first = [
        arg if dim is None else jax.lax.index_in_dim(arg, 0, dim, False) for arg, dim in zip(args, dims, strict=True)
    ]
    return jnp.broadcast_to(_zero.bind(*first), (size,)), 0


def _zero_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, Any]:
    out = _zero.bind(*primals)
    return out, jnp.zeros_like(out)


for _primitive in (_collect, _zero):
    _primitive.def_impl(lambda first, *_: first)
    _primitive.def_abstract_eval(lambda first, *_: first)
    mlir.register_lowering(_primitive, lambda ctx, first, *_: [first])
batching.primitive_batchers[_collect] = _collect_batch
batching.primitive_batchers[_zero] = _zero_batch
ad.primitive_jvps[_collect] = _collect_jvp
ad.primitive_transposes[_collect] = lambda cotangent, value, total: (cotangent, None)
ad.primitive_jvps[_zero] = _zero_jvp
