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
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg._core import compiler, euclidean, numerics, partition, weights
from jaxreg._core.regularizer import Regularizer
from jaxreg._core.structure import Groups, Parts, Scalar
from jaxreg._optax.leaves import side_by_side
from jaxreg._rules.tree_penalty import TreePenalty
from jaxreg.penalties._group_metric import secular_prox
from jaxreg.penalties.l1 import L1


@functools.cache
def compiled() -> Callable[..., tuple[jax.Array, jax.Array]]:
    """(regularizer, z, τ, norms, η) -> the point after the step and the norms of its groups, jitted."""

    def prox(reg: Regularizer, z: jax.Array, step: jax.Array, r: jax.Array, eta: jax.Array) -> Any:
        return cast(Grouped, grouped(reg, z)).prox(z, step, r, eta)

    return jax.jit(prox)


Again = Callable[[jax.Array], tuple[jax.Array, jax.Array]]  # norms -> (z, τ), made anew once these are known


class Grouped(NamedTuple):
    """A penalty in which groups stand beside terms of entries."""

    entries: Parts  # without the groups
    groups: Groups

    @property
    def axes(self) -> tuple[int, ...]:
        return cast(tuple[int, ...], self.groups.partition)

    def shape(self, p: jax.Array) -> tuple[Any, ...]:
        """The shape of the norms."""
        return partition.shape(p.shape, self.axes)

    def group_size(self, p: jax.Array) -> Any:
        return partition.most(p, self.axes)

    def norms(self, p: jax.Array) -> jax.Array:
        return jax.jit(euclidean.norms, static_argnums=1)(p, self.axes)

    def last_norms(self, kept: Any, p: jax.Array) -> jax.Array:
        """The norms that the state keeps; those of p where it is the state of another penalty."""
        return kept if getattr(kept, "shape", None) == self.shape(p) else self.norms(p)

    def slope(self, p: jax.Array, r: jax.Array) -> jax.Array:
        """|∂R/∂p_i| with ‖p_g‖ = r, the least one at a kink: 0 where p_i is 0."""
        a = jnp.abs(p)
        l1, l2 = (0 if c is None else jnp.asarray(c, a.dtype) for c in (self.entries.l1, self.entries.l2))
        ratio = jnp.where(r > 0, self._slope(r) / jnp.where(r > 0, r, 1), 0)
        return jnp.where(a == 0, 0, l1 + a * (2 * l2 + ratio))

    def mean_slope(self, p: jax.Array, r: jax.Array) -> jax.Array:
        """The root mean square of `slope` over each group; without L1 it follows from the norms alone."""
        l2 = self.entries.l2
        if self.entries.l1 is None and np.ndim(l2) == 0:
            total = jnp.where(r > 0, (0 if l2 is None else 2 * jnp.asarray(l2, r.dtype) * r) + self._slope(r), 0)
        else:
            total = euclidean.norms(self.slope(p, r), self.axes)
        return total / numerics.root_of(self.group_size(p), r.dtype)

    def prox(
        self, z: jax.Array, step: jax.Array, r: jax.Array, eta: jax.Array, again: Again | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Return the point after the step and the norms of its groups, given those before it.

        On a CPU several sums over an array cost more than the Newton steps that are left out, so that there the group
        lasso takes all of them.
        """
        z, tau = self.entries.before_the_rest(z, step)
        eta = jnp.asarray(eta, tau.dtype)

        def one_step(z: jax.Array, tau: jax.Array, r: jax.Array, eta: jax.Array) -> tuple[jax.Array, jax.Array]:
            return self.one_step(z, tau, r, eta, again)

        if not isinstance(self.groups.penalty, L1):
            return one_step(z, tau, r, eta)
        c = jnp.asarray(self.groups.weight * self.groups.penalty.l1, tau.dtype)

        def exact(z: jax.Array, tau: jax.Array, r: jax.Array, eta: jax.Array) -> tuple[jax.Array, jax.Array]:
            if again is not None:  # what z and τ have in common would be kept in memory
                _, tau = self.entries.before_the_rest(*again(r))
            return secular_prox(z, tau, c, self.axes)

        return compiler.by_device(exact, one_step, z, tau, r, eta)

    def prox_by_group(
        self, z: jax.Array, step: jax.Array, r: jax.Array, eta: jax.Array, again: Again
    ) -> tuple[jax.Array, jax.Array]:
        """The same for one step a group, in the shape of the norms: exact, for every profile."""
        if np.ndim(self.entries.l2) > 0:  # it makes the steps differ
            return self.prox(z, step, r, eta, again)
        z, tau = self.entries.before_the_rest(z, step)
        size = numerics.root_of(self.group_size(z), tau.dtype)
        a = jnp.minimum(self._norms_near(z, r + eta * size), jnp.finfo(tau.dtype).max / 8)
        new = self.groups.penalty.prox(a, self.groups.weight * tau)
        z, _ = self.entries.before_the_rest(*again(new))
        return z * jnp.where(a > 0, new / jnp.where(a > 0, a, 1), 0 * a), new

    def _norms_near(self, x: jax.Array, unit: jax.Array) -> jax.Array:
        """‖x_g‖ by one sum, for norms up to about `unit`; 0 far below the rounding of that (float32: 10⁻¹⁹ of it)."""
        unit = jnp.where(unit > 0, jnp.maximum(unit, jnp.finfo(unit.dtype).tiny), 1)
        y = x * (1 / unit)
        return unit * jnp.sqrt(partition.total(numerics.real_product(y, y), self.axes))

    def one_step(
        self, z: jax.Array, tau: jax.Array, r: jax.Array, eta: jax.Array, again: Again | None = None
    ) -> tuple[jax.Array, jax.Array]:
        new = self._next(*self._sums(z, self._inverse(tau), r, eta), r)
        if again is not None:
            z, tau = self.entries.before_the_rest(*again(new))
        rising = new * self._inverse(tau)
        positive = ~(new <= 0)  # nan too
        return z * jnp.where(positive, rising / jnp.where(positive, rising + self._slope(new), 1), 0), new

    def _inverse(self, tau: jax.Array) -> jax.Array:
        """1/τ, cut so that its products are finite."""
        most = 2.0 ** (jnp.finfo(tau.dtype).maxexp * 3 // 4)
        return jnp.clip(1 / tau, 1 / most, most)

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

    def _sums(
        self, z: jax.Array, inverse: jax.Array, r: jax.Array, eta: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """a, σ, and the pull: Σ|z_i|²/τ_i² over ρ′(0)².

        a and σ do not depend on a common factor of r and c. With c alone for groups that were 0, and with 1 for c where
        that is 0 too, quotients z_i/d_i are about 1 at rest; they are cut at 2²¹ (in float64 2¹⁷⁰), where the penalty
        is below the rounding, so that no square overflows. Products with 1/τ leave one division for each entry.
        """
        c, at_zero = self._slope(r), self._slope(jnp.zeros_like(r))
        tiny = float(jnp.finfo(inverse.dtype).tiny)
        share = 2.0 ** -(jnp.finfo(inverse.dtype).maxexp // 6)
        unit = jax.lax.stop_gradient(jnp.where(r > 0, r, jnp.where(c > 0, c * eta, eta)))
        unit = jnp.where(unit > 0, unit, 1)
        r = jnp.where((r == 0) & (c == 0), unit, r)

        x = jnp.abs(z) * inverse
        q = 1 / jnp.maximum(r * inverse + c, jnp.maximum(x * share, tiny))  # 1/d_i is q/τ_i
        cubes = (x * q) ** 2 * (q * unit)
        steps = jnp.maximum(1, (x * share - r * inverse) * jnp.where(c > 0, 1 / jnp.where(c > 0, c, 1), 0))  # as d_i
        pull = jnp.minimum(x / jnp.maximum(at_zero, tiny), 1 / share)
        terms = cubes * inverse, cubes * steps, pull**2
        third, weighted, pull = (partition.total(term, self.axes) for term in terms)
        positive = third > 0
        safe = jnp.where(positive, third, 1)
        second = jnp.where(positive, (r * third + c * weighted) / unit, 1)
        a = jnp.where(positive, unit * second * jnp.sqrt(second) / safe, 0 * third)
        return a, jnp.where(positive, weighted / safe, 0), pull


def grouped(reg: Regularizer | None, param: Any) -> Grouped | None:
    """The groups along axes of a penalty, beside terms of entries, or None if it is of another form."""
    parts = Parts() if reg is None else reg.parts()
    if not parts.have_prox or parts.intervals or len(parts.rest) != 1:
        return None
    groups = parts.rest[0].by_groups(param)
    if groups is None or isinstance(groups.partition, partition.Labels):
        return None
    weight = jnp.asarray(groups.weight, numerics.real_dtype(numerics.promote(param)))
    if weight.ndim:
        weight, excluded = weights.split(weight)
        parts = parts + Parts(excluded=excluded)
    groups = dataclasses.replace(groups, weight=weight)
    inside = groups.penalty.parts()
    if inside.is_elastic:  # Σ‖w_g‖² = Σ|w_i|², so L2 is a term of entries
        parts = parts + Parts(l2=inside.l2) * groups.weight if inside.l2 is not None else parts
        groups = dataclasses.replace(groups, penalty=L1(0.0 if inside.l1 is None else inside.l1))
    return Grouped(dataclasses.replace(parts, rest=()), groups)


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
        matrix = joint.matrix([row.param for row in rows])
        form = grouped(joint.group, matrix)
        found[joint.positions[0]] = None if form is None else form.norms(matrix)
    return treedef.unflatten(found) if any(x is not None for x in found) else None
