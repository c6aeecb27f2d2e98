"""A problem of `minimize` as functions of vectors and of all numbers that it depends on."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg._core import checks
from jaxreg._core.regularizer import Regularizer
from jaxreg._rules.paths import flatten_with_paths
from jaxreg._rules.tree import as_tree
from jaxreg._solver import vectors
from jaxreg._solver.vectors import Vector


class Numbers(NamedTuple):
    """θ: what the minimum depends on, whether it is differentiated or not."""

    reg: Any
    args: tuple[Any, ...]
    read: tuple[Any, ...]  # traced values that the loss reads from outside
    still: list[Any]  # arrays of the tree that are no parameters


class Problem(NamedTuple):
    """f(w, θ) + R(w, θ) with the proximal operator of R."""

    loss: Callable[[Vector, Numbers], jax.Array]
    penalty: Callable[[Vector, Numbers], jax.Array]
    prox: Callable[[Vector, jax.Array, Numbers], Vector]
    tree: Callable[[Vector, Numbers], Any]

    def gradient(self, w: Vector, theta: Numbers) -> Vector:
        """∇f."""
        return jax.grad(self.loss)(w, theta)

    def value(self, w: Vector, theta: Numbers) -> jax.Array:
        """f + R."""
        return self.loss(w, theta) + self.penalty(w, theta)


def problem(loss: Callable[..., Any], reg: Any, params: Any, args: tuple[Any, ...]) -> tuple[Problem, Vector, Numbers]:
    """The problem, the point to start at, and θ."""
    reg = _with_prox(reg)
    flat = flatten_with_paths(params)
    moving = [leaf for leaf, is_parameter in zip(flat.leaves, flat.parameters, strict=True) if is_parameter]
    _check_parameters(flat, moving)
    _check_args(args)
    are_arrays = [isinstance(leaf, (jax.Array, np.ndarray)) for leaf in flat.leaves]
    start = vectors.vector(moving)
    kind = vectors.dtype(start)
    still = [
        leaf
        for leaf, is_array, is_parameter in zip(flat.leaves, are_arrays, flat.parameters, strict=True)
        if is_array and not is_parameter
    ]

    def filled(w: Vector, still: list[Any]) -> Any:
        of_parameters, of_others = iter(vectors.arrays(w)), iter(still)
        return flat.treedef.unflatten(
            next(of_parameters) if is_parameter else next(of_others) if is_array else leaf
            for leaf, is_array, is_parameter in zip(flat.leaves, are_arrays, flat.parameters, strict=True)
        )

    def of_vector(w: Vector, still: list[Any], args: tuple[Any, ...]) -> jax.Array:
        return _real_scalar(loss(filled(w, still), *args), kind)

    pure, read = jax.closure_convert(of_vector, start, still, args)

    def prox(z: Vector, step: jax.Array, theta: Numbers) -> Vector:
        new = flat.treedef.flatten_up_to(theta.reg.prox(filled(z, theta.still), step))
        return vectors.vector([leaf for leaf, moves in zip(new, flat.parameters, strict=True) if moves])

    result = Problem(
        lambda w, theta: pure(w, theta.still, theta.args, *theta.read),
        lambda w, theta: jnp.asarray(theta.reg(filled(w, theta.still)), kind),
        prox,
        lambda w, theta: filled(w, theta.still),
    )
    theta = Numbers(jax.tree.map(jnp.asarray, reg), args, tuple(read), still)
    _check_prox(reg, result, start, theta)
    return result, start, theta


def _with_prox(reg: Any) -> Any:
    tree = as_tree(reg) if isinstance(reg, Regularizer) else reg
    if isinstance(tree, type) or not callable(tree) or not callable(getattr(tree, "prox", None)):
        raise TypeError(
            f"`minimize(reg=...)` takes a regularizer or a `TreeRegularizer`, got {checks.short(reg)}."
            f"{checks.instead(reg) or ' Without a penalty write `jaxreg.L2(0.0)`.'}"
        )
    return tree


def _check_parameters(flat: Any, moving: list[Any]) -> None:
    if not moving:
        raise ValueError(
            "`minimize(params=...)`: no leaf is a parameter, which is an array of floats: got "
            f"{checks.short(flat.treedef.unflatten(flat.leaves))}. Write floats, `jnp.zeros(3)`, and not integers."
        )
    for path, leaf, is_parameter in zip(flat.paths, flat.leaves, flat.parameters, strict=True):
        if is_parameter and isinstance(leaf, jax.ShapeDtypeStruct):
            raise TypeError(
                f"`minimize(params=...)` is the point to start at, got a shape without numbers, {checks.short(leaf)}, "
                f"at {checks.short(path)}. Write `jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), params)`."
            )
        if is_parameter and jnp.finfo(jnp.result_type(leaf)).bits < 32:
            raise TypeError(
                f"`minimize(params=...)` takes float32 and float64, got {checks.short(path)} of dtype "
                f"{jnp.result_type(leaf)}, in which no minimum is found to a tolerance. Write `jax.tree.map(lambda p: "
                "p.astype(jnp.float32), params)`, and round the result."
            )


def _check_args(args: tuple[Any, ...]) -> None:
    for leaf in jax.tree.leaves(args):
        if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, int, float, complex)):
            raise TypeError(
                "`minimize(loss, reg, params, *args)`: `args` are arrays and numbers, and trees of them, got "
                f"{checks.short(leaf)}. The loss reads what is no array from outside: `lambda params, x: loss(params, "
                "x, model)`."
            )


def _check_prox(reg: Any, result: Problem, start: Vector, theta: Numbers) -> None:
    try:
        jax.eval_shape(result.prox, start, jnp.ones((), vectors.dtype(start)), theta)
    except NotImplementedError as error:
        raise NotImplementedError(
            f"`minimize` needs the exact proximal operator: {error} Of a smooth penalty: `jaxreg.minimize(lambda "
            "params, *args: loss(params, *args) + reg(params), jaxreg.L2(0.0), params, *args)`."
        ) from None


def _real_scalar(value: Any, dtype: Any) -> jax.Array:
    if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        got = f"shape {jnp.shape(value)} and dtype {jnp.result_type(value)}"
        raise TypeError(
            f"`minimize(loss=...)` must return a real number, got {got}. Take the mean over the examples, "
            "`jnp.mean(...)`; what else the loss returns is computed from the minimum afterwards."
        )
    return jnp.asarray(value, dtype)
