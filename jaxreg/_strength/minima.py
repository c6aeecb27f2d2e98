"""minima: the minima of many strengths, one after the other, without the features that a screen shows to be 0.

At strength c a feature is 0 if its slopes are too small for c. Before c is solved they are known at the last strength
c′, and rarely change by more than c′ − c: the strong rule leaves out what was below 2c − c′. It may be wrong, so
the slopes of all features are looked at afterwards, and who should have been there joins in. What is left out then has
w = 0 and slopes that leave it there, so its part of the residual is 0, and the residual is that of the problem of all.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg._core import checks
from jaxreg._core.regularizer import Regularizer, Scaled, Sum
from jaxreg._solver.minimize import Minimum, minimize
from jaxreg._strength.coefficient_max import multiple_max
from jaxreg._strength.path import grid_of
from jaxreg.penalties import L1, L1L2, L2, Group, NonNegative

_NARROW = 512  # features from which on a screen is worth its programs


def minima(
    loss: Callable[..., Any],
    reg: Regularizer,
    coefficients: Any,
    params: Any,
    x: Any,
    *args: Any,
    tol: Any = 1e-5,
    max_steps: Any = 10_000,
) -> Minimum:
    """Return the minima of `loss(w, x, *args) + c * reg(w)` for many c: a path over many features.

    From the strongest penalty on, each minimum starts at the last one, and takes the columns of x alone that the
    sequential strong rule leaves. Afterwards the slopes of all features are looked at, and where the rule was wrong the
    strength is solved again: the minima, and their certificates, are those of all features. Up to 512 features there is
    no screen. From then on the widths are powers of two, for each of which a program is compiled.

    For other losses and penalties, for folds and for small problems `jaxreg.path` trains all at once.

    Args:
        loss: `(w, x, *args) -> scalar`, convex, which sees w and x through `x @ w` alone, so that a column of zeros is
            no feature: least squares, logistic, Poisson.
        reg: one in which a row of w, or an entry, has a penalty of its own: `L1`, `L1L2`, `Group(L1(...), axis=1)`,
            their multiples, and one of them plus `L2` or `NonNegative`.
        coefficients: as in `jaxreg.path`, a sequence, or one number c for 50 from c down to c/1000.
        params: the array to start at, of shape (p,), or (p, k) for k targets or classes.
        x: (..., p), the features on its last axis.
        args: trees of arrays and numbers.
        tol, max_steps: as in `jaxreg.minimize`, for each strength.

    Returns:
        A `Minimum` whose leaves have the strengths on axis 0, in the order of `coefficients`. Look at `converged`.

    Raises:
        TypeError: it is called inside of `jax.jit`; what it compiles depends on what it finds.
        ValueError: the first axis of `params` is not the last one of `x`.
        NotImplementedError: the penalty ties rows to each other.

    Example:
        >>> import jax.numpy as jnp, jaxreg, numpy as np
        >>> x, y = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), jnp.array([2.0, 0.1, 2.0])
        >>> def loss(w, x, y):
        ...     return 0.5 * jnp.sum((x @ w - y) ** 2)
        >>> found = jaxreg.minima(loss, jaxreg.L1(1.0), [4.0, 1.0, 0.0], jnp.zeros(2), x, y)
        >>> np.asarray(found.params).round(3) + 0.0
        array([[0.   , 0.   ],
               [1.5  , 0.   ],
               [1.967, 0.067]], dtype=float32)
        >>> bool(found.converged.all())
        True

    References:
        Tibshirani et al., *Strong rules for discarding predictors in lasso-type problems*, JRSS B, 2012.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((reg, coefficients, params, x, args))):
        raise TypeError(
            "`minima` compiles programs for what it finds, so that it is not called inside of `jax.jit` or `jax.vmap`. "
            "There write `jax.lax.scan` of `jaxreg.minimize`, or `jaxreg.path(..., start=...)`."
        )
    grid = grid_of("minima", coefficients)
    w, x = (jnp.asarray(a, jnp.result_type(a)) for a in (params, x))
    if w.ndim == 0 or x.ndim == 0 or w.shape[0] != x.shape[-1]:
        raise ValueError(
            f"`minima(params=..., x=...)`: the first axis of `params` is the last one of `x`, the features, got shapes "
            f"{w.shape} and {x.shape}."
        )
    p = len(w)

    @jax.jit
    def solve(c: Any, w: Any, x: Any, chosen: Any, *args: Any) -> Minimum:
        columns = jnp.take(x, chosen, axis=-1, mode="fill", fill_value=0)
        start = jnp.take(w, chosen, axis=0, mode="fill", fill_value=0)
        found = minimize(loss, c * reg, start, columns, *args, tol=tol, max_steps=max_steps)
        full = jnp.zeros_like(w).at[chosen].set(found.params, mode="drop")
        return Minimum(full, found.value, found.residual, found.steps, found.status)

    @jax.jit
    def bounds(w: Any, x: Any, *args: Any) -> Any:
        g = jax.grad(loss)(w, x, *args)
        return jax.vmap(lambda row: multiple_max(reg, row[None], held=True))(g)  # of each feature: 0 from there on

    _check_rows(reg, lambda: jax.eval_shape(bounds, w, x, *args), w.ndim)
    screens = p > _NARROW
    needed = np.asarray(bounds(w, x, *args)) if screens else np.zeros(p)
    before, found = np.max(needed, initial=0), {}
    for i in np.argsort(-grid, kind="stable"):
        c = grid[i]
        active = np.asarray(w != 0).reshape(p, -1).any(axis=1)
        kept = active | ~(needed < 2 * c - before) if screens else np.ones(p, bool)
        while True:
            found[i] = solve(c, w, x, _filled_up(np.flatnonzero(kept), p), *args)
            w = found[i].params
            if kept.all():
                break
            needed = np.asarray(bounds(w, x, *args))
            if not (missed := ~kept & ~(needed <= c)).any():
                break
            kept |= missed
        if screens and kept.all():
            needed = np.asarray(bounds(w, x, *args))
        before = c
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(found[i] for i in range(len(grid))))


def _filled_up(chosen: Any, p: int) -> Any:
    """The indices, filled up by p, which is no feature, to a width of which there are few."""
    width = min(p, max(_NARROW, 1 << max(0, len(chosen) - 1).bit_length()))
    return np.concatenate([chosen, np.full(width - len(chosen), p)])


def _check_rows(reg: Any, ask: Callable[[], Any], rank: int) -> None:
    """That each row has a penalty of its own, of which it can be asked where it begins to be 0."""
    known = _of_rows(reg, rank)
    if known:
        try:
            ask()
        except NotImplementedError:
            known = False
    if not known:
        raise NotImplementedError(
            "`minima` leaves out features of which each has a penalty of its own: L1, L1L2, or `Group(L1(...), "
            f"axis=1)` of shape (features, targets), with L2 or NonNegative, got `{checks.short(reg)}` for `params` of "
            f"rank {rank}. For others write `jaxreg.path(..., start=...)` with `jaxreg.minimize` as in its example."
        )


def _of_rows(penalty: Any, rank: int) -> bool:
    match penalty:
        case L1() | L1L2() | L2() | NonNegative():
            return True
        case Scaled():
            return _of_rows(penalty.penalty, rank)
        case Sum():
            return all(_of_rows(term, rank) for term in penalty.terms)
        case Group():
            return rank == 2 and penalty.axis in (1, -1, (1,), (-1,)) and penalty.groups is None
    return False
