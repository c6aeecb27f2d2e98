"""optax: the proximal operator of a penalty as a wrapper around an optimizer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxreg._core import checks, numerics
from jaxreg._core.compiler import only_after
from jaxreg._core.regularizer import Regularizer
from jaxreg._core.struct import stable_name
from jaxreg._core.structure import Reach
from jaxreg._optax import adam_groups, groups, half_precision, joint_step, one_leaf
from jaxreg._optax import latent as latent_point
from jaxreg._optax.learning_rate import learning_rate_at
from jaxreg._optax.leaves import RegOrSchedule, regularizer_at, side_by_side
from jaxreg._optax.metrics import Given, Metric, Uniform, as_metric
from jaxreg._optax.states import refuse_by_state
from jaxreg._optax.trial import refuse_by_trial
from jaxreg._optax.when import When, checked, waited
from jaxreg._rules.paths import is_hidden, is_inexact
from jaxreg._rules.tree_penalty import TreePenalty


@stable_name
class ProximalState(NamedTuple):
    """Hold what `proximal` keeps from step to step.

    Example:
        >>> import jax.numpy as jnp, jaxreg, optax
        >>> state = jaxreg.proximal(optax.sgd(0.1), jaxreg.L1(1.0), 0.1).init(jnp.zeros(2))
        >>> isinstance(state, jaxreg.ProximalState), state.count
        (True, Array(0, dtype=int32))
    """

    inner: Any  # the state of the wrapped optimizer
    count: jax.Array  # type: ignore[assignment]  # shape (), int32: updates so far
    residual: Any = None  # float32, what float16 and bfloat16 parameters could not hold; None where there are none
    norms: Any = None  # of the groups of the parameters, for a metric; None where there are none
    latent: Any = None  # the point before the proximal operator; None unless latent=True
    total: Any = None  # with every > 1 the sum of the learning rates, with latent=True that of the steps of each leaf


def proximal(
    inner: optax.GradientTransformation,
    reg: RegOrSchedule,
    learning_rate: Any = None,
    metric: Metric | Callable[[Any, Any], Any] | None = None,
    *,
    momentum: Any = 0.0,
    max_step: Any = None,
    inner_steps: int | None = None,
    latent: bool = False,
    every: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Wrap an optimizer so that every step ends with the proximal operator of a penalty: zeros are exact.

        u ← argmin_w { R(w) + ½ Σ_i (w_i − z_i)²/τ_i } − params,   z = params + u,   u the update of `inner`

    `params + u` is then that minimum up to rounding, and exactly 0 wherever the proximal operator gives 0. τ is the
    step size of each coordinate: `learning_rate` for plain gradient descent, and `learning_rate/(√v̂ + eps)` in Adam's
    metric. With the τ that the optimizer itself took, a point at rest is a stationary point of loss + R, whatever the
    metric. So `init` tries the optimizer out on a small tree: constant gradients must lead to the updates that the
    metric tells, up to a factor common to all with `metric=None`; else it raises and says what it saw
    (`jaxreg/_optax/README.md` has the table of all optimizers). One choice is left: `metric=None` around Adam and its
    like is the decoupled penalty, as AdamW's decay is; its zeros are exact too, but the strength means something else
    than in the loss.

    The penalty must not also be in the loss. The wrapper must be outermost: no later link may change the update;
    wrappers that pass updates through whole (`optax.MultiSteps`, `optax.apply_if_finite`, `optax.masked`,
    `optax.partition`, `optax.inject_hyperparams`) may stand outside. `optax.lookahead` takes it inside, as its fast
    optimizer; `optax.flatten` hides the paths, so rules cannot match there; `optax.contrib.schedule_free` moves the
    zeros away.

    Frozen leaves are not shrunk if they are frozen outside (`optax.partition`, `optax.masked`), if their rule is
    `None`, or if the moments of the metric are masked there (then the update must be 0, or it raises). float16 and
    bfloat16 parameters keep what they cannot hold in a float32 residual in the state, so that thresholds of less than
    half an ulp add up.

    Args:
        inner: the optimizer.
        reg: a regularizer, a `TreeRegularizer` or `TreeBudget`, or a function of the step count, from 0, that returns
            one of them; a schedule times a regularizer is one: `lambda step: ramp(step) * reg`. It does not compile
            again.
        learning_rate: η, a number, a schedule of the step count, or `None` to read it from the state of an
            `optax.inject_hyperparams` inside `inner` that holds exactly one `learning_rate`. The scale of an
            `optax.contrib.reduce_on_plateau` inside is read and multiplies it.
        metric: `None`, one step size for all coordinates (gradient descent); or `jaxreg.adam_metric(...)` and its like;
            or a function `(state of inner, params) -> tree of step sizes` for a learning rate of 1, like the
            parameters, with scalars for leaves of one step and `None` for leaves at rest. A function is trusted,
            not tried out: by `lambda state, params: jax.tree.map(lambda p: 1.0, params)` the penalty is decoupled
            from the loss around any optimizer, Lion for example.
        momentum: of `optax.sgd(learning_rate, momentum)`, heavy-ball or Nesterov: τ is η/(1 − momentum), which is what
            a constant gradient is multiplied with in the long run. Not for Adam, whose momentum is an average.
        max_step: the largest τ_i. A coordinate that has had no gradient yet has τ = η/eps in Adam's metric, and its
            weight would vanish at once (unused embeddings, all that lies below a zero-initialised head). `None` bounds
            the pull of the penalty instead: τ_i·|∂R/∂w_i| ≤ 4·η, with the slope at `params`. At rest that bound is
            never active, because there the pull is as large as the optimizer's own step, at most η; a weight that is
            0 has no slope and no bound, so it takes no zero away. It needs a slope, so give L0, and MCP and SCAD
            beyond their slope, a number; `math.inf` for no bound. Functions, `adabelief_metric` and `metric=None` have
            no bound unless it is given.
        inner_steps: for penalties without a closed form in the metric (`Spectral` and its like) or at all
            (`Difference`), the number of inner steps instead of the error. 1 is the scalar majorizer, a proximal
            step with the smallest τ > 0 of the leaf: the right fixed points at the pace of the slowest coordinate (one
            with τ = 0 stays, and the others go on); K steps come nearer to the metric's own step and cost K proximal
            operators (K singular value decompositions). For `Difference`, K accelerated steps on the dual problem,
            each two passes over the leaf, and the fixed point is as near as they come (error O(1/K²)). Penalties with a
            closed form are not affected.
        latent: True keeps the point before the proximal operator in the state (float32 for half precision): the
            optimizer moves it, by gradients taken at its image, z ← z + u, params = prox(z), so that what was removed
            can return. For a set that is the straight-through projection. τ is the sum of all steps so far, as in dual
            averaging (with the last one alone only a gradient of 0 would be at rest), so that where R is convex it
            rests at the minima of loss + R. In a metric that sum is one more array in the state.
        every: n takes the proximal operator in each n-th step only (None, as 1, in all), for operators that cost more
            than the step. τ is then made of the sum of the learning rates since the last one, so that the strength
            stays what it is; the points at rest are those of n = 1 up to O(n·η). In between the optimizer alone moves
            the parameters, and no zero is exact: take them after step n, 2n, ... With `latent=True` they stand still.

    Raises:
        ValueError: in `init`, the metric does not tell the step of the optimizer, no single `learning_rate` or metric
            is in the state, or a wrapper is inside that must stand outside. No `params` in `update`. A pattern that
            matches no leaf.
        TypeError: an argument is none of these.
        NotImplementedError: a penalty has no proximal operator, or none in the metric and `inner_steps` is not given.

    Example:
        >>> import jax.numpy as jnp, jaxreg, optax
        >>> params = jnp.array([1.0, 0.05])
        >>> tx = jaxreg.proximal(optax.sgd(0.1), jaxreg.L1(1.0), learning_rate=0.1)
        >>> updates, _ = tx.update(jnp.zeros(2), tx.init(params), params)
        >>> optax.apply_updates(params, updates)
        Array([0.9, 0. ], dtype=float32)

        One entry of two, with a latent point: the second one was removed first, and returns.

        >>> tx = jaxreg.proximal(optax.sgd(0.1), jaxreg.TopK(1), latent=True, learning_rate=0.1)
        >>> w = jnp.array([1.0, 0.9])
        >>> state = tx.init(w)
        >>> for gradient in ([0.0, 0.0], [2.0, 0.0]):
        ...     updates, state = tx.update(jnp.array(gradient), state, w)
        ...     w = optax.apply_updates(w, updates)
        ...     print(w)
        [1. 0.]
        [0.  0.9]

    References:
        Parikh and Boyd, *Proximal algorithms*, Foundations and Trends in Optimization, 2014. Yun, Lozano and Yang,
        *Adaptive proximal gradient methods for structured neural networks* (ProxGen), NeurIPS 2021. Xiao, *Dual
        averaging methods for regularized stochastic learning*, JMLR 2010. Jin et al., *PARQ: piecewise-affine
        regularized quantization*, arXiv:2503.15748 (both with a latent point).
    """
    reg_at, when = regularizer_at("proximal", reg), checked("proximal", latent, every)
    return wrapped(inner, reg_at, learning_rate, as_metric(metric), momentum, max_step, inner_steps, when)


def wrapped(
    inner: optax.GradientTransformation,
    reg_at: Callable[[jax.Array], TreePenalty],
    learning_rate: Any,
    metric: Metric,
    momentum: Any,
    max_step: Any,
    inner_steps: int | None,
    when: When,
    adam: adam_groups.Adam | None = None,
) -> optax.GradientTransformationExtraArgs:
    """`proximal`; with `adam` the optimizer is known to be that, and `metric` to be its own."""
    step_at = learning_rate_at(learning_rate, momentum)
    leaf_prox = one_leaf.prox(inner_steps)
    if max_step is not None:
        max_step = checks.step("proximal(max_step=...)", max_step, ())
    step_sizes = one_leaf.step_sizes(metric, max_step)
    inner = optax.with_extra_args_support(inner)

    def point_after(
        regularizer: Regularizer, p: Any, update: Any, eta: Any, leaf: Any, shape: Any, r: Any, moment: Any, before: Any
    ) -> tuple[jax.Array, Any]:
        """w, and the norms of its groups."""
        form = None if isinstance(metric, Uniform) else groups.grouped(regularizer, p)
        if shape is not None:
            adam_groups.refuse_other_moments(adam, regularizer, form and form.shape(p), p, shape)
        last: Any = None if form is None else form.last_norms(r, p)
        if adam is not None and form is not None and p.ndim:
            m, v, numbers = moment
            last, v = adam_groups.in_turn(before, form, p, last, v)
            return adam_groups.compiled()(regularizer, p, last, m, v, numbers)
        if regularizer.reach is not Reach.ENTRY:
            p, leaf = only_after(before, (p, leaf))
        z = p + jnp.asarray(update, p.dtype)
        step = step_sizes(regularizer, form, p, last, eta, leaf)
        if form is None or step.ndim == 0:
            w = leaf_prox(regularizer, p, z, step)
            return w, r if form is None else form.norms(w)
        return groups.compiled()(regularizer, z, step, last, eta)

    def init(params: Any) -> ProximalState:
        state = inner.init(params)
        refuse_by_state(state, metric)
        count = jnp.zeros([], jnp.int32)
        reg = reg_at(count)
        if not (adam or isinstance(metric, Given)) and any(map(is_inexact, jax.tree.leaves(params))):
            rows = side_by_side("proximal", params, params, reg)
            refuse_by_trial(inner, metric, step_at, momentum, state, params, rows._replace(leaves=rows.penalized()))
        if when.latent:
            points, totals = latent_point.begin(params, reg, lambda treedef: metric.leaves(state, params, treedef))
            return ProximalState(state, count, latent=points, total=totals)
        norms = None if isinstance(metric, Uniform) or when.every > 1 else groups.norms(params, reg)
        total = None if when.every == 1 else jnp.zeros([], float)
        return ProximalState(state, count, half_precision.residuals(params, reg), norms, total=total)

    def update(updates: Any, state: ProximalState, params: Any = None, **extra_args: Any) -> Any:
        seen = latent_point.seen(params, state.latent)
        updates, inner_state = inner.update(updates, state.inner, seen, **extra_args)
        reg = reg_at(state.count)
        rows, treedef, joints = all_rows = side_by_side("proximal", updates, params, reg)
        eta = step_at(state.count, inner_state)
        none, empty = [None] * len(rows), not jax.tree.leaves(params)
        metric_leaves = none if empty else metric.leaves(inner_state, params, treedef)
        sizes = joint_step.Sizes(metric, metric_leaves, step_sizes, eta, adam)
        due, count = when.is_due(state.count), optax.safe_increment(state.count)
        slopes = one_leaf.slopes_in_joint(reg, rows, metric_leaves) if reg.is_joint else none

        def prox_of_all(regularizers: Any, points: Any, moved: Any, steps: Any) -> list[jax.Array]:
            if not reg.is_joint:
                return list(map(leaf_prox, regularizers, points, moved, steps))
            one_step = isinstance(metric, Uniform)  # the same in all leaves, and told so
            return reg.prox_of_leaves(regularizers, moved, steps[:1] * len(steps) if one_step else steps)

        if when.latent:
            if empty:
                return updates, state._replace(inner=inner_state, count=count)
            slopes = joint_step.slopes(joints, rows, sizes, slopes)

            def tau(i: int, regularizer: Regularizer, p: jax.Array) -> jax.Array:
                form = None if isinstance(metric, Uniform) else groups.grouped(rows[i].regularizer, p)
                return step_sizes(regularizer, form, p, form and form.norms(p), eta, metric_leaves[i], slopes[i])

            def images(places: Any, points: Any, moved: Any, steps: Any) -> list[jax.Array]:
                ws = prox_of_all([rows[i].regularizer for i in places], points, moved, steps)
                return joint_step.images(joints, rows, sizes, places, ws, moved, steps)

            points, totals = map(treedef.flatten_up_to, (state.latent, state.total))
            found = latent_point.step(all_rows.penalized(), points, totals, tau, images, when.every == 1 or due)
            updates, points, totals = (treedef.unflatten(column) for column in zip(*found, strict=True))
            return updates, ProximalState(inner_state, count, latent=points, total=totals)

        rate, (eta, total) = eta, when.rates(eta, state.count, state.total)
        kept = (None, None) if empty else (state.residual, state.norms)  # they stand for none
        residuals, norms = (none if tree is None else treedef.flatten_up_to(tree) for tree in kept)
        shapes = none if empty else joint_step.shapes_of_moments(sizes, state.inner, all_rows)
        moments: Any = none if empty or adam is None else adam.moments(inner_state, rate, eta, treedef)

        old = list(zip((row.update for row in rows), residuals, norms, strict=True))

        def stepped() -> list[Any]:
            new: list[Any] = []
            before = None
            for (leaf_update, param, regularizer), metric_leaf, shape, residual, r, moment in zip(
                rows, metric_leaves, shapes, residuals, norms, moments, strict=True
            ):
                if regularizer is None or is_hidden(metric_leaf):
                    new.append(None)
                    continue
                p = numerics.promote(param) if residual is None else numerics.promote(param) + residual
                w, now = point_after(regularizer, p, leaf_update, eta, metric_leaf, shape, r, moment, before)
                before = before if regularizer.reach is Reach.ENTRY else w if now is None else now
                keep = None if r is None else now  # what the state keeps has one structure
                new.append((*half_precision.as_update(regularizer, w, leaf_update, param, residual), keep))
            if joints:
                joint_step.step(joints, rows, new, old, sizes._replace(eta=eta), moments, before)
            return new

        def stepped_jointly() -> list[Any]:
            new: list[Any] = [None] * len(rows)
            places = [i for i, row in enumerate(rows) if row.regularizer is not None]
            regularizers: Any = [rows[i].regularizer for i in places]
            ps = [numerics.promote(rows[i].param) for i in places]
            ps = [p if (rest := residuals[i]) is None else p + rest for i, p in zip(places, ps, strict=True)]
            zs = [p + jnp.asarray(rows[i].update, p.dtype) for i, p in zip(places, ps, strict=True)]
            steps = [
                step_sizes(regularizer, None, p, None, eta, metric_leaves[i], slopes[i])
                for i, regularizer, p in zip(places, regularizers, ps, strict=True)
            ]
            for i, w in zip(places, prox_of_all(regularizers, ps, zs, steps), strict=True):
                new[i] = (*half_precision.as_update(rows[i].regularizer, w, *rows[i][:2], residuals[i]), None)
            return new

        step = stepped_jointly if reg.is_joint else stepped
        if when.every == 1:
            found = step()
        else:
            found = jax.lax.cond(due, step, lambda: waited(all_rows.penalized(), metric_leaves, residuals))
        new = [alone if now is None else now for alone, now in zip(old, found, strict=True)]
        updates, *left = (treedef.unflatten(column) for column in (zip(*new, strict=True) if new else ((),) * 3))
        left = [former if tree is None else now for former, tree, now in zip(state[2:4], kept, left, strict=True)]
        return updates, ProximalState(inner_state, count, left[0], left[1], total=total)

    return optax.GradientTransformationExtraArgs(init, update)
