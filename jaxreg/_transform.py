"""optax: the gradient of a penalty as a link of a chain, its proximal operator as a wrapper around an optimizer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxreg import _checks, _numerics, _paths
from jaxreg._regularizer import Regularizer
from jaxreg._tree import TreeRegularizer, as_tree

Reg = Regularizer | TreeRegularizer
RegOrSchedule = Reg | Callable[[jax.Array], Reg]


class AddRegularizationState(NamedTuple):
    """State of `add_regularization`."""

    count: jax.Array  # type: ignore[assignment]  # shape (), int32: updates so far
    penalty: jax.Array | None  # shape (): the penalty at the parameters of the last update; None unless track=True


def add_regularization(reg: RegOrSchedule, *, track: bool = False) -> optax.GradientTransformationExtraArgs:
    """Add the gradient of a penalty to the updates.

        u ← u + ∇R(params)                              (the minimum-norm subgradient; for L2(l2): u + 2·l2·params)

    Its place in a chain decides what it means. Before an adaptive optimizer it is the coupled penalty, the same as a
    penalty in the loss. Between `optax.scale_by_adam` and the learning rate it is decoupled: there `L2(wd/2)`, which is
    `L2.from_weight_decay(wd)`, is `optax.adamw(weight_decay=wd)`. The updates keep their dtype, and leaves whose update
    is `None` or masked stay as they are. No temporary of the size of a leaf is made in a compiled, donated step (with
    `track=True` the compiler may keep one).

    Args:
        reg: a regularizer (for all floating leaves), a `TreeRegularizer`, or a function of the step count, from 0, that
            returns one of them (a schedule; it is traced, so it does not compile again). A penalty written as a plain
            function goes in through a `TreeRegularizer`.
        track: keep the value of the penalty in the state, for logging: `optax.tree.get(state, "penalty")`.

    Raises:
        ValueError: `update` was called without `params`, or a pattern matches no leaf.
        TypeError: `reg` is none of these. Under `optax.inject_hyperparams` every callable argument is taken for a
            schedule, a regularizer too: inject numbers and build the regularizer in the factory.

    Example:
        >>> import jax.numpy as jnp, jaxreg, optax
        >>> params = {"kernel": jnp.array([1.0, -2.0])}
        >>> tx = optax.chain(jaxreg.add_regularization(jaxreg.L2(0.5)), optax.sgd(0.1))
        >>> updates, _ = tx.update({"kernel": jnp.zeros(2)}, tx.init(params), params)
        >>> updates["kernel"]
        Array([-0.1,  0.2], dtype=float32)
        >>> schedule = lambda step: jaxreg.L1(optax.linear_schedule(0.0, 0.1, 1000)(step))
        >>> tx = optax.chain(jaxreg.add_regularization(schedule, track=True), optax.adam(1e-3))
    """
    reg_at = _schedule("add_regularization", reg)

    def init(params: Any) -> AddRegularizationState:
        del params
        return AddRegularizationState(jnp.zeros([], jnp.int32), jnp.zeros([], float) if track else None)

    def update(updates: Any, state: AddRegularizationState, params: Any = None, **extra_args: Any) -> Any:
        del extra_args
        leaves = _leaves("add_regularization", updates, params, reg_at(state.count))
        new, penalty = [], jnp.zeros([], float)
        for update_leaf, leaf, regularizer in leaves.rows:
            if regularizer is None:
                new.append(update_leaf)
                continue
            promoted = _numerics.promote(leaf)
            new.append(update_leaf + jax.grad(regularizer)(promoted).astype(jnp.asarray(update_leaf).dtype))
            if track:
                penalty += regularizer(promoted).astype(penalty.dtype)
        state = AddRegularizationState(optax.safe_increment(state.count), penalty if track else None)
        return leaves.treedef.unflatten(new), state

    return optax.GradientTransformationExtraArgs(init, update)


class ProximalState(NamedTuple):
    """State of `proximal`."""

    inner: Any  # the state of the wrapped optimizer
    count: jax.Array  # type: ignore[assignment]  # shape (), int32: updates so far


def proximal(
    inner: optax.GradientTransformation,
    reg: RegOrSchedule,
    learning_rate: Any = None,
    metric: None = None,
) -> optax.GradientTransformationExtraArgs:
    """Wrap an optimizer so that every step ends with the proximal operator of a penalty: zeros are exact.

        u ← prox_{η·R}(params + u) − params,   u the update of `inner`, η its learning rate

    `params + u` is then prox(params + u) up to rounding, and exactly 0 wherever the proximal operator gives 0. For
    plain gradient descent this is the proximal gradient method (ISTA). The penalty must not also be in the loss. It
    must be outermost: no later link may change the update; wrappers that pass updates through whole
    (`optax.MultiSteps`, `optax.apply_if_finite`, `optax.masked`, `optax.partition`, `optax.inject_hyperparams`) may
    stand outside. `optax.lookahead` takes it inside, as its fast optimizer; `optax.flatten` hides the paths, so rules
    cannot match there; `optax.contrib.schedule_free` moves the zeros away.

    With one step size for all coordinates the limit is the minimum of loss + R for gradient descent without momentum.
    Momentum scales the effective step (η/(1 − momentum)), and an adaptive optimizer has a step of its own for every
    coordinate, so with those the zeros are exact but the strength means something else than in the loss.

    Args:
        inner: the optimizer.
        reg: a regularizer, a `TreeRegularizer`, or a function of the step count that returns one of them.
        learning_rate: η, a number, a schedule of the step count, or `None` to read it from the state of an
            `optax.inject_hyperparams` inside `inner` that holds exactly one `learning_rate`.
        metric: `None`, one step size for all coordinates; there is no other yet.

    Raises:
        ValueError: no `params` in `update`, no single `learning_rate` in the state, a pattern that matches no leaf.
        TypeError: `reg` or `learning_rate` is none of these.
        NotImplementedError: a penalty has no proximal operator.

    Example:
        >>> import jax.numpy as jnp, jaxreg, optax
        >>> params = jnp.array([1.0, 0.05])
        >>> tx = jaxreg.proximal(optax.sgd(0.1), jaxreg.L1(1.0), learning_rate=0.1)
        >>> updates, _ = tx.update(jnp.zeros(2), tx.init(params), params)
        >>> optax.apply_updates(params, updates)
        Array([0.9, 0. ], dtype=float32)

    References:
        Parikh and Boyd, *Proximal algorithms*, Foundations and Trends in Optimization, 2014.
    """
    reg_at = _schedule("proximal", reg)
    step_at = _step_size(learning_rate)
    inner = optax.with_extra_args_support(inner)
    if metric is not None:
        raise TypeError(f"`proximal(metric=...)` takes None, got {_checks.short(metric)}.")

    def init(params: Any) -> ProximalState:
        return ProximalState(inner.init(params), jnp.zeros([], jnp.int32))

    def update(updates: Any, state: ProximalState, params: Any = None, **extra_args: Any) -> Any:
        updates, inner_state = inner.update(updates, state.inner, params, **extra_args)
        leaves = _leaves("proximal", updates, params, reg_at(state.count))
        step = step_at(state.count, inner_state)
        new = [row.update if row.regularizer is None else _proximal_update(row, step) for row in leaves.rows]
        return leaves.treedef.unflatten(new), ProximalState(inner_state, optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(init, update)


class _Row(NamedTuple):
    update: Any
    param: Any
    regularizer: Regularizer | None


class _Leaves(NamedTuple):
    rows: list[_Row]
    treedef: Any


def _proximal_update(row: _Row, step: Any) -> jax.Array:
    update, param, regularizer = row
    assert regularizer is not None
    # p + (q − p) is exactly 0 where q is 0; the subtraction is done in the dtype of accumulation
    p = _numerics.promote(param)
    q = regularizer.prox(p + jnp.asarray(update, p.dtype), jnp.asarray(step, _numerics.real_dtype(p)))
    return jnp.asarray(q - p, jnp.promote_types(jnp.asarray(update).dtype, jnp.asarray(param).dtype))


def _leaves(call: str, updates: Any, params: Any, reg: TreeRegularizer) -> _Leaves:
    """Updates, parameters and regularizers side by side; masked and missing leaves have no regularizer."""
    if params is None:
        raise ValueError(f"`{call}` needs the parameters: call `tx.update(grads, state, params)`.")
    paths, update_leaves, treedef = _paths.flatten(updates)
    param_leaves = [
        None if _paths.is_hidden(update) else param
        for update, param in zip(update_leaves, treedef.flatten_up_to(params), strict=True)
    ]
    shown = [update if _paths.is_hidden(update) else p for update, p in zip(update_leaves, param_leaves, strict=True)]
    assigned = reg.assign(paths, shown)
    return _Leaves(list(map(_Row, update_leaves, param_leaves, assigned)), treedef)


def _schedule(call: str, reg: Any) -> Callable[[jax.Array], TreeRegularizer]:
    if isinstance(reg, (Regularizer, TreeRegularizer)):
        tree = as_tree(reg)
        return lambda count: tree
    if not callable(reg) or isinstance(reg, type):
        raise TypeError(
            f"`{call}` takes a regularizer, a `TreeRegularizer` or a function of the step that returns one, got "
            f"{_checks.short(reg)}. Under `optax.inject_hyperparams` inject numbers and build the regularizer inside: "
            f"`optax.inject_hyperparams(lambda strength: jaxreg.{call}(jaxreg.L1(strength), ...))(strength=0.1)`."
        )

    def at(count: jax.Array) -> TreeRegularizer:
        value = reg(count)
        if not isinstance(value, (Regularizer, TreeRegularizer)):
            raise TypeError(
                f"`{call}`: a function is a schedule of the step and must return a regularizer, got "
                f"{_checks.short(value)}. A penalty function goes in as `TreeRegularizer({{'**': function}})`."
            )
        return as_tree(value)

    return at


def _step_size(learning_rate: Any) -> Callable[[jax.Array, Any], Any]:
    if learning_rate is None:
        return lambda count, inner_state: _injected_learning_rate(inner_state)
    if callable(learning_rate):
        return lambda count, inner_state: learning_rate(count)
    step = _checks.step("proximal(learning_rate=...)", learning_rate, ())
    return lambda count, inner_state: step


def _injected_learning_rate(state: Any) -> Any:
    found = optax.tree.get_all_with_path(
        state, "learning_rate", filtering=lambda _, value: not isinstance(value, tuple)
    )
    if len(found) != 1:
        raise ValueError(
            "`proximal(learning_rate=None)` reads the learning rate from `optax.inject_hyperparams`, but the state "
            f"holds {len(found)} of that name. Give `learning_rate` as a number or a schedule."
        )
    return found[0][1]
