"""optax: the gradient of a penalty as a link of a chain, its proximal operator as a wrapper around an optimizer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxreg._core import numerics
from jaxreg._core.compiler import only_after
from jaxreg._core.struct import stable_name
from jaxreg._optax.leaves import RegOrSchedule, regularizer_at, side_by_side


@stable_name
class AddRegularizationState(NamedTuple):
    """Hold what `add_regularization` keeps from step to step.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> jaxreg.add_regularization(jaxreg.L1(1.0), track=True).init(jnp.zeros(2))
        AddRegularizationState(count=Array(0, dtype=int32), penalty=Array(0., dtype=float32))
    """

    count: jax.Array  # type: ignore[assignment]  # shape (), int32: updates so far
    penalty: jax.Array | None  # shape (): the penalty at the parameters of the last update; None unless track=True


def add_regularization(
    reg: RegOrSchedule, *, track: bool = False, cautious: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Add the gradient of a penalty to the updates. It belongs before the learning rate.

        u ← u + ∇R(params)                              (the minimum-norm subgradient; for L2(l2): u + 2·l2·params)

    Behind a whole optimizer, `chain(adam(lr), add_regularization(...))`, it is wrong: there the updates already have
    the opposite sign of the gradient, and the penalty makes the weights grow. A link does not see its neighbours, so
    only `proximal` around such a chain can raise. The right places:

    - before an optimizer: the coupled penalty, the same as a penalty in the loss;
    - between `optax.scale_by_adam` and the learning rate: decoupled. There `L2(wd/2)`, which is
      `L2.from_weight_decay(wd)`, is `optax.adamw(weight_decay=wd)`;
    - behind the learning rate, between two `optax.scale(-1.0)`, which change the sign for it and change it back:
      decoupled from the learning rate too (the last example).

    The updates keep their dtype, and leaves whose update is `None` or masked stay as they are. No temporary of the
    size of a leaf is made in a compiled, donated step (with `cautious=True` the compiler may keep one); with
    `track=True` the parameters are read once more.

    Args:
        reg: a regularizer (for all floating leaves), a `TreeRegularizer`, or a function of the step count, from 0, that
            returns one of them (a schedule; it is traced, so it does not compile again). A penalty written as a plain
            function goes in through a `TreeRegularizer`.
        cautious: add the gradient only to entries where it has the sign of the update, u·∇R ≥ 0: decay only what the
            optimizer moves towards the penalty's minimum too (with decoupled L2: cautious weight decay). For a place
            before the learning rate, where updates still have the sign of gradients.
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

        Schedules of the strength are functions of the step, and those of optax do: a warm-up; the cubic ramp of gradual
        pruning; a strength that follows the learning rate.

        >>> warm_up = optax.linear_schedule(0.0, 1.0, 1000)
        >>> cubic = optax.polynomial_schedule(0.0, 1.0, power=3, transition_steps=9000, transition_begin=1000)
        >>> rate = optax.cosine_decay_schedule(1e-3, 10_000)
        >>> tx = optax.chain(
        ...     jaxreg.add_regularization(lambda step: warm_up(step) * jaxreg.L1(0.1), track=True), optax.adam(rate)
        ... )
        >>> tx = jaxreg.proximal_adam(rate, lambda step: cubic(step) * jaxreg.L1(1e-4))
        >>> tx = jaxreg.proximal_adam(rate, lambda step: rate(step) / rate(0) * jaxreg.L1(1e-4))

        A decay that does not depend on the learning rate, here 1 % of each weight a step:

        >>> decay = jaxreg.add_regularization(jaxreg.L2.from_weight_decay(0.01))
        >>> tx = optax.chain(optax.adam(rate), optax.scale(-1.0), decay, optax.scale(-1.0))

    References:
        Loshchilov and Hutter, *Decoupled weight decay regularization*, ICLR 2019. *Cautious weight decay*,
        arXiv:2510.12402. Zhu and Gupta, *To prune, or not to prune* (the cubic ramp), arXiv:1710.01878.
    """
    reg_at = regularizer_at("add_regularization", reg)

    def init(params: Any) -> AddRegularizationState:
        del params
        return AddRegularizationState(jnp.zeros([], jnp.int32), jnp.zeros([], float) if track else None)

    def update(updates: Any, state: AddRegularizationState, params: Any = None, **extra_args: Any) -> Any:
        del extra_args
        rows, treedef, joints = side_by_side("add_regularization", updates, params, reg_at(state.count))
        new, penalty = [], jnp.zeros([], float)
        for update_leaf, leaf, regularizer in rows:
            if regularizer is None:
                new.append(update_leaf)
                continue
            promoted = numerics.promote(leaf)
            if track:
                value = regularizer.rounded_value(promoted, leaf)
                penalty += value.astype(penalty.dtype)
                promoted = only_after(value, promoted)
            slope = jnp.conj(jax.grad(regularizer)(promoted))  # `jax.grad` gives the conjugate of the gradient
            new.append(_added(update_leaf, update_leaf, slope, cautious))
        for joint in joints:
            leaves = [row.param for row in rows]
            if track:
                penalty += joint.value(leaves).astype(penalty.dtype)
            slopes: list[Any] = [None if leaf is None else jnp.zeros_like(numerics.promote(leaf)) for leaf in leaves]
            joint.put(joint.gradient(leaves), slopes)
            for i in joint.all_positions:
                new[i] = _added(new[i], rows[i].update, slopes[i], cautious)
        state = AddRegularizationState(optax.safe_increment(state.count), penalty if track else None)
        return treedef.unflatten(new), state

    return optax.GradientTransformationExtraArgs(init, update)


def _added(new: Any, update: Any, slope: jax.Array, cautious: bool) -> Any:
    """What is to be the update, and the slope where it has the sign of the optimizer's own."""
    if cautious:
        slope = jnp.where(numerics.real_product(jnp.asarray(update), slope) >= 0, slope, 0)
    return new + slope.astype(jnp.asarray(update).dtype)
