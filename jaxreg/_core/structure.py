"""What a penalty says about its form: three questions, and sums, structures, optimizers and reports ask no others.

parts()     the terms that merge in closed form:   l1·Σ|w_i| + l2·Σ|w_i|² + [w ≥ 0] + the rest
scalar()    ρ where R(w) = Σ ρ(|w_i|), so that it can act on norms and singular values; None elsewhere
reach       which entries the proximal operator looks at together
"""

import abc
import dataclasses
import enum
from typing import Any

import jax

from jaxreg._core.struct import Struct


class Reach(enum.IntEnum):
    """Which entries the proximal operator looks at together; that of a sum is the widest of its terms'."""

    ENTRY = 0  # each entry alone
    GROUP = 1  # groups, which it multiplies by factors ≥ 0: soft thresholds and signs may come before it
    ARRAY = 2  # anything


@dataclasses.dataclass(frozen=True)
class Parts:
    """The terms of a penalty that merge in closed form, and the others; None where there is no such term."""

    l1: Any = None
    l2: Any = None
    nonnegative: bool = False
    rest: tuple[Any, ...] = ()

    @property
    def is_elastic(self) -> bool:
        """Whether it is l1·Σ|w| + l2·Σ|w|² and nothing else."""
        return not self.rest and not self.nonnegative

    def __add__(self, other: "Parts") -> "Parts":
        nonnegative = self.nonnegative or other.nonnegative
        return Parts(_sum(self.l1, other.l1), _sum(self.l2, other.l2), nonnegative, self.rest + other.rest)

    def __mul__(self, factor: Any) -> "Parts":
        l1, l2 = (None if c is None else factor * c for c in (self.l1, self.l2))
        return Parts(l1, l2, self.nonnegative, tuple(factor * term for term in self.rest))


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
        """ρ′(a) for a > 0. At a = 0 the value does not matter: the subgradient of least norm is 0 there."""


class ScalarSum(Struct, Scalar):
    """Σ_k factor_k·ρ_k: the ρ of sums and multiples."""

    terms: tuple[Any, ...]  # of pairs (factor, ρ)

    @property
    def convex(self) -> bool:
        return all(rho.convex for _, rho in self.terms)

    def profile(self, a: jax.Array) -> jax.Array:
        return sum((jax.numpy.asarray(factor, a.dtype) * rho.profile(a) for factor, rho in self.terms), start=0 * a)

    def slope(self, a: jax.Array) -> jax.Array:
        return sum((jax.numpy.asarray(factor, a.dtype) * rho.slope(a) for factor, rho in self.terms), start=0 * a)
