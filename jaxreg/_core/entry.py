"""Wraps a subclass's plain `__call__` and `prox`: check, promote, jit."""

import functools
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg._core import checks, compiler, keras_slots, numerics
from jaxreg._core.struct import Struct
from jaxreg._core.structure import Reach

TREES = " For a tree of parameters use `jaxreg.TreeRegularizer({'**': reg})(params)`."


# The functions made here go along when cloudpickle takes a class of a user by value: the types in their annotations
# would go along too, so these are strings.


def compiled_penalty(cls: type[Struct], method: Callable[..., Any], promoted: bool) -> Callable[..., jax.Array]:
    """Return a `__call__` that checks its array, promotes it where that is wanted, and runs `method` jitted."""

    def penalty(self: Any, x: Any) -> "jax.Array":
        checks.unstacked(type(self).__name__, self)
        x = jnp.asarray(checks.array(type(self).__name__, x))
        x = numerics.promote(x) if promoted else x
        return compiler.automatic(value, x, replicated=True)(self, x)

    def value(self: Any, x: "jax.Array") -> "jax.Array":
        result = method(self, x)
        if result is None or jnp.shape(result) != ():
            got = None if result is None else f"shape {jnp.shape(result)}"
            raise ValueError(
                f"`{type(self).__name__}.__call__` must return a scalar, got {got}. Sum over the entries, "
                "`jnp.sum(...)`."
            )
        if jnp.iscomplexobj(result):
            dtype = jnp.result_type(result)
            raise TypeError(
                f"`{type(self).__name__}.__call__` must return a real number, got dtype {dtype}. Take "
                "moduli, `jnp.abs(x)`."
            )
        return jnp.asarray(result)

    penalty.__name__ = penalty.__qualname__ = cls.__name__
    compiled = _JitWhenCalled(penalty)

    @functools.wraps(method)
    def __call__(self: Any, x: "ArrayLike") -> "jax.Array":
        caller = sys._getframe(1)
        if caller.f_globals.get("__name__") == keras_slots.LAYERS:
            keras_slots.check_penalty(self, caller)
        if not isinstance(x, jax.Array):  # those are checked once a trace: an eager call on a small one would notice
            x = from_outside(self, x)
        return compiled.jitted(self, x)

    return __call__


def from_outside(reg: Any, x: Any) -> Any:
    """Return the argument of a call that is no array of JAX yet, checked."""
    keras_slots.check(reg, x)
    return checks.array(type(reg).__name__, x, TREES)


def compiled_prox(cls: type[Struct], method: Callable[..., Any]) -> Callable[..., jax.Array]:
    """Return a `prox` that checks array and step, promotes them, runs `method` jitted, and casts back."""

    def prox(self: Any, z: Any, step: Any) -> "jax.Array":
        checks.unstacked(f"{type(self).__name__}.prox", self)
        z = jnp.asarray(z)
        return compiler.automatic(minimizer, z, replicated=False)(self, z, step)

    def minimizer(self: Any, z: "jax.Array", step: Any) -> "jax.Array":
        promoted = numerics.promote(z)
        w = method(self, promoted, jnp.asarray(step, numerics.real_dtype(promoted)))
        if jnp.shape(w) != z.shape:
            raise ValueError(
                f"`{type(self).__name__}.prox` must return the shape {z.shape} of `z`, got {jnp.shape(w)}."
            )
        if not jnp.issubdtype(z.dtype, jnp.inexact) or z.dtype == promoted.dtype:
            return jnp.asarray(w, promoted.dtype)
        return rounded_into(self, w, z.dtype, lambda x: method(self, x, jnp.zeros((), promoted.dtype)))

    prox.__name__ = prox.__qualname__ = f"{cls.__name__}_prox"
    compiled = _JitWhenCalled(prox)

    @functools.wraps(method)
    def wrapper(self: Any, z: "ArrayLike", step: "ArrayLike" = 1.0) -> "jax.Array":
        call = f"{type(self).__name__}.prox"
        z = checks.array(call, z, TREES)
        return compiled.jitted(self, z, checks.step(call, step, jnp.shape(z)))

    return wrapper


def rounded_into(reg: Any, w: jax.Array, dtype: Any, project: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Round w to a narrower dtype, an entry towards the other side where the nearer one is outside a set of entries.

    `project` is the prox for step 0: the projection on the points where R is finite.
    """
    narrow = jnp.asarray(w, dtype)
    if reg.reach is not Reach.ENTRY or reg.scalar() is not None:  # finite everywhere, or right up to its tolerance
        return narrow
    wide = numerics.promote(narrow)
    return nudged(narrow, project(wide) - wide)


def nudged(x: jax.Array, direction: jax.Array) -> jax.Array:
    """Return the next floating number in the direction of the sign of each entry, x itself where that is 0."""
    up, down = (jnp.nextafter(x, jnp.full_like(x, limit)) for limit in (jnp.inf, -jnp.inf))
    return jnp.where(direction > 0, up, jnp.where(direction < 0, down, x))


class _JitWhenCalled:
    """`jax.jit` inspects the signature: work that `import jaxreg` need not wait for.

    Where a class of a user is pickled by value (cloudpickle does so in notebooks), its programs stay behind.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    @functools.cached_property
    def jitted(self) -> Callable[..., Any]:
        return jax.jit(self._function)

    def __reduce__(self) -> Any:
        return type(self), (self._function,)
