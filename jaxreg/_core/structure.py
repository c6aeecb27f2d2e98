"""What a penalty says about its form: four questions. Sums, structures, optimizers and reports ask no others.

parts()       the terms that merge in closed form with those of other penalties, and the rest
scalar()      ρ if R(w) = Σ ρ(|w_i|), so that it can act on norms and singular values; otherwise None
by_groups(x)  ρ, the weights and the groups if R(w) = Σ ω_g·ρ(‖w_g‖) over groups of entries; otherwise None
reach         which entries the proximal operator looks at together
"""

import abc
import dataclasses
import enum
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg._core import checks, numerics, weights
from jaxreg._core.partition import Grouping, Partition
from jaxreg._core.struct import Struct


class Reach(enum.IntEnum):
    """Which entries the proximal operator looks at together; for a sum the widest reach of its terms."""

    ENTRY = 0  # each entry alone
    GROUP = 1  # groups of which only moduli count, and 0 is best: a sign or a soft threshold may come before it
    CHAIN = 2  # neighbours, of which only the order counts: a rising function of all entries alike may come after it
    ARRAY = 3  # anything


class Indicator:
    """Marks the penalties that are 0 in a set and ∞ outside."""


class OfNorms(abc.ABC):
    """A penalty Σ_g ρ(‖w_g‖) that can have weights of the groups."""

    penalty: Any

    @abc.abstractmethod
    def partition(self, ndim: int) -> Partition:
        """The groups of the entries of an array."""

    @abc.abstractmethod
    def value_of(self, weights: jax.Array | None, x: jax.Array) -> jax.Array:
        """Σ_g weights_g·ρ(‖x_g‖), the weights in the shape of the norms."""

    @abc.abstractmethod
    def prox_of(self, weights: jax.Array | None, z: jax.Array, step: jax.Array) -> jax.Array:
        """The proximal operator of `value_of(weights, ·)`."""


@dataclasses.dataclass(frozen=True)
class Parts:
    """R(w) = Σ l1·|w_i| + Σ l2·|w_i|² + nonnegative·[w ≥ 0] + Σ excluded·[w_i = 0] + Σ intervals + Σ rest.

    A missing term is None or (). `l1`, `l2` and `excluded` are numbers, or arrays that broadcast against w. A bracket
    is 0 where it holds and ∞ elsewhere, so any positive factor is the same constraint, and 0 is none. `intervals` are
    constraints that keep each entry in an interval of its own; `rest` are all other penalties.
    """

    l1: Any = None
    l2: Any = None
    nonnegative: Any = None
    excluded: Any = None
    intervals: tuple[Any, ...] = ()
    rest: tuple[Any, ...] = ()

    @property
    def is_elastic(self) -> bool:
        """Whether R(w) = Σ l1·|w_i| + Σ l2·|w_i|² but for entries that are excluded."""
        return self.nonnegative is None and not self.intervals and not self.rest

    @property
    def is_l2(self) -> bool:
        """Whether R(w) = l2·Σ|w_i|²."""
        return self.is_elastic and self.l1 is None

    @property
    def is_l2_and_one_more(self) -> bool:
        """Whether R(w) = Σ l2·|w_i|² + P(w), with a P for which there may be more to say than for the sum."""
        alone = self.l1 is None and self.nonnegative is None and self.excluded is None and not self.intervals
        return alone and len(self.rest) == 1

    @property
    def have_weights(self) -> bool:
        """Whether a number is an array, of which each entry has its own: they broadcast against w as it is here."""
        return any(np.ndim(c) > 0 for c in (self.l1, self.l2, self.excluded))

    @property
    def is_interval(self) -> bool:
        """Whether R keeps each entry in an interval and does nothing else."""
        return self.l1 is None and self.l2 is None and self.excluded is None and not self.rest

    @property
    def have_prox(self) -> bool:
        """Whether the sign, the soft threshold, the rest and the intervals, one after the other, are the prox of R.

        For entries or groups of which only a norm counts, the sign and the soft threshold of z give the best direction
        at every norm, and the norm is left to the rest. For sets of sparse arrays they give the best value of each
        entry that stays, which saves |w_i|²/(2τ_i) of w as it is then, and the largest of these stay. In one dimension,
        the minimizer of a convex function over an interval is its minimizer, moved into the interval.
        """
        if not self.rest:
            return True
        if len(self.rest) > 1:
            return False
        (term,) = self.rest
        rho = term.scalar()
        if self.intervals and (rho is None or not rho.convex):
            return False
        if term.reach is Reach.GROUP:
            return True
        return self.l1 is None and ((self.nonnegative is None and self.excluded is None) or rho is not None)

    def prox(self, z: jax.Array, step: jax.Array) -> jax.Array:
        """Return the proximal operator of R, where `have_prox`."""
        w, step = self.before_the_rest(z, step)
        for term in (*self.rest, *self.intervals):
            w = term.prox(w, step)
        return w

    def before_the_rest(self, z: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(z′, τ′) of which the rest has its proximal operator: the sign, the soft threshold and L2."""
        l1, l2, excluded = (weights.broadcast(c, z.shape) for c in (self.l1, self.l2, self.excluded))
        w = z if excluded is None else weights.without_excluded(excluded, z)
        if self.nonnegative is not None:
            checks.real_only("NonNegative", w)
            w = jnp.where((w <= 0) & (jnp.asarray(self.nonnegative) > 0), 0, w)
        if l1 is not None:
            w = numerics.soft_threshold(w, numerics.threshold(step, l1))
        if l2 is not None:  # the thresholds of z/s with the step τ/s are those of z with τ, over s
            w, step = without_l2(w, step, l2)
        return w, step

    def __add__(self, other: "Parts") -> "Parts":
        return Parts(
            _sum(self.l1, other.l1),
            _sum(self.l2, other.l2),
            _sum(self.nonnegative, other.nonnegative),
            _sum(self.excluded, other.excluded),
            self.intervals + other.intervals,
            self.rest + other.rest,
        )

    def __mul__(self, factor: Any) -> "Parts":
        numbers = (self.l1, self.l2, self.nonnegative, self.excluded)
        intervals, rest = (tuple(factor * term for term in terms) for terms in (self.intervals, self.rest))
        l1, l2, nonnegative, excluded = (None if c is None else factor * c for c in numbers)
        return Parts(l1, l2, nonnegative, excluded, intervals, rest)


def weighted(parts: Parts, each: jax.Array) -> Parts:
    """The parts Σ l1·|w_i| + Σ l2·|w_i|² with a weight for each entry, ∞ for what is excluded."""
    finite, excluded = weights.split(each)
    l1, l2 = (None if c is None else finite * c for c in (parts.l1, parts.l2))
    return Parts(l1, l2, excluded=excluded)


def without_l2(z: jax.Array, step: jax.Array, l2: Any) -> tuple[jax.Array, jax.Array]:
    """(z′, τ′) with prox_τ(P + l2·Σ|w|²)(z) = prox_τ′P(z′)."""
    return z / (1 + 2 * numerics.threshold(step, l2)), numerics.shrunk_step(step, l2)


def _sum(a: Any, b: Any) -> Any:
    return b if a is None else a if b is None else a + b


class Scalar(abc.ABC):
    """ρ(a) for moduli a ≥ 0, with ρ(0) = 0 the least value, and its slope; both act entry by entry."""

    @property
    def convex(self) -> bool:
        """Whether ρ is known to be convex."""
        return False

    @abc.abstractmethod
    def profile(self, a: jax.Array) -> jax.Array:
        """ρ(a)."""

    @abc.abstractmethod
    def slope(self, a: jax.Array) -> jax.Array:
        """ρ′(a). At 0 the subgradient of least norm is 0 whatever the value; the derivative is the curvature there."""


class ScalarSum(Struct, Scalar):
    """Σ_k factor_k·ρ_k: the ρ of sums and multiples."""

    terms: tuple[Any, ...]  # of pairs (factor, ρ)

    @property
    def convex(self) -> bool:
        return all(rho.convex for _, rho in self.terms)

    def profile(self, a: jax.Array) -> jax.Array:
        return sum((numerics.multiple(factor, rho.profile(a)) for factor, rho in self.terms), jnp.zeros_like(a))

    def slope(self, a: jax.Array) -> jax.Array:
        return sum((numerics.multiple(factor, rho.slope(a)) for factor, rho in self.terms), jnp.zeros_like(a))


@dataclasses.dataclass(frozen=True)
class Groups:
    """R(w) = Σ_g ω_g·ρ(‖w_g‖) over groups of entries."""

    penalty: Any  # of entries: ρ
    weight: Any  # ω: a number, or an array in the shape of the norms; ∞ excludes
    partition: Grouping


class Form:
    """The four questions, and the answers of a penalty of which nothing is known."""

    @property
    def reach(self) -> Reach:
        """Which entries the proximal operator looks at together."""
        return Reach.ARRAY

    def parts(self) -> Parts:
        """Return what of it merges in closed form with other terms."""
        return Parts(rest=(self,))

    def scalar(self) -> Scalar | None:
        """Return ρ if R(w) = Σ ρ(|w_i|), None if it is of another form."""
        return None

    def by_groups(self, x: Any) -> Groups | None:
        """Return the form for arrays like `x`, of which shape and dtype count, if R(w) = Σ_g ω_g·ρ(‖w_g‖)."""
        del x
        return None
