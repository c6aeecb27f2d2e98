"""optax: a wrapper that holds zeros, whatever the optimizer inside does."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxreg._core import checks
from jaxreg._core.struct import stable_name
from jaxreg._optax.leaves import needs_params
from jaxreg._rules.paths import is_hidden, is_inexact


@stable_name
class KeepZerosState(NamedTuple):
    """Hold what `keep_zeros` keeps from step to step where it begins later than at step 0.

    Example:
        >>> import jax.numpy as jnp, jaxreg, optax
        >>> jaxreg.keep_zeros(optax.sgd(0.1), start=10).init(jnp.zeros(2)).count
        Array(0, dtype=int32)
    """

    inner: Any  # the state of the wrapped optimizer
    count: jax.Array  # type: ignore[assignment]  # shape (), int32: updates so far


def keep_zeros(optimizer: optax.GradientTransformation, start: Any = 0) -> optax.GradientTransformationExtraArgs:
    """Hold every entry of the parameters that is exactly 0, from a step on, whatever the optimizer does.

        u_i ← 0 where params_i = 0, else what `optimizer` gives;   it sees the gradient g_i = 0 there

    For training on after pruning: the refit of a relaxed lasso, fine-tuning of a pruned network. The pattern is that of
    the parameters themselves, read anew in every step, so that there is no mask to keep, and what the optimizer makes
    0 later (`proximal_adam`) is held from then on. Held entries do not count in the norms of gradient clipping, and a
    gradient that is nan there does no harm. Momentum, decay, noise, and updates that mix entries, as those of Muon,
    cannot move them. What it remembers with the structure and the shapes of the parameters (moments, averages) is 0 at
    held entries before each update; where it keeps less, as Adafactor's sums of rows, they count as gradients of 0.

    Biases begin at 0: a wrapper from step 0 holds those of a new network for ever. Give it parameters that were
    trained, or leave leaves out, `optax.partition({"held": jaxreg.keep_zeros(tx), "free": tx}, labels)`. It must be
    outermost: a later link of a chain could move what it holds. Wrappers that pass updates through whole
    (`optax.MultiSteps`, `optax.apply_if_finite`, `optax.masked`, `optax.partition`) may stand outside.

    Integers, bools, and leaves whose update is `None` or masked stay as they are. With `start=0` it has no state of its
    own: that of `optimizer` is its state, and checkpoints of the one go on with the other. Else one number, the count
    of its updates, is kept beside it, because not every optimizer has one.

    Args:
        optimizer: any optimizer of optax, or a chain.
        start: the first step, from 0, whose zeros are held; a number or a traced value. Before it nothing is done.

    Raises:
        TypeError: `start` is not a number; a schedule of pruning is one of the penalty, not of this.
        ValueError: `start` is negative. `update` was called without `params`.

    Example:
        >>> import jax.numpy as jnp, jaxreg, optax
        >>> params = jnp.array([1.0, 0.0, -2.0])                              # pruned
        >>> tx = jaxreg.keep_zeros(optax.adamw(0.1))
        >>> updates, state = tx.update(jnp.array([1.0, 5.0, -1.0]), tx.init(params), params)
        >>> optax.apply_updates(params, updates).round(4)
        Array([ 0.9,  0. , -1.9], dtype=float32)

        A relaxed lasso: first the support, then least squares on it, without the bias of the penalty.

        >>> lasso = jaxreg.proximal_adam(1e-2, jaxreg.L1(0.1))
        >>> refit = jaxreg.keep_zeros(optax.adam(1e-2))

    References:
        Meinshausen, *Relaxed lasso*, Computational Statistics & Data Analysis, 2007. Zhu and Gupta, *To prune, or not
        to prune*, arXiv:1710.01878.
    """
    start = _checked(start)
    optimizer = optax.with_extra_args_support(optimizer)
    has_count = not (isinstance(start, int) and start == 0)

    def init(params: Any) -> Any:
        state = optimizer.init(params)
        return KeepZerosState(state, jnp.zeros([], jnp.int32)) if has_count else state

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        needs_params("keep_zeros", params)
        inner = state.inner if has_count else state
        treedef: Any = jax.tree.structure(updates, is_leaf=is_hidden)
        leaves = zip(treedef.flatten_up_to(updates), treedef.flatten_up_to(params), strict=True)
        begun = state.count >= start if has_count else True
        held = [(p == 0) & begun if is_inexact(p) and not is_hidden(u) else None for u, p in leaves]
        # Moments are masked before the update, not behind it: there they would be wanted with and without the mask.
        seen, inner = _zeroed(held, treedef, updates), _in_state(held, treedef, inner)
        updates, inner = optimizer.update(seen, inner, params, **extra_args)
        updates = _zeroed(held, treedef, updates)
        return updates, KeepZerosState(inner, optax.safe_increment(state.count)) if has_count else inner

    return optax.GradientTransformationExtraArgs(init, update)


def _checked(start: Any) -> Any:
    if isinstance(start, (int, np.integer)) and not isinstance(start, bool) and start >= 0:
        return int(start)
    if callable(start):
        raise TypeError(
            f"`keep_zeros(start=...)` takes the number of a step, got {checks.short(start)}. A schedule "
            "of pruning is one of the penalty, `jaxreg.proximal(tx, lambda step: jaxreg.TopK(share(step)), 0.1)`."
        )
    return checks.number("keep_zeros(start=...)", start, above=None)


def _zeroed(held: list[Any], treedef: Any, tree: Any) -> Any:
    leaves = zip(held, treedef.flatten_up_to(tree), strict=True)
    return treedef.unflatten([leaf if where is None else jnp.where(where, 0, leaf) for where, leaf in leaves])


def _in_state(held: list[Any], treedef: Any, state: Any) -> Any:
    """Zeros in every part of a state that has the structure of the parameters, but for what masks took away.

    Leaf by leaf, where it has the shape too. A single number has no structure to be known by.
    """
    where = treedef.unflatten(held)
    one_leaf = treedef == jax.tree.structure(0)
    if one_leaf and not np.ndim(where):
        return state

    def beside(node: Any) -> tuple[Any, list[Any]] | None:
        if is_hidden(node) or not (one_leaf or type(node) is type(where)):
            return None
        structure: Any = jax.tree.structure(node, is_leaf=is_hidden)
        try:
            return structure, structure.flatten_up_to(where)
        except ValueError:
            return None

    def zeroed(node: Any) -> Any:
        if (found := beside(node)) is None:
            return node
        structure, masks = found
        leaves = structure.flatten_up_to(node)
        alike = [
            is_inexact(x) and getattr(mask, "shape", None) == np.shape(x) for mask, x in zip(masks, leaves, strict=True)
        ]
        new = [jnp.where(mask, 0, x) if yes else x for mask, x, yes in zip(masks, leaves, alike, strict=True)]
        return structure.unflatten(new)

    return jax.tree.map(zeroed, state, is_leaf=lambda node: is_hidden(node) or beside(node) is not None)
