"""Sums whose proximal operator is that of their terms, one after the other.

Norms of nested groups, from the finer groups to the coarser. If h is positively homogeneous and convex, the best
direction of w for h(w) + ½‖w − z‖² is that of prox_h(z) at every norm of w, so that a function of the norm may follow,
whatever it is. So all terms but the last are norms, without a profile (Jenatton, Mairal, Obozinski and Bach, *Proximal
methods for hierarchical sparse coding*, JMLR, 2011).

A chain, then the same convex penalty of every entry. Its proximal operator is a rising function, and keeps what is
equal equal, so that a subgradient of the chain at a point is one at the point after it too (Friedman, Hastie, Höfling
and Tibshirani, *Pathwise coordinate optimization*, Ann. Appl. Stat., 2007; Yu, *On decomposing the proximal map*,
NeurIPS, 2013).
"""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import numpy as np

from jaxreg._core.partition import refines
from jaxreg._core.structure import Parts, Reach


def prox(parts: Parts, z: jax.Array, step: jax.Array) -> jax.Array | None:
    """The proximal operator of a sum, or None if it is of another form."""
    if parts.have_prox:
        return parts.prox(z, step)
    if step.ndim:
        return None
    if _is_chain_and_entries(parts):
        return dataclasses.replace(parts, rest=()).prox(parts.rest[0].prox(z, step), step)
    terms = _in_order(parts, z)
    return None if terms is None else dataclasses.replace(parts, rest=tuple(terms)).prox(z, step)


def _is_chain_and_entries(parts: Parts) -> bool:
    """Whether one chain stands beside penalties of entries that are the same for all of them."""
    is_chain = len(parts.rest) == 1 and parts.rest[0].reach is Reach.CHAIN
    numbers = jax.tree.leaves((parts.l1, parts.l2, parts.nonnegative, parts.excluded, parts.intervals))
    return is_chain and all(np.ndim(number) == 0 for number in numbers)


def _in_order(parts: Parts, z: jax.Array) -> list[Any] | None:
    """The terms of the rest from the finest groups to the coarsest, or None if the sum is of another form."""
    forms = [(term, term.by_groups(z)) for term in parts.rest]
    if parts.intervals or any(form is None for _, form in forms):
        return None

    def before(a: Any, b: Any) -> int:
        finer, coarser = (refines(p[1].partition, q[1].partition, z.shape) for p, q in ((a, b), (b, a)))
        return (coarser - finer) or (not _is_norm(a[1])) - (not _is_norm(b[1]))

    forms.sort(key=functools.cmp_to_key(before))
    for a, b in itertools.pairwise(forms):
        if not (_is_norm(a[1]) and refines(a[1].partition, b[1].partition, z.shape)):
            return None
    return [term for term, _ in forms]


def _is_norm(form: Any) -> bool:
    """Whether ρ(‖w_g‖) is a multiple of ‖w_g‖."""
    parts = form.penalty.parts()
    return bool(parts.is_elastic and parts.l2 is None and parts.excluded is None)
