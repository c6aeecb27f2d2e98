"""The diagonal metrics of optax's optimizers: the step size of every coordinate, read from the state."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxreg import _numerics


@dataclasses.dataclass(frozen=True)
class Metric:
    """Read the step size of every coordinate, for a learning rate of 1, from the state of an optimizer.

    Made by `adam_metric` and its like, used by `proximal(metric=...)`. A leaf that the optimizer does not step (masked)
    has no step size.

    Args:
        call: the name of the function that made it, for messages.
        states: the types of optax states that hold what is read; the optimizer must have exactly one.
        moments: state → tree of second moments.
        divisor: (state, second moment of a leaf) → what the optimizer divides its direction by: 1/step size.
        bounds_gradient: whether a divisor is at least about |gradient| in the long run, as the root of a raw second
            moment is. Then the optimizer moves a coordinate by about the learning rate, and so may the penalty
            (`max_step`).
    """

    call: str
    states: tuple[type, ...]
    moments: Callable[[Any], Any]
    divisor: Callable[[Any, jax.Array], jax.Array]
    bounds_gradient: bool = True

    def __call__(self, state: Any, params: Any) -> Any:
        """Return the tree of step sizes."""
        del params
        moments, divisor = self.read(state)
        return jax.tree.map(lambda moment: 1 / divisor(moment), moments)

    def read(self, state: Any) -> tuple[Any, Callable[[jax.Array], jax.Array]]:
        """Return the tree of second moments in the state of a whole chain, and what makes divisors of its leaves."""
        found = find_states(state, self.states)
        if len(found) != 1:
            name = self.states[0].__name__
            raise ValueError(
                f"`{self.call}` reads the one `{name}` in the state of the optimizer, but it holds {len(found)}. Wrap "
                "the optimizer that has it (inside `optax.partition`, each of them), use the metric of your optimizer, "
                "or give a function `(state, params) -> step sizes`."
            )
        part = found[0]
        return self.moments(part), lambda moment: self.divisor(part, jnp.real(_numerics.promote(moment)))


def find_states(state: Any, kinds: tuple[type, ...]) -> list[Any]:
    """The parts of an optimizer's state that are of one of the types."""
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, kinds))
    return [node for node in nodes if isinstance(node, kinds)]


def adam_metric(b2: Any = 0.999, eps: Any = 1e-8, eps_root: Any = 0.0) -> Metric:
    """Give `proximal` the metric of Adam, NAdam and their weight-decay forms.

        τ_i = η/(√(v̂_i + eps_root) + eps),   v̂ = v/(1 − b2^count), after the update

    v and count are read from the one `ScaleByAdamState` in the state of the wrapped optimizer, however deep in chains,
    schedules, masks and `optax.inject_hyperparams`. The arguments must be those of the optimizer, and nothing but the
    learning rate may stand between Adam's direction and the update (LAMB's trust ratio does). `optax.adamax` keeps a
    state of the same type that means something else.

    Args:
        b2: the decay of the second moment, a number or a traced value; likewise `eps` and `eps_root`.

    Raises:
        ValueError: in `update`, the state holds no `ScaleByAdamState`, or more than one.

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

    return Metric(
        "adam_metric",
        (optax.ScaleByAdamState,),
        lambda state: state.nu,
        lambda state, v: jnp.sqrt(_corrected(v, b2, state.count) + eps_root) + eps,
    )


def amsgrad_metric(eps: Any = 1e-8, eps_root: Any = 0.0) -> Metric:
    """Give `proximal` the metric of `optax.amsgrad`: τ_i = η/(√(v̂max_i + eps_root) + eps).

    Args:
        eps: as given to the optimizer; likewise `eps_root`.

    Example:
        >>> import jaxreg, optax
        >>> tx = jaxreg.proximal(optax.amsgrad(1e-3), jaxreg.L1(1e-4), 1e-3, jaxreg.amsgrad_metric())
    """
    return Metric(
        "amsgrad_metric",
        (optax.ScaleByAmsgradState,),
        lambda state: state.nu_max,
        lambda state, v: jnp.sqrt(v + eps_root) + eps,
    )


def adabelief_metric(b2: Any = 0.999, eps: Any = 1e-16) -> Metric:
    """Give `proximal` the metric of `optax.adabelief`: τ_i = η/(√ŝ_i + eps), with eps_root inside s as optax has it.

    s is the second moment of gradient − momentum, so a coordinate whose gradient is steady has a huge step, as in the
    optimizer itself; no bound is set on it unless `max_step` is given.

    Args:
        b2: as given to the optimizer; likewise `eps`.

    Example:
        >>> import jaxreg, optax
        >>> tx = jaxreg.proximal(optax.adabelief(1e-3), jaxreg.L1(1e-4), 1e-3, jaxreg.adabelief_metric())
    """
    return Metric(
        "adabelief_metric",
        (optax.ScaleByBeliefState,),
        lambda state: state.nu,
        lambda state, s: jnp.sqrt(_corrected(s, b2, state.count)) + eps,
        bounds_gradient=False,
    )


def rmsprop_metric(decay: Any = 0.9, eps: Any = 1e-8, eps_in_sqrt: bool = True) -> Metric:
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

    return Metric("rmsprop_metric", (optax.ScaleByRmsState, _rms_with_count()), lambda state: state.nu, divisor)


def adagrad_metric(eps: Any = 1e-7) -> Metric:
    """Give `proximal` the metric of `optax.adagrad`: τ_i = η/√(Σg_i² + eps), and 0 where the sum is 0.

    Args:
        eps: as given to the optimizer.

    Example:
        >>> import jaxreg, optax
        >>> tx = jaxreg.proximal(optax.adagrad(0.1), jaxreg.L1(1e-4), 0.1, jaxreg.adagrad_metric())
    """
    return Metric(
        "adagrad_metric",
        (optax.ScaleByRssState,),
        lambda state: state.sum_of_squares,
        lambda state, s: jnp.where(s > 0, jnp.sqrt(s + eps), jnp.inf),
    )


def _corrected(moment: jax.Array, decay: Any, count: jax.Array) -> jax.Array:
    """The bias correction of optax, in its order of operations: the metric must be that of the step."""
    return optax.tree.bias_correction(moment, decay, count)


def _rms_with_count() -> type:
    """The state of `optax.rmsprop(bias_correction=True)`, which optax does not export."""
    state = optax.scale_by_rms(bias_correction=True).init(())
    return type(state)
