"""minimize: the minimum of a loss plus a penalty, with its certificate and its derivatives."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxreg._core import checks
from jaxreg._core.struct import Struct
from jaxreg._solver.fista import CONVERGED, fista
from jaxreg._solver.implicit import differentiable
from jaxreg._solver.problem import problem

_REASONS = np.array(
    [
        "converged: the residual is at most `tol`",
        "not converged after `max_steps`",
        "not converged: a step is lost in the rounding: float64 or a larger `tol`? Or the loss has a kink, or no end",
        "not converged: the loss or its gradient is not finite at the point to start at",
    ]
)


class Minimum(Struct):
    """Hold what `jaxreg.minimize` found. A pytree, which `jax.jit` and `jax.vmap` return.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> found = jaxreg.minimize(lambda w: jnp.sum((w - 3.0) ** 2), jaxreg.L1(2.0), jnp.zeros(1))
        >>> round(float(found.params[0]), 3), bool(found.converged), found.reason
        (2.0, True, 'converged: the residual is at most `tol`')
    """

    params: Any  # the tree
    value: Any  # loss + penalty there
    residual: Any  # ‖w − prox(w − γ∇f(w), γ)‖/γ there
    steps: Any  # int32: gradients of the loss, and proximal operators, that were taken
    status: Any  # int32: which of the reasons

    @property
    def converged(self) -> jax.Array:
        """Whether the residual is at most `tol`."""
        return self.status == CONVERGED

    @property
    def reason(self) -> Any:
        """Why it ended, in words; of many minima a list of them. For concrete values, outside of `jax.jit`."""
        return _REASONS[np.asarray(self.status)].tolist()


def minimize(
    loss: Callable[..., Any],
    reg: Any,
    params: Any,
    *args: Any,
    tol: Any = 1e-5,
    max_steps: Any = 10_000,
    callback: Callable[[Any, Any, Any], None] | None = None,
) -> Minimum:
    """Return the minimum of `loss(params, *args) + reg(params)`, by accelerated proximal gradients.

        w⁺ = prox(v − γ∇f(v), γ),   v⁺ = w⁺ + β·(w⁺ − w)       until   ‖w − prox(w − γ∇f(w), γ)‖/γ ≤ tol

    The residual is a certificate, whatever the way to it: 0 at a minimum of a convex problem and nowhere else, at most
    the distance of 0 from the subgradients of loss + penalty, and ‖∇f‖ where there is no penalty. Where loss + penalty
    is strongly convex with μ, the minimum is at most about 2·residual/μ away. It is exact up to the rounding of ∇f (on
    a TPU or GPU take `jax.default_matmul_precision("highest")`). Where the penalty or the loss is not convex it
    certifies a stationary point. For a convex loss and a norm `jaxreg.duality_gap` bounds the objective as well. The
    step γ is found on the way; a step that does not go down is taken back, and the momentum β begins anew.

    It is a JAX function: `jax.jit` compiles one program for all strengths, `jax.vmap` runs strengths and folds at once,
    sharded data stay where they are. Called without `jax.jit` it compiles at every call. In all numbers that `reg` and
    `args` hold, and that the loss reads from outside, the minimum is differentiable, forwards, backwards and more than
    once, by its optimality condition: conjugate gradients on the support, no memory for the steps. The derivative in
    the point to start at is 0; it is nan where the minimum is not unique and none exists.

    Args:
        loss: `(params, *args) -> scalar`, differentiable.
        reg: a regularizer, for all leaves, a `TreeRegularizer`, or what else has a value of the tree and
            `prox(tree, step)`; not in the loss. Its proximal operator must be exact.
        params: the tree to start at, float32, float64 or complex. Leaves that no rule matches move without a penalty;
            integers, bools, keys, None and what else is no parameter stay as they are.
        args: trees of arrays and numbers.
        tol: the residual at which it ends. In float32 about 1e-6 of the terms of the gradient is the least.
        max_steps: the most gradients to take.
        callback: `(steps, value, residual) -> None`, called after each of them with numbers; of runs under `jax.vmap`
            each. As with `jax.debug.callback` the order is not promised, and numbers may arrive rounded to float32
            where `jax.enable_x64` is a context and not the setting of the process.

    Returns:
        A `Minimum`: `params`, `value`, `residual`, `steps`, `converged`, and `reason` in words. Look at `converged`: a
        loss without a minimum, nan, the limit of steps and rounding all end as False, with the best point so far.

    Raises:
        TypeError: the loss is no real number, an argument no array, a parameter of half precision, or `reg` no penalty.
        ValueError: no leaf is a parameter, or `tol` or `max_steps` is out of range.
        NotImplementedError: the penalty has no exact proximal operator; approximate ones (`inner_steps`) have none too.

    Example:
        >>> import jax, jax.numpy as jnp, jaxreg, numpy as np
        >>> x, y = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), jnp.array([2.0, 0.1, 2.0])
        >>> def loss(w, x, y):
        ...     return 0.5 * jnp.sum((x @ w - y) ** 2)
        >>> found = jaxreg.minimize(loss, jaxreg.L1(1.0), jnp.zeros(2), x, y)
        >>> np.asarray(found.params).round(3), bool(found.converged)
        (array([1.5, 0. ], dtype=float32), True)
        >>> slope = jax.grad(lambda c: jaxreg.minimize(loss, jaxreg.L1(c), jnp.zeros(2), x, y).params[0])(1.0)
        >>> round(float(slope), 3)
        -0.5

    References:
        Beck and Teboulle, *A fast iterative shrinkage-thresholding algorithm*, 2009. O'Donoghue and Candès, *Adaptive
        restart for accelerated gradient schemes*, 2015. Bertrand et al., *Implicit differentiation for fast
        hyperparameter selection in non-smooth convex learning*, JMLR 2022.
    """
    if not callable(loss):
        raise TypeError(f"`minimize(loss=...)` takes a function `(params, *args) -> scalar`, got {checks.short(loss)}.")
    tol = checks.number("minimize(tol=...)", tol, above=None)
    max_steps = _steps(max_steps)
    here, start, theta = problem(loss, reg, params, args)
    end = fista(here, *jax.lax.stop_gradient((start, theta)), tol, max_steps, callback)
    w, value = differentiable(here, end.w, 1 / end.curvature, theta)
    return Minimum(here.tree(w, theta), value, *jax.lax.stop_gradient((end.residual, end.steps, end.status)))


def _steps(max_steps: Any) -> Any:
    if isinstance(max_steps, jax.core.Tracer):
        return max_steps
    if isinstance(max_steps, bool) or not isinstance(max_steps, (int, np.integer)) or max_steps < 1:
        raise ValueError(f"`minimize(max_steps=...)` takes a whole number from 1, got {checks.short(max_steps)}.")
    return max_steps
