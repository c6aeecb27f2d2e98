"""Derivatives of the minimum in all that it depends on, from the equation that holds there and not from the way to it.

    w = prox(z; θ),   z = w − γ∇f(w, θ)

With D = ∂prox/∂z, H = ∇²f and c = ∂prox/∂θ·θ̇ at the minimum, differentiate both equations:

    ẇ = Dż + c,   ż = (I − γH)ẇ − γ·∂∇f/∂θ·θ̇   ⇒   (I − (I − γH)D)ż = (I − γH)c − γ·∂∇f/∂θ·θ̇

D is symmetric, for a proximal operator is a gradient. Multiplied by it the system is symmetric and, at a minimum, not
negative, so that conjugate gradients solve it; they stay where D is not 0, on the support, and what they leave open,
the null space of D, is no part of ẇ. The memory is that of a few vectors however long the way was.

The value F = f + R changes with θ as f + M/γ does at the w and z of the minimum, where M is the Moreau envelope

    M(z, θ) = min_w γR(w, θ) + ½‖w − z‖²

(the envelope theorem, also for a set that moves with θ, whose R is 0 and whose M is half the squared distance).

Bertrand et al., *Implicit differentiation for fast hyperparameter selection in non-smooth convex learning*, JMLR 2022.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from jaxreg._solver.problem import Numbers, Problem
from jaxreg._solver.vectors import Vector, dot, dtype, minus, plus, where

_MOST = 1000  # iterations of conjugate gradients


def differentiable(problem: Problem, w: Vector, step: Any, theta: Numbers) -> tuple[Vector, jax.Array]:
    """The minimum w that was found, and its value, with their derivatives in θ."""

    @jax.custom_jvp
    def minimum(w: Vector, step: Any, theta: Numbers) -> Vector:
        del step, theta
        return w

    @functools.partial(minimum.defjvp, symbolic_zeros=True)
    def _minimum_jvp(primals: Any, tangents: Any) -> Any:
        w, step, theta = primals
        w, step = minimum(w, step, theta), jax.lax.stop_gradient(step)  # of w there may be further derivatives
        along = _along(theta, tangents[2])
        return w, _tangent(problem, w, step, theta, along)

    @jax.custom_jvp
    def value(w: Vector, step: Any, theta: Numbers) -> jax.Array:
        del step
        return problem.value(w, theta)

    @functools.partial(value.defjvp, symbolic_zeros=True)
    def _value_jvp(primals: Any, tangents: Any) -> Any:
        w, step, theta = primals
        z = plus(w, -step, problem.gradient(w, theta))

        def with_envelope(theta: Numbers) -> jax.Array:
            p = problem.prox(z, step, theta)
            off = minus(p, z)
            return problem.loss(w, theta) + problem.penalty(p, theta) + dot(off, off) / (2 * step)

        return value(w, step, theta), _along(theta, tangents[2])(with_envelope)

    w, step = jax.lax.stop_gradient((w, step))
    w = minimum(w, step, theta)
    return w, value(w, step, theta)


Along = Callable[[Callable[[Numbers], Any]], Any]  # function of θ -> its derivative along θ̇


def _along(theta: Numbers, tangents: Any) -> Along:
    """Derivatives along the tangents that are not known to be 0: those of the data are not computed if they rest."""
    leaves, dots = jax.tree.leaves(theta), jax.tree.leaves(tangents)
    moving = [i for i, tangent in enumerate(dots) if not isinstance(tangent, SymbolicZero)]

    def derivative(function: Callable[[Numbers], Any]) -> Any:
        def of_moving(*values: Any) -> Any:
            given = dict(zip(moving, values, strict=True))
            numbers = [given.get(i, leaf) for i, leaf in enumerate(leaves)]
            return function(jax.tree.unflatten(jax.tree.structure(theta), numbers))

        if not moving:
            return jax.tree.map(jnp.zeros_like, function(theta))
        return jax.jvp(of_moving, [leaves[i] for i in moving], [dots[i] for i in moving])[1]

    return derivative


def _tangent(problem: Problem, w: Vector, step: Any, theta: Numbers, along: Along) -> Vector:
    """ẇ."""
    gradient, hessian = jax.linearize(lambda w: problem.gradient(w, theta), w)
    z = plus(w, -step, gradient)
    jacobian = jax.linearize(lambda z: problem.prox(z, step, theta), z)[1]

    def forward(u: Vector) -> Vector:
        return plus(u, -step, hessian(u))  # (I − γH)u

    def matrix(u: Vector) -> Vector:
        s = jacobian(u)
        return jacobian(minus(u, forward(s)))

    c = along(lambda theta: problem.prox(z, step, theta))
    right = jacobian(plus(forward(c), -step, along(lambda theta: problem.gradient(w, theta))))
    u = jax.lax.custom_linear_solve(matrix, right, _conjugate_gradients, symmetric=True)
    return jax.tree.map(jnp.add, jacobian(u), c)


def _conjugate_gradients(matrix: Callable[[Vector], Vector], b: Vector) -> Vector:
    """The solution of least norm; nan if there is none, as where the minimum is not unique and moves on a line."""
    epsilon, b_b = float(jnp.finfo(dtype(b)).eps), dot(b, b)

    def turn(state: Any) -> Any:
        u, rest, p, r_r, count = state
        q = matrix(p)
        alpha = r_r / dot(p, q)
        u, rest = plus(u, alpha, p), plus(rest, -alpha, q)
        new = dot(rest, rest)
        return u, rest, plus(rest, new / r_r, p), new, count + 1

    def runs(state: Any) -> Any:
        return (state[3] > epsilon**1.5 * b_b) & (state[4] < _MOST)

    zeros = jax.tree.map(jnp.zeros_like, b)
    u = jax.lax.while_loop(runs, turn, (zeros, b, b, b_b, jnp.asarray(0, jnp.int32)))[0]
    rest = minus(b, matrix(u))
    solved = dot(rest, rest) <= epsilon**0.5 * b_b
    return where(solved, u, jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), u))
