"""Metrics: the step size of every coordinate in the proximal operator, the one that the optimizer itself took."""

import abc
import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxreg._core import checks, numerics
from jaxreg._core.struct import Struct
from jaxreg._rules.paths import is_hidden

# Why the bound τ·|∂R/∂w| ≤ 4η, with the slope at the parameters p, is not active at rest, for any R and η: there
# p = prox(z), so that z − p = τ·∂R/∂w(p) wherever p is not at a kink, and z − p is the optimizer's own step, of size
# η·|g|/d ≤ η for a constant gradient g and its divisor d. So the pull is at most η, and an active bound would make it
# 4η. (At z, which is η away from p, a slope that grows with w would say another thing.) Where p is 0 there is no bound.
PULL = 4.0


class Metric(abc.ABC):
    """What `proximal` asks: which leaves the optimizer steps, and by what step sizes τ."""

    name: str  # as it was written, for messages

    @abc.abstractmethod
    def leaves(self, state: Any, params: Any, treedef: Any) -> list[Any]:
        """Return for each leaf what `step` makes τ of, None for a leaf at rest."""

    @abc.abstractmethod
    def step(self, eta: jax.Array, leaf: Any, slope: Callable[[], jax.Array] | None) -> jax.Array:
        """Return τ for the learning rate `eta`, a scalar or an array like the leaf.

        Args:
            eta: the learning rate, of the dtype of τ.
            leaf: what `leaves` gave for this leaf.
            slope: |∂R/∂w| at the parameters, for metrics that bound the pull τ·|∂R/∂w| of the penalty; None where no
                bound is wanted.
        """


class Uniform(Metric):
    """τ = η, for `metric=None`."""

    name = "None"

    def leaves(self, state: Any, params: Any, treedef: Any) -> list[Any]:
        del state, params
        return [1.0] * treedef.num_leaves

    def step(self, eta: jax.Array, leaf: Any, slope: Callable[[], jax.Array] | None) -> jax.Array:
        del leaf, slope
        return eta


@dataclasses.dataclass(frozen=True)
class Given(Metric):
    """τ_i = η·s_i, s = function(state, params) given by the user."""

    function: Callable[[Any, Any], Any]
    name = "a function"

    def leaves(self, state: Any, params: Any, treedef: Any) -> list[Any]:
        sizes = self.function(state, params)
        if isinstance(sizes, Metric) or inspect.isfunction(sizes):  # a model of step sizes may be callable too
            raise TypeError(
                "`proximal(metric=...)` takes a function (state, params) -> step sizes; this one gave "
                f"{checks.short(sizes)}. `jaxreg.adam_metric` and its like must be called: "
                "`metric=jaxreg.adam_metric()`."
            )
        return _leaves_beside_params("step sizes", treedef, sizes)

    def step(self, eta: jax.Array, leaf: Any, slope: Callable[[], jax.Array] | None) -> jax.Array:
        del slope
        return eta * jnp.asarray(leaf, eta.dtype)


@dataclasses.dataclass(frozen=True)
class Moments(Metric):
    """τ_i = η/d_i, with the divisor d_i that the optimizer makes of its second moments.

    Made by `adam_metric` and its like, used by `proximal(metric=...)`. A leaf that the optimizer does not step (masked)
    has no step size.

    Args:
        call: the name of the function that made it, for messages.
        states: the types of optax states that hold what is read; the optimizer must have exactly one.
        moments: state → tree of second moments.
        divisor: (state, second moment of a leaf) → what the optimizer divides its direction by.
        bounds_gradient: whether a divisor is at least about |gradient| in the long run, as the root of a raw second
            moment is. Then the optimizer moves a coordinate by about the learning rate, and so may the penalty
            (`max_step`).
    """

    call: str
    states: tuple[type, ...]
    moments: Callable[[Any], Any]
    divisor: Callable[[Any, jax.Array], jax.Array]
    bounds_gradient: bool = True

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"jaxreg.{self.call}(...)"

    def __call__(self, state: Any, params: Any) -> Any:
        """Return the tree of step sizes for a learning rate of 1."""
        del params
        part = self.part(state)
        return jax.tree.map(lambda moment: 1 / self._divisor(part, moment), self.moments(part))

    def leaves(self, state: Any, params: Any, treedef: Any) -> list[Any]:
        del params
        part = self.part(state)
        moments = _leaves_beside_params("second moments", treedef, self.moments(part))
        return [None if is_hidden(moment) else self._divisor(part, moment) for moment in moments]

    def step(self, eta: jax.Array, leaf: Any, slope: Callable[[], jax.Array] | None) -> jax.Array:
        divisor = jnp.asarray(leaf, eta.dtype)
        if slope is not None and self.bounds_gradient:
            divisor = jnp.maximum(divisor, slope() / PULL)  # τ ≤ 4η/slope, by one division
        return eta / divisor

    def part(self, state: Any) -> Any:
        found = find_states(state, self.states)
        if len(found) != 1:
            name = self.states[0].__name__
            raise ValueError(
                f"`{self.call}` reads the one `{name}` in the state of the optimizer, but it holds {len(found)}. Wrap "
                "the optimizer that has it (inside `optax.partition`, each of them), use the metric of your optimizer, "
                "or give a function `(state, params) -> step sizes`."
            )
        return found[0]

    def _divisor(self, part: Any, moment: Any) -> jax.Array:
        return self.divisor(part, jnp.real(numerics.promote(moment)))


def as_metric(metric: Any) -> Metric:
    """Return the metric that `proximal(metric=...)` was given."""
    if metric is None:
        return Uniform()
    if isinstance(metric, Metric):
        return metric
    if callable(metric) and not isinstance(metric, (type, Struct)):
        return Given(metric)
    raise TypeError(
        "`proximal(metric=...)` takes None, `jaxreg.adam_metric(...)` or a function (state, params) -> step sizes, "
        f"got {checks.short(metric)}."
    )


def _leaves_beside_params(what: str, treedef: Any, tree: Any) -> list[Any]:
    try:
        return list(treedef.flatten_up_to(tree))
    except ValueError as error:
        raise ValueError(f"`proximal(metric=...)` must give {what} like the parameters: {error}") from None


def find_states(state: Any, kinds: tuple[type, ...]) -> list[Any]:
    """Return the parts of an optimizer's state that are of one of the types."""
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, kinds))
    return [node for node in nodes if isinstance(node, kinds)]


@functools.cache
def _rms_states() -> tuple[type, ...]:
    """With that of `optax.rmsprop(bias_correction=True)`, which optax does not export."""
    return optax.ScaleByRmsState, type(optax.scale_by_rms(bias_correction=True).init(()))


def is_adaptive(state: Any) -> bool:
    """Whether an optimizer's state holds what one of the metrics below reads, so that `None` is a choice beside it."""
    others = (optax.ScaleByAdamState, optax.ScaleByAmsgradState, optax.ScaleByBeliefState, optax.ScaleByRssState)
    return bool(find_states(state, (*others, *_rms_states())))


def adam_metric(b2: Any = 0.999, eps: Any = 1e-8, eps_root: Any = 0.0) -> Moments:
    """Give `proximal` the metric of Adam, NAdam and their weight-decay forms.

        τ_i = η/(√(v̂_i + eps_root) + eps),   v̂ = v/(1 − b2^count), after the update

    v and count are read from the one `ScaleByAdamState` in the state of the wrapped optimizer, however deep in chains,
    schedules, masks and `optax.inject_hyperparams`. The arguments must be those of the optimizer, and nothing but the
    learning rate may stand between Adam's direction and the update. LAMB's trust ratio does, and AdaMax, RAdam and
    ADOPT keep a state of this type that means something else: `proximal` tries it out and refuses them. `optax.yogi`
    has `eps=1e-3`.

    Args:
        b2: the decay of the second moment, a number or a traced value; likewise `eps` and `eps_root`.

    Raises:
        ValueError: in `init`, the state holds no `ScaleByAdamState`, or more than one.

    Example:
        >>> import jax.numpy as jnp, jaxreg, optax
        >>> params = jnp.array([1.0, 0.05])
        >>> tx = jaxreg.proximal(optax.adam(0.1), jaxreg.L1(1.0), learning_rate=0.1, metric=jaxreg.adam_metric())
        >>> updates, _ = tx.update(jnp.array([4.0, 0.5]), tx.init(params), params)
        >>> optax.apply_updates(params, updates).round(4)       # 1 − 0.1 − 0.1/4, and 0.05 − 0.1 inside 0.1/0.5
        Array([0.875, 0.   ], dtype=float32)

    References:
        Yun, Lozano and Yang, *Adaptive proximal gradient methods for structured neural networks* (ProxGen), NeurIPS
        2021.
    """

    return Moments(
        "adam_metric",
        (optax.ScaleByAdamState,),
        lambda state: state.nu,
        lambda state, v: jnp.sqrt(_corrected(v, b2, state.count) + eps_root) + eps,
    )


def amsgrad_metric(eps: Any = 1e-8, eps_root: Any = 0.0) -> Moments:
    """Give `proximal` the metric of `optax.amsgrad`: τ_i = η/(√(v̂max_i + eps_root) + eps).

    Args:
        eps: as given to the optimizer; likewise `eps_root`.

    Example:
        >>> import jaxreg, optax
        >>> tx = jaxreg.proximal(optax.amsgrad(1e-3), jaxreg.L1(1e-4), 1e-3, jaxreg.amsgrad_metric())
    """
    return Moments(
        "amsgrad_metric",
        (optax.ScaleByAmsgradState,),
        lambda state: state.nu_max,
        lambda state, v: jnp.sqrt(v + eps_root) + eps,
    )


def adabelief_metric(b2: Any = 0.999, eps: Any = 1e-16) -> Moments:
    """Give `proximal` the metric of `optax.adabelief`: τ_i = η/(√ŝ_i + eps), with eps_root inside s as optax has it.

    s is the second moment of gradient − momentum, so a coordinate whose gradient is steady has a huge step, as in the
    optimizer itself; no bound is set on it unless `max_step` is given.

    Args:
        b2: as given to the optimizer; likewise `eps`.

    Example:
        >>> import jaxreg, optax
        >>> tx = jaxreg.proximal(optax.adabelief(1e-3), jaxreg.L1(1e-4), 1e-3, jaxreg.adabelief_metric())
    """
    return Moments(
        "adabelief_metric",
        (optax.ScaleByBeliefState,),
        lambda state: state.nu,
        lambda state, s: jnp.sqrt(_corrected(s, b2, state.count)) + eps,
        bounds_gradient=False,
    )


def rmsprop_metric(decay: Any = 0.9, eps: Any = 1e-8, eps_in_sqrt: bool = True) -> Moments:
    """Give `proximal` the metric of `optax.rmsprop` (not centered): τ_i = η/√(v_i + eps), or η/(√v_i + eps).

    With the momentum of `optax.rmsprop` give `proximal` the same `momentum`.

    Args:
        decay: as given to the optimizer (used with `bias_correction=True`); likewise `eps` and `eps_in_sqrt`.

    Example:
        >>> import jaxreg, optax
        >>> tx = jaxreg.proximal(optax.rmsprop(1e-3), jaxreg.L1(1e-4), 1e-3, jaxreg.rmsprop_metric())
    """

    def divisor(state: Any, v: jax.Array) -> jax.Array:
        v = v if isinstance(state, optax.ScaleByRmsState) else _corrected(v, decay, state.count)
        return jnp.sqrt(v + eps) if eps_in_sqrt else jnp.sqrt(v) + eps

    return Moments("rmsprop_metric", _rms_states(), lambda state: state.nu, divisor)


def adagrad_metric(eps: Any = 1e-7) -> Moments:
    """Give `proximal` the metric of `optax.adagrad`: τ_i = η/√(Σg_i² + eps), and 0 where the sum is 0.

    Args:
        eps: as given to the optimizer.

    Example:
        >>> import jaxreg, optax
        >>> tx = jaxreg.proximal(optax.adagrad(0.1), jaxreg.L1(1e-4), 0.1, jaxreg.adagrad_metric())
    """
    return Moments(
        "adagrad_metric",
        (optax.ScaleByRssState,),
        lambda state: state.sum_of_squares,
        lambda state, s: jnp.where(s > 0, jnp.sqrt(s + eps), jnp.inf),
    )


def _corrected(moment: jax.Array, decay: Any, count: jax.Array) -> jax.Array:
    """The bias correction of optax, in its order of operations: the metric must be that of the step."""
    return optax.tree.bias_correction(moment, decay, count)
