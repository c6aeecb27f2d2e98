"""Check that the metric gives the step that the optimizer takes: `proximal` tries it out at `init`, on a small tree.

At rest the gradient of the loss is constant, and the penalty holds it. So a point at rest is a stationary point of
loss + R if, and only if, the update that a constant gradient g leads to is −τ·g, with the τ of the proximal operator.
The trial makes a few updates by a constant gradient, on a tree of the structure of the parameters with axes of length 2
at most, and once more with a larger gradient and larger parameters. It subtracts what the same parameters do without a
gradient, which removes decay and noise. It needs no list of optimizers. It cannot judge what shows only with a loss or
after many steps: such optimizers are recognized by their states (`states.py`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxreg._core import checks, numerics
from jaxreg._optax.learning_rate import plateaus, plateaus_at
from jaxreg._optax.leaves import Rows
from jaxreg._optax.metrics import Metric, Moments, Uniform, is_adaptive
from jaxreg._optax.states import OWN_WORD
from jaxreg._rules.paths import flatten_with_paths, is_hidden, is_inexact

_STEPS = 4
_SMALL = 0.01  # norm of the gradient over all leaves: nothing is clipped, and eps = 1e-8 does not count
_LARGE = 1000.0  # where no eps counts, whatever it is
_VALUE = 1e-8  # of the loss, for links that ask for it: near its minimum, where Polyak's step is not at its bound
_SLACK = 0.05  # moments may be kept in bfloat16
_RAMP = 1.5  # momentum behind moments that still grow has not come nearer to its limit in so few steps
_GROWTH = 1e-5  # of the parameters, in one step without a gradient: more than rounding
_MORE, _FURTHER = 3.0, 5.0  # the second gradient and the second parameters, in units of the first
_GRADIENTS = (1.0, -0.5, 2.0, -3.0, 0.3, 1.5, -0.7)  # by coordinate, in turn
_PARAMS = (1.0, -2.0, 0.5, -1.0, 1.5)


class Run(NamedTuple):
    """What one penalized leaf did under (a gradient, none, a larger one, none), in this order on axis 0."""

    path: str
    param: np.ndarray
    update: np.ndarray
    told: np.ndarray  # −τ·gradient
    at_rest: bool  # says the metric


class Unknown:
    """Which numbers stand for tracers from outside: 0.1, and `sign` times that for what the optimizer alone has."""

    def __init__(self) -> None:
        self.sign = 1.0
        self.of_optimizer: list[Any] = []
        self.of_metric: list[Any] = []

    def in_optimizer(self, tracer: Any) -> float:
        self.of_optimizer.append(tracer)
        return 0.1 if any(tracer is known for known in self.of_metric) else 0.1 * self.sign

    def in_metric(self, tracer: Any) -> float:
        self.of_metric.append(tracer)
        return 0.1


def refuse_by_trial(
    inner: optax.GradientTransformationExtraArgs,
    metric: Metric,
    step_at: Callable[[jax.Array, Any], Any],
    momentum: Any,
    state: Any,
    params: Any,
    rows: Rows,
) -> None:
    """Raise if constant gradients do not lead to the updates that the metric tells.

    Args:
        inner: the optimizer.
        metric: what tells the steps.
        step_at: (count, state) → learning rate/(1 − momentum).
        momentum: the one in `step_at`.
        state: of `inner` for `params`; only its types are read.
        params: the parameters; only structure, shapes and dtypes are read: they may be abstract, sharded, or on the way
            through `jax.jit`.
        rows: the regularizers beside the parameters; leaves without one are not looked at.
    """
    decoupled = isinstance(metric, Uniform) and is_adaptive(state)
    unknown = Unknown()
    runs = _try(inner, metric, step_at, momentum, params, rows, decoupled, unknown)
    taken, told = _both_effects(runs)
    with np.errstate(all="ignore"):
        reversed_ = bool(unknown.of_optimizer) and taken @ told < 0
    if reversed_:  # −η, which optax makes of η before the trial sees it
        unknown.sign = -1.0
        runs = _try(inner, metric, step_at, momentum, params, rows, decoupled, unknown)
        taken, told = _both_effects(runs)
    for run in runs:
        _refuse_growth(run)
        _refuse_motion_at_rest(metric, run)
    runs = [run for run in runs if not run.at_rest]
    paths = [run.path for run in runs for _ in range(run.update[0].size)] * 2
    if not told.any():
        return
    with np.errstate(all="ignore"):
        common = (taken @ told) / (told @ told)
        ratio = np.where(taken == told, 1.0, taken / told)
        ratio = np.where((taken == 0) & (told == 0), common, ratio)  # the imaginary part of a real gradient
        near, alike = (1 / _RAMP < ratio) & (ratio < _RAMP), np.abs(ratio - common) <= _SLACK * abs(common)
    # A factor common to all is judged only where the metric or a plateau tells it: else it may mean another strength.
    right = near if isinstance(metric, Moments) else alike & (near | (not plateaus(state)))
    if not right.all():
        order = np.argsort(ratio)
        seen = [f"a coordinate of {paths[i]!r} by {taken[i]:.2g} where it tells {told[i]:.2g}" for i in order[[0, -1]]]
        behind = "Put `reduce_on_plateau` behind the optimizer. " if plateaus(state) else ""
        raise ValueError(
            f"`proximal`: `metric={metric.name}` does not tell the step that the optimizer takes. In a trial, constant "
            f"gradients moved {seen[0]}, and {seen[1]}. {behind}Give the metric of the optimizer, if there is "
            "one (`jaxreg.adam_metric(...)` and its like), with the optimizer's own arguments and learning rate, and "
            "freeze leaves outside. Else put the penalty into the loss, "
            "`optax.chain(jaxreg.add_regularization(reg), optimizer)`, which gives no exact zeros; or have it "
            f"decoupled from the loss by step sizes of your own, {OWN_WORD}."
        )


def _refuse_growth(run: Run) -> None:
    """Raise for a decay behind the learning rate: updates have the opposite sign there, and the parameters grow."""
    growth = ((run.update[3] - run.update[1]) * run.param).sum()
    if growth > _GROWTH * (run.param**2).sum():
        raise ValueError(
            f"`proximal`: without a gradient the optimizer makes {checks.short(run.path)} grow. A decay "
            "(`jaxreg.add_regularization`, `optax.add_decayed_weights`) stands behind the learning rate, where updates "
            "are subtracted already. Put it before, as in `optax.chain(optax.scale_by_adam(), "
            "jaxreg.add_regularization(reg), optax.scale_by_learning_rate(learning_rate))`."
        )


def _refuse_motion_at_rest(metric: Metric, run: Run) -> None:
    if run.at_rest and run.update.any():
        raise ValueError(
            f"`proximal`: `metric={metric.name}` has no step for {checks.short(run.path)}, whose moments are masked, "
            "but the optimizer moves it. Wrap each part by itself, as in "
            "`optax.partition({'a': jaxreg.proximal(...), 'b': ...}, labels)`; or exclude the leaf by a rule `None`; "
            "or give a function `(state, params) -> step sizes`."
        )


def _both_effects(runs: list[Run]) -> tuple[np.ndarray, np.ndarray]:
    """What the gradients changed, and what the metric told, over all leaves that are not at rest."""
    moved = [run for run in runs if not run.at_rest]
    return _effects([run.update for run in moved]), _effects([run.told for run in moved])


def _effects(arrays: list[np.ndarray]) -> np.ndarray:
    """The change by the small gradient, over all leaves, and that by the large one."""
    with np.errstate(all="ignore"):
        effects = [(x[i] - np.nan_to_num(x[i + 1])).ravel() for i in (0, 2) for x in arrays]
    return np.concatenate([np.zeros(0), *effects])


def _try(
    inner: optax.GradientTransformationExtraArgs,
    metric: Metric,
    step_at: Callable[[jax.Array, Any], Any],
    momentum: Any,
    params: Any,
    rows: Rows,
    decoupled: bool,
    unknown: Unknown,
) -> list[Run]:
    """Let the optimizer run. A decoupled penalty goes with a direction that is about the sign of the gradient."""
    paths, leaves, _, treedef = flatten_with_paths(params)
    penalized = [i for i, row in enumerate(rows.leaves) if row.regularizer is not None]
    gradients, places = _small(leaves, _GRADIENTS), _small(leaves, _PARAMS)
    norm = np.sqrt(sum(np.sum(np.abs(gradients[i]) ** 2) for i in penalized))
    scale = (_LARGE if decoupled else _SMALL) / norm if norm else 0.0
    at_rest = set()

    def four(leaves: list[Any], factors: tuple[float, ...]) -> Any:
        return treedef.unflatten(
            [x if is_hidden(x) else np.stack([x * x.dtype.type(factor) for factor in factors]) for x in leaves]
        )

    def step(gradients: Any, state: Any, params: Any) -> Any:
        return inner.update(gradients, state, params, value=jnp.asarray(_VALUE))

    def tell(gradients: Any, updates: Any, state: Any, params: Any) -> Any:
        eta = step_at(jnp.asarray(_STEPS - 1), state) * (1 - momentum**_STEPS)
        metric_leaves = metric.leaves(state, params, treedef)
        updates, gradients = treedef.flatten_up_to(updates), treedef.flatten_up_to(gradients)
        found = []
        for i in penalized:
            told = jnp.zeros_like(gradients[i])
            if is_hidden(metric_leaves[i]):
                at_rest.add(i)
            else:
                direction = jnp.sign(gradients[i]) if decoupled else gradients[i]
                told -= metric.step(jnp.asarray(eta, numerics.real_dtype(told)), metric_leaves[i], None) * direction
            found.append((jnp.zeros_like(told) if is_hidden(updates[i]) else updates[i], told))
        return found

    scale = (_LARGE if decoupled else _SMALL) / norm if norm else 0.0
    gradient = four(gradients, (scale, 0, _MORE * scale, 0))
    place = four(places, (1, 1, _FURTHER, _FURTHER))
    with jax.ensure_compile_time_eval():
        try:
            state = _traced(inner.init, unknown.in_optimizer, place)(place)
            again = _traced(step, unknown.in_optimizer, gradient, state, place)
            for i in range(_STEPS):  # a plateau in the end: it must not lie before a momentum, which remembers
                state = plateaus_at(0.5, state) if i == _STEPS - 1 else state
                updates, state = again(gradient, state, place)
        except Exception as error:
            raise ValueError(
                "`proximal` tries the optimizer out at `init`, on parameters with axes of length 2 at most, and it "
                f"raised {type(error).__name__}: {checks.short(str(error))}. Where that is no fault, say the step "
                f"sizes yourself, by a function `(state, params) -> step sizes`: {OWN_WORD}, or "
                "`metric=lambda state, params: jaxreg.adam_metric()(state, params)`."
            ) from error
        found = _traced(tell, unknown.in_metric, gradient, updates, state, place)(gradient, updates, state, place)
    return [
        Run(paths[i], _real(places[i]), _real(update), _real(told), i in at_rest)
        for i, (update, told) in zip(penalized, found, strict=True)
    ]


def _traced(function: Callable[..., Any], number: Callable[[Any], float], *args: Any) -> Callable[..., Any]:
    """`function` mapped over the runs, traced once. Tracers from outside are replaced by a number."""
    closed, shapes = jax.make_jaxpr(jax.vmap(function), return_shape=True)(*args)
    consts = [
        np.full(const.shape, number(const), const.dtype) if isinstance(const, jax.core.Tracer) else const
        for const in closed.consts
    ]

    def evaluate(*args: Any) -> Any:
        return jax.tree.unflatten(
            jax.tree.structure(shapes), jax.core.eval_jaxpr(closed.jaxpr, consts, *jax.tree.leaves(args))
        )

    return evaluate


def _small(leaves: list[Any], values: tuple[float, ...]) -> list[Any]:
    """Arrays with axes of length 2 at most and the values in turn, over all leaves; integers are 0."""
    small, start = [], 0
    for leaf in leaves:
        if is_hidden(leaf):
            small.append(leaf)
            continue
        shape = tuple(min(n, 2) for n in np.shape(leaf))
        size = int(np.prod(shape))
        dtype = np.dtype(jnp.result_type(leaf))
        if not is_inexact(leaf):
            small.append(np.zeros(shape, dtype))
            continue
        dtype = np.dtype(numerics.promote(jnp.zeros((), dtype)).dtype)
        small.append(np.resize(np.roll(values, -start), size).reshape(shape).astype(dtype))
        start += size
    return small


def _real(x: Any) -> np.ndarray:
    """float64, complex numbers as pairs."""
    x = np.asarray(x)
    pairs = np.stack([x.real, x.imag], -1) if np.iscomplexobj(x) else x
    return np.asarray(pairs, np.float64)
