"""Sums of norms of nested groups: one proximal operator after the other, from the finer groups to the coarser.

If h is positively homogeneous and convex, the best direction of w for h(w) + ½‖w − z‖² is that of prox_h(z) at every
norm of w, so that a function of the norm may follow, whatever it is. So all terms but the last are norms, without a
profile (Jenatton, Mairal, Obozinski and Bach, *Proximal methods for hierarchical sparse coding*, JMLR, 2011).
"""

import functools
import itertools
from typing import Any

import jax

from jaxreg._core.partition import refines
from jaxreg._core.structure import Parts


def in_order(parts: Parts, z: jax.Array) -> list[Any] | None:
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
