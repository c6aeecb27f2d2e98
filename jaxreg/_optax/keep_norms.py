"""optax: a wrapper that keeps the norms of weights and makes updates relative to them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxreg._core import euclidean, numerics
from jaxreg._core.struct import stable_name
from jaxreg._optax.learning_rate import learning_rate_at
from jaxreg._optax.leaves import needs_params
from jaxreg._rules.paths import flatten_with_paths, is_hidden, is_inexact
from jaxreg._rules.patterns import Pattern, Rule, check_pattern, is_weight, matches_nothing
from jaxreg._rules.tree import shows_a_part


@stable_name
class KeepNormsState(NamedTuple):
    """Hold what `keep_norms` keeps from step to step.

    Example:
        >>> import jax.numpy as jnp, jaxreg, optax
        >>> jaxreg.keep_norms(optax.sgd(1.0), 0.1).init({"kernel": jnp.ones((2, 8))}).norms
        {'kernel': Array(4., dtype=float32)}
    """

    inner: Any  # the state of the wrapped optimizer
    count: jax.Array  # type: ignore[assignment]  # shape (), int32: updates so far
    norms: Any  # ‖W‖ at the initialization, shape (), of each leaf that is kept; None for the others


def keep_norms(
    optimizer: optax.GradientTransformation, learning_rate: Any = None, pattern: Pattern = is_weight
) -> optax.GradientTransformationExtraArgs:
    """Keep each weight on the sphere of its norm at the initialization, by steps relative to that norm.

        W ← R·(W + η·R·u/‖u‖) / ‖W + η·R·u/‖u‖‖,   R = ‖W‖ at the initialization, u the update of `optimizer`

    Frobenius norms, of whole leaves. η is the angle of a step, in radians where it is small and u is at right angles to
    W, whatever the sizes of weights and gradients: that is what weight decay comes to in the long run, without a decay
    to choose. Of the update only the direction counts, so that the learning rate of `optimizer` has no effect on these
    leaves; all others take its update as it is.

    A leaf whose norm is 0 at the initialization has no sphere, and is left to `optimizer` for good; an update of 0
    leaves its leaf where it is. In float16 and bfloat16 a step of less than half an ulp is lost, as in every optimizer
    of optax; keep float32 parameters. It must be outermost. For norms of columns, and radii of your own, there is
    `jaxreg.proximal(optimizer, jaxreg.UnitNorm(axis, radius), learning_rate)`.

    Args:
        optimizer: any optimizer of optax, or a chain.
        learning_rate: η, a number, a schedule of the step count, or `None` to read it from the state of an
            `optax.inject_hyperparams` inside `optimizer` that holds exactly one `learning_rate`.
        pattern: which leaves, a pattern as in `TreeRegularizer`; by default weights and embeddings, no bias, no scale
            of a norm.

    Raises:
        ValueError: the pattern matches no leaf; no single `learning_rate` is in the state; `update` was called without
            `params`.
        TypeError: an argument is none of these.

    Example:
        >>> import jax.numpy as jnp, jaxreg, optax
        >>> params = {"kernel": jnp.array([[3.0, 0.0], [0.0, 4.0]])}                      # of norm 5
        >>> tx = jaxreg.keep_norms(optax.adam(1.0), learning_rate=0.1)
        >>> gradient = {"kernel": jnp.array([[0.0, 1.0], [-1.0, 0.0]])}
        >>> updates, state = tx.update(gradient, tx.init(params), params)
        >>> new = optax.apply_updates(params, updates)["kernel"]
        >>> jnp.linalg.norm(new).round(4), (new[0, 1] / new[0, 0]).round(4)       # −0.1·5/√2, beside 3
        (Array(5., dtype=float32), Array(-0.1179, dtype=float32))

    References:
        Karras et al., *Analyzing and improving the training dynamics of diffusion models* (weights of constant norm),
        CVPR 2024, arXiv:2312.02696. Kosson, Messmer and Jaggi, *Rotational equilibrium: how weight decay balances
        learning across neural networks*, ICML 2024, arXiv:2305.17212.
    """
    check_pattern(pattern)
    rule = Rule(pattern, None)
    rate_at = learning_rate_at(learning_rate, 0.0, call="keep_norms")
    optimizer = optax.with_extra_args_support(optimizer)

    def init(params: Any) -> KeepNormsState:
        flat = flatten_with_paths(params)
        matched = [rule.matches(path, leaf) for path, leaf in zip(flat.paths, flat.leaves, strict=True)]
        if not any(matched) and flat.leaves and not shows_a_part(flat.leaves):
            raise ValueError(f"`keep_norms`: {matches_nothing(pattern, flat.paths)}")
        found = zip(matched, flat.parameters, flat.leaves, strict=True)
        norms = [
            euclidean.norm(numerics.promote(leaf)) if yes and is_parameter else None
            for yes, is_parameter, leaf in found
        ]
        kept = flat.treedef.unflatten(norms) if flat.leaves else jnp.zeros([])  # `optax.tree.map_params` has no leaves
        return KeepNormsState(optimizer.init(params), jnp.zeros([], jnp.int32), kept)

    def update(updates: Any, state: KeepNormsState, params: Any = None, **extra_args: Any) -> Any:
        needs_params("keep_norms", params)
        updates, inner = optimizer.update(updates, state.inner, params, **extra_args)
        treedef: Any
        leaves, treedef = jax.tree.flatten(updates, is_leaf=is_hidden)
        eta = rate_at(state.count, inner)
        if leaves:
            rows = zip(leaves, treedef.flatten_up_to(params), treedef.flatten_up_to(state.norms), strict=True)
            updates = treedef.unflatten(
                [
                    u if radius is None or is_hidden(u) or not is_inexact(p) else _turned(u, p, radius, eta)
                    for u, p, radius in rows
                ]
            )
        return updates, KeepNormsState(inner, optax.safe_increment(state.count), state.norms)

    return optax.GradientTransformationExtraArgs(init, update)


def _turned(update: Any, param: Any, radius: jax.Array, eta: Any) -> jax.Array:
    w = numerics.promote(param)
    u = jnp.asarray(update, w.dtype)
    moved = w + _unit(u) * (jnp.asarray(eta, radius.dtype) * radius)
    new = jnp.where(radius > 0, radius * _unit(moved) - w, u)
    return new.astype(jnp.promote_types(jnp.asarray(update).dtype, jnp.asarray(param).dtype))


def _unit(x: jax.Array) -> jax.Array:
    norm = euclidean.norm(x)
    return x / jnp.where(norm > 0, norm, 1)
