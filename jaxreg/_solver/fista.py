"""Accelerated proximal gradients: one gradient of the loss and one proximal operator a turn of the loop.

    w⁺ = prox(v − ∇f(v)/L, 1/L),   v⁺ = w⁺ + (t − 1)/t⁺·(w⁺ − w),   t⁺ = (1 + √(1 + 4t²))/2        (FISTA)

The gradient is needed in two places, at v for the next trial and at the trial w⁺ for the test of L and for the residual

    r = L·‖w⁺ − prox(w⁺ − ∇f(w⁺)/L, 1/L)‖

(and L·ε/2·‖w‖ more, for what the rounding of w hides of it). Turns take these in order, so that the program holds the
loss once, and runs of a batch wait for each other nowhere. Where v = w the operator of the residual is the next
trial, and one turn is a whole step.

Beck and Teboulle, *A fast iterative shrinkage-thresholding algorithm*, SIAM J. Imaging Sciences, 2009. O'Donoghue and
Candès, *Adaptive restart for accelerated gradient schemes*, 2015. Li and Lin, *Accelerated proximal gradient methods
for nonconvex programming*, NeurIPS 2015: a step that does not go down is taken back.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxreg._solver.problem import Numbers, Problem
from jaxreg._solver.vectors import Vector, dot, dtype, minus, norm, plus, where

CONVERGED, RUNNING, STALLED, NOT_FINITE = range(4)
_NOISE = 32  # the rounding of a loss, in units of ε·|f|, and of its gradient, in units of ε·‖∇f‖


class State(NamedTuple):
    x: Vector  # where the gradient is taken in this turn
    trial: Any  # whether x is a trial w⁺, or v
    w: Vector
    v: Vector
    g: Vector  # ∇f(v)
    f: Any  # f(v)
    value: Any  # f(w) + R(w)
    residual: Any  # at w
    curvature: Any  # L
    grown: Any  # whether a trial was refused, before which L is only a guess
    t: Any
    status: Any
    steps: Any


def fista(
    problem: Problem,
    start: Vector,
    theta: Numbers,
    tol: Any,
    max_steps: Any,
    callback: Callable[[Any, Any, Any], None] | None,
) -> State:
    """Run from `start` until the residual is at most `tol`."""
    kind = dtype(start)
    epsilon = float(jnp.finfo(kind).eps)
    tol = jnp.asarray(tol, kind)

    def turn(s: State) -> State:
        f, g = jax.value_and_grad(problem.loss)(s.x, theta)
        finite = jnp.isfinite(f) & jnp.isfinite(dot(g, g))
        first = s.steps == 0

        # at a trial: does the loss curve along the step at most as L says?
        d = minus(s.x, s.v)
        d_d, size = dot(d, d), jnp.maximum(jnp.abs(f), jnp.abs(s.f))
        seen = s.curvature * d_d > _NOISE * epsilon * size  # else the difference of losses is rounding, see below
        of_losses = 2 * (f - s.f - dot(s.g, d))
        of_gradients = dot(minus(g, s.g), d) - _NOISE * epsilon * (norm(g) + norm(s.g)) * jnp.sqrt(d_d)
        curved = jnp.where(seen, of_losses, of_gradients)
        passed = s.trial & finite & (curved <= s.curvature * d_d)
        refused = s.trial & ~passed

        # then: did the step go down?
        value = f + problem.penalty(s.x, theta)
        rounding = _NOISE * epsilon * (size + jnp.where(jnp.isfinite(s.value), jnp.abs(s.value), 0))
        accepted = passed & (value <= s.value + rounding)
        plain = s.t == 1  # then v = w
        lost = ~s.trial & ~finite & ~first  # v is where the loss is not defined
        back = (passed & ~accepted) | lost

        # L: from the first gradient a step as long as w; then what was measured; smaller where it was good for long
        measured = jnp.where(finite & (d_d > 0), curved / jnp.where(d_d > 0, d_d, 1), 0)
        shorter = jnp.clip(measured, 2 * s.curvature, 1000 * s.curvature)
        guess = norm(g) / jnp.where(dot(s.x, s.x) > 0, norm(s.x), 1)
        guess = jnp.where(guess > 0, guess, 1)
        longer = jnp.where(first, guess, s.curvature * jnp.where(s.grown, 0.9, 0.25))
        at_trial = jnp.where(refused | (back & plain), shorter, s.curvature)
        curvature = jnp.where(s.trial, at_trial, jnp.where(finite, longer, s.curvature))

        ahead = minus(s.x, s.w)
        restart = dot(minus(s.v, s.x), ahead) > 0
        t = jnp.where(restart, 1, s.t)
        following = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
        momentum = (t - 1) / following

        base, slope = where(refused, s.v, s.x), where(refused, s.g, g)
        p = problem.prox(plus(base, -1 / curvature, slope), 1 / curvature, theta)
        to_p, one_ulp = norm(minus(s.x, p)), epsilon * norm(s.x)
        residual = jnp.where(accepted, s.curvature * (to_p + one_ulp / 2), s.residual)

        on = accepted & (momentum > 0)
        w = where(accepted, s.x, s.w)
        v = where(refused, s.v, where(on, plus(s.x, momentum, ahead), where(back, s.w, s.x)))
        stalled = (refused & (d_d <= one_ulp**2)) | (accepted & (to_p <= one_ulp))
        status = jnp.where(accepted & (residual <= tol), CONVERGED, jnp.where(stalled, STALLED, RUNNING))
        status = jnp.where(first & ~finite, NOT_FINITE, status)
        new = State(
            x=where(on | back, v, p),
            trial=~(on | back),
            w=w,
            v=v,
            g=where(refused, s.g, g),
            f=jnp.where(refused, s.f, f),
            value=jnp.where(accepted, value, s.value),
            residual=residual,
            curvature=curvature,
            grown=s.grown | refused,
            t=jnp.where(accepted, following, jnp.where(back, 1, s.t)),
            status=status.astype(jnp.int32),
            steps=s.steps + 1,
        )
        if callback is not None:
            jax.debug.callback(callback, new.steps, new.value, new.residual)
        return new

    def runs(s: State) -> Any:
        return (s.status == RUNNING) & (s.steps < max_steps)

    def number(value: Any) -> jax.Array:
        return jnp.asarray(value, kind)

    zeros = jax.tree.map(jnp.zeros_like, start)
    return jax.lax.while_loop(
        runs,
        turn,
        State(
            x=start,
            trial=jnp.asarray(False),
            w=start,
            v=start,
            g=zeros,
            f=number(0),
            value=number(jnp.inf),
            residual=number(jnp.inf),
            curvature=number(1),
            grown=jnp.asarray(False),
            t=number(1),
            status=jnp.asarray(RUNNING, jnp.int32),
            steps=jnp.asarray(0, jnp.int32),
        ),
    )
