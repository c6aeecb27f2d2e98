"""Groups in a metric: one Newton step a step of the optimizer, from the norms of the last one, kept in its state.

    w_i = z_i/(1 + κτ_i),   κ = ρ′(r)/r,   r = ‖w_g‖                 (a stationary point of one group)

1/‖w(κ)‖ is linear in κ where all τ_i are equal, and concave else. Taken for its tangent at the κ of the last step,
(1 + κσ)/a, it makes the group one number: r = prox_ρ(a, σ), for every profile ρ. For L1 this is a Newton step for r on
an increasing concave function; at rest it stands still, at the stationary point of loss + R. With r and c = ρ′(r) of
the last step,

    d_i = r + cτ_i,  S_k = Σ |z_i|²/d_i^k,  T = Σ τ_i·|z_i|²/d_i³:    a = S_2^{3/2}/S_3,  σ = T/S_3,  S_2 = r·S_3 + c·T

so that two sums do, and a third one, Σ|z_i|²/τ_i² ≤ ρ′(0)², tells whether w_g = 0 is stationary.

Where the metric has one τ for each group (`adam_groups.py`), the proximal operator of ρ at the norm is all.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg._core import compiler, euclidean, numerics, partition, weights
from jaxreg._core.partition import Arrays, Grouping, Units
from jaxreg._core.regularizer import Regularizer
from jaxreg._core.structure import Groups, Parts, Scalar
from jaxreg._core.sums_on_gpu import Three, three_sums
from jaxreg._core.two_sums import total
from jaxreg._optax.leaves import side_by_side
from jaxreg._optax.newton_sums import OfGroups, inverse, share, terms
from jaxreg._rules.tree_penalty import TreePenalty
from jaxreg.penalties._group_metric import secular_prox
from jaxreg.penalties.l1 import L1


@functools.cache
def compiled() -> Callable[..., tuple[jax.Array, jax.Array]]:
    """(regularizer, z, τ, norms, η, beside) -> the point after the step and the norms of its groups, jitted."""

    def prox(reg: Regularizer, z: Arrays, step: Arrays, r: jax.Array, eta: jax.Array, beside: Any = ()) -> Any:
        return cast(Grouped, grouped(reg, z, beside)).prox(z, step, r, eta)

    return jax.jit(prox)


Again = Callable[[jax.Array], tuple[Any, Any]]  # norms -> (z, τ), made anew once these are known
SumsOf = Callable[[OfGroups], Three]  # the numbers of each group -> the sums of `terms`


class Grouped(NamedTuple):
    """A penalty in which groups, of one array or of several, stand beside terms of entries."""

    entries: Any  # the parts without the groups; of several arrays a tuple
    groups: Groups

    @property
    def where(self) -> tuple[int, ...] | Units:
        """The axes along which the groups lie, or where the units do."""
        return cast(tuple[int, ...] | Units, self.groups.partition)

    def shape(self, p: Arrays) -> tuple[Any, ...]:
        """The shape of the norms."""
        return partition.shape(partition.first(p).shape, self.where)

    def group_size(self, p: Arrays) -> Any:
        return partition.most(p, self.where)

    def norms(self, p: Arrays) -> jax.Array:
        return jax.jit(euclidean.norms, static_argnums=1)(p, self.where)

    def last_norms(self, kept: Any, p: Arrays) -> jax.Array:
        """The norms that the state keeps; those of p where it is the state of another penalty."""
        return kept if getattr(kept, "shape", None) == self.shape(p) else self.norms(p)

    def slope_over(self, r: jax.Array) -> jax.Array:
        """ρ′(r)/r, and 0 at 0."""
        return jnp.where(r > 0, self._slope(r) / jnp.where(r > 0, r, 1), 0)

    def slope(self, p: Arrays, r: jax.Array) -> Any:
        """|∂R/∂p_i| with ‖p_g‖ = r, the least one at a kink: 0 where p_i is 0."""
        ratio = self.slope_over(r)

        def of_array(groups: Grouping, entries: Parts, p: jax.Array) -> jax.Array:
            a = jnp.abs(p)
            l1, l2 = (0 if c is None else jnp.asarray(c, a.dtype) for c in (entries.l1, entries.l2))
            return jnp.where(a == 0, 0, l1 + a * (2 * l2 + partition.spread(ratio, groups)))

        return partition.each(of_array, self.where, self.entries, p)

    @property
    def l2_of_all(self) -> list[Any]:
        """[l2] if it is one number, in all arrays the same; [] else, because it makes the steps differ."""
        first, *others = self.of_arrays
        is_one = np.ndim(first.l2) == 0 and all(part.l2 is first.l2 for part in others)
        return [first.l2] if is_one else []

    @property
    def of_arrays(self) -> tuple[Parts, ...]:
        return self.entries if isinstance(self.entries, tuple) else (self.entries,)

    def mean_slope(self, p: Arrays, r: jax.Array) -> jax.Array:
        """The root mean square of `slope` over each group; without L1 it follows from the norms alone."""
        if self.l2_of_all and all(part.l1 is None for part in self.of_arrays):
            (l2,) = self.l2_of_all
            total = jnp.where(r > 0, (0 if l2 is None else 2 * jnp.asarray(l2, r.dtype) * r) + self._slope(r), 0)
        else:
            total = euclidean.norms(self.slope(p, r), self.where)
        return total / numerics.root_of(self.group_size(p), r.dtype)

    def before(self, z: Arrays, step: Arrays) -> tuple[Any, Any]:
        """The point and the step sizes of which the groups have their proximal operator."""

        def of_array(_: Grouping, entries: Parts, z: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
            return entries.before_the_rest(z, step)

        return cast(Any, partition.results(of_array, self.where, self.entries, z, step))

    def prox(
        self, z: Arrays, step: Arrays, r: jax.Array, eta: jax.Array, again: Again | None = None
    ) -> tuple[Any, jax.Array]:
        """Return the point after the step and the norms of its groups, given those before it.

        On a CPU several sums over an array cost more than the Newton steps that are left out, so that there the group
        lasso takes all of them.
        """
        z, tau = self.before(z, step)
        dtype = partition.first(tau).dtype
        eta = jnp.asarray(eta, dtype)

        def one_step(z: Arrays, tau: Arrays, r: jax.Array, eta: jax.Array) -> tuple[Any, jax.Array]:
            return self.one_step(z, tau, r, eta, again)

        if not isinstance(self.groups.penalty, L1):
            return one_step(z, tau, r, eta)
        c = jnp.asarray(self.groups.weight * self.groups.penalty.l1, dtype)

        def exact(z: Arrays, tau: Arrays, r: jax.Array, eta: jax.Array) -> tuple[Any, jax.Array]:
            if again is not None:  # what z and τ have in common would be kept in memory
                _, tau = self.before(*again(r))
            return secular_prox(z, tau, c, self.where)

        return compiler.by_device(exact, one_step, z, tau, r, eta)

    def prox_by_group(
        self, z: Arrays, step: Arrays, r: jax.Array, eta: jax.Array, again: Again
    ) -> tuple[Any, jax.Array]:
        """The same for one step a group, in the shape of the norms: exact, for every profile."""
        if not self.l2_of_all:
            return self.prox(z, step, r, eta, again)
        z, tau = self.before(z, step)
        tau = partition.numbers(tau, self.where)
        size = numerics.root_of(self.group_size(z), tau.dtype)
        a = jnp.minimum(self._norms_near(z, r + jnp.asarray(eta, tau.dtype) * size), jnp.finfo(tau.dtype).max / 8)
        new = self.groups.penalty.prox(a, self.groups.weight * tau)
        z, _ = self.before(*again(new))
        ratio = jnp.where(a > 0, new / jnp.where(a > 0, a, 1), 0 * a)
        return jax.tree.map(jnp.multiply, z, partition.spread(ratio, self.where)), new

    def _norms_near(self, x: Arrays, unit: jax.Array) -> jax.Array:
        """‖x_g‖ by one sum, for norms up to about `unit`; 0 far below the rounding of that (float32: 10⁻¹⁹ of it)."""
        unit = jnp.where(unit > 0, jnp.maximum(unit, jnp.finfo(unit.dtype).tiny), 1)
        y = jax.tree.map(jnp.multiply, x, partition.spread(1 / unit, self.where))
        return unit * jnp.sqrt(total(jax.tree.map(numerics.real_product, y, y), self.where))

    def one_step(
        self,
        z: Arrays,
        tau: Arrays,
        r: jax.Array,
        eta: jax.Array,
        again: Again | None = None,
        sums: SumsOf | None = None,
    ) -> tuple[Any, jax.Array]:
        """The same for a point and step sizes from `before`, by one Newton step; `sums` may take the sums otherwise."""

        def three(of_groups: OfGroups) -> Any:
            """By `sums`, whose slices are no formula to differentiate: each would have a derivative of its own."""
            whole = self._sums(z, tau, of_groups)
            return map(numerics.exact, sums(jax.lax.stop_gradient(of_groups)), whole) if sums else whole

        new = self._next(*self._model(r, eta, three), r)
        if again is not None:
            z, tau = self.before(*again(new))
        slope, positive = self._slope(new), ~(new <= 0)  # nan too

        def moved(groups: Grouping, z: jax.Array, tau: jax.Array) -> jax.Array:
            is_positive = partition.spread(positive, groups)
            rising = partition.spread(new, groups) * inverse(tau)
            all_of_it = jnp.where(is_positive, rising + partition.spread(slope, groups), 1)
            return z * jnp.where(is_positive, rising / all_of_it, 0)

        return partition.each(moved, self.where, z, tau), new

    def _next(self, a: jax.Array, sigma: jax.Array, pull: jax.Array, r: jax.Array) -> jax.Array:
        new = self.groups.penalty.prox(a, self.groups.weight * sigma)
        zero_is_stationary = pull <= 1
        # From far above the root the tangent may reach 0 where the function does not.
        new = jnp.where((new == 0) & ~zero_is_stationary & (self._slope(0 * r) > 0), r / 2, new)
        return jnp.where(zero_is_stationary, 0, new) if self._rho.convex else new

    @property
    def _rho(self) -> Scalar:
        return cast(Scalar, self.groups.penalty.scalar())

    def _slope(self, r: jax.Array) -> jax.Array:
        """ω·ρ′(r); at 0 the derivative from above."""
        with warnings.catch_warnings(action="ignore"):  # of L0, whose slope is 0: here that is meant
            return self.groups.weight * self._rho.slope(r)

    def _model(self, r: jax.Array, eta: jax.Array, sums: SumsOf) -> Three:
        """a, σ, and the pull: Σ|z_i|²/τ_i² over ρ′(0)².

        a and σ do not depend on a common factor of r and c. With c alone for groups that were 0, and with 1 for c where
        that is 0 too, quotients z_i/d_i are about 1 at rest.
        """
        c, at_zero = self._slope(r), self._slope(jnp.zeros_like(r))
        unit = jax.lax.stop_gradient(jnp.where(r > 0, r, jnp.where(c > 0, c * eta, eta)))
        unit = jnp.where(unit > 0, unit, 1)
        r = jnp.where((r == 0) & (c == 0), unit, r)
        per_c = jnp.where(c > 0, 1 / jnp.where(c > 0, c, 1), 0)
        third, weighted, pull = sums(OfGroups(r, c, unit, per_c, at_zero))
        positive = third > 0
        safe = jnp.where(positive, third, 1)
        second = jnp.where(positive, (r * third + c * weighted) / unit, 1)
        a = jnp.where(positive, unit * second * jnp.sqrt(second) / safe, 0 * third)
        return a, jnp.where(positive, weighted / safe, 0), pull

    def _sums(self, z: Arrays, tau: Arrays, of_groups: OfGroups) -> Three:
        def of_array(groups: Grouping, z: jax.Array, tau: jax.Array) -> Three:
            spread = (partition.spread(number, groups) for number in of_groups)
            per_tau = inverse(tau)
            x = jnp.abs(z) * per_tau
            return terms(x, x * share(tau.dtype), per_tau, OfGroups(*spread))

        return three_sums(cast(Any, partition.results(of_array, self.where, z, tau)), self.where)


def grouped(reg: Regularizer | None, param: Arrays, beside: Sequence[tuple[Any, Any]] = ()) -> Grouped | None:
    """The groups along axes of a penalty, beside terms of entries, or None if it is of another form.

    `beside` has, of groups in several arrays, l1 and l2 of what is beside them in each.
    """
    parts = Parts() if reg is None else reg.parts()
    if not parts.have_prox or parts.intervals or len(parts.rest) != 1:
        return None
    groups = parts.rest[0].by_groups(param)
    if groups is None or isinstance(groups.partition, partition.Labels):
        return None
    weight = jnp.asarray(groups.weight, numerics.real_dtype(numerics.promote(partition.first(param))))
    if weight.ndim:
        weight, excluded = weights.split(weight)
        parts = parts + Parts(excluded=excluded)
    groups = dataclasses.replace(groups, weight=weight)
    inside = groups.penalty.parts()
    if inside.is_elastic:  # Σ‖w_g‖² = Σ|w_i|², so L2 is a term of entries
        parts = parts + Parts(l2=inside.l2) * groups.weight if inside.l2 is not None else parts
        groups = dataclasses.replace(groups, penalty=L1(0.0 if inside.l1 is None else inside.l1))
    entries = dataclasses.replace(parts, rest=())
    return Grouped(tuple(entries + Parts(*numbers) for numbers in beside) or entries, groups)


def norms(params: Any, reg: TreePenalty) -> Any:
    """The norms of all groups of the parameters, None for leaves without groups and where there are none.

    For a tree without leaves, as `optax.tree.map_params` has, one array: it stands for whatever they are.
    """
    if not jax.tree.leaves(params):
        return jnp.zeros((), jnp.float32)
    rows, treedef, joints = side_by_side("proximal", params, params, reg)
    found = [
        None if (form := grouped(row.regularizer, row.param)) is None else form.norms(numerics.promote(row.param))
        for row in rows
    ]
    for joint in joints:  # beside the first of its leaves
        entries = joint.blocks([row.param for row in rows])
        form = grouped(joint.group, entries)
        found[joint.positions[0]] = None if form is None else form.norms(entries)
    return treedef.unflatten(found) if any(x is not None for x in found) else None
