"""Group: a penalty of the Euclidean norms of groups."""

import functools
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg._core import euclidean, numerics, radial
from jaxreg._core.elementwise import weighted_prox, weighted_value
from jaxreg._core.partition import Arrays, Grouping, Labels, Partition, Units, first, results, roots_of_sizes, spread
from jaxreg._core.regularizer import Regularizer
from jaxreg._core.struct import static
from jaxreg._core.structure import Groups, OfNorms, Reach, weighted, without_l2
from jaxreg._core.weights import without_excluded
from jaxreg.penalties import _axes, _labels
from jaxreg.penalties._group_metric import secular_prox
from jaxreg.penalties._profile import as_elementwise


@final
class Group(Regularizer, OfNorms):
    """Penalize whole groups of entries, so that they become zero together (units, filters, inputs).

        R(x) = ω · Σ_g ρ(‖x_g‖₂),   ρ the profile of `penalty`
        ∇R(x)_g = ω · ρ′(‖x_g‖₂) · x_g/‖x_g‖₂,   0 for a zero group
        prox(z, τ)_g = z_g/‖z_g‖₂ · prox_ρ(‖z_g‖₂, ω·τ)                                       (exact for every ρ)

    `Group(L1(c))` is the group lasso, `Group(MCP(...))`, `Group(L0(...))` and so on follow. `L1(a) + Group(L1(b))` is
    the sparse group lasso, prox included. With an array step (diagonal metric) the prox is exact for L1, L2 and L1L2
    (the norm of a group is the root of a secular equation, found by Newton steps); for other profiles it raises. In a
    metric `proximal` takes every profile of groups along axes: with the norms of the last step it is a problem of one
    number. Groups by labels have L1, L2 and L1L2 there, others with `inner_steps`.

    Args:
        penalty: an elementwise penalty, a sum or a multiple of such.
        axis: static; the axes that form one group. For a Dense kernel (inputs, units) 0 means one group per unit, 1 one
            group per input; for a convolution kernel all axes but the last, (0, 1, 2), mean one group per filter; None
            means the whole array. In stacked layers (`nn.scan`, `vmap`) an axis more stands in front: write
            `Stacked(Group(...))`, and the axes are those of one layer.
        weight: static; "none" (ω = 1) or "sqrt_size" (ω = √(entries in a group), the custom of statistics).
        groups: static; instead of `axis` an integer array of the shape of `x`, or one that broadcasts against it: the
            entries with one label are a group, of any size; −1 is in no group and stays free. Norms, and weights of
            `Weighted`, are arrays (groups,). The program holds the labels, and sums by them cost several reads.

    Raises:
        TypeError: `penalty` is not elementwise, or an argument has the wrong type.
        ValueError: the axes or labels do not fit the array, or a label is negative and not −1.
        NotImplementedError: `prox` with an array step and a profile for which no exact form is known.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> reg = jaxreg.Group(jaxreg.L1(1.0), axis=0)
        >>> kernel = jnp.array([[3.0, 0.3], [4.0, 0.4]])
        >>> float(reg(kernel))
        5.5
        >>> reg.prox(kernel)
        Array([[2.4, 0. ],
               [3.2, 0. ]], dtype=float32)
        >>> factors = jaxreg.Group(jaxreg.L1(1.0), groups=[0, 0, 1, -1])     # two levels, one number, an intercept
        >>> factors.prox(jnp.array([3.0, 4.0, 0.5, 0.5]))
        Array([2.4, 3.2, 0. , 0.5], dtype=float32)

    References:
        Yuan and Lin, *Model selection and estimation in regression with grouped variables*, JRSS B, 2006. Wen et al.,
        *Learning structured sparsity in deep neural networks*, arXiv:1608.03665.
    """

    reach: ClassVar[Reach] = Reach.GROUP

    penalty: Regularizer
    axis: int | tuple[int, ...] | None = static(0)
    weight: str = static("none", choices=("none", "sqrt_size"))
    groups: Any = static(None, shown=False)

    def __post_init__(self) -> None:
        if self.groups is not None and not isinstance(self.groups, Units):  # those are of `JointGroup`
            object.__setattr__(self, "groups", _labels.checked(self.groups, self.axis))
        super().__post_init__()
        object.__setattr__(self, "penalty", as_elementwise("Group", self.penalty))
        _axes.check_axis("Group", self.axis)

    def __call__(self, x: ArrayLike) -> jax.Array:
        return self.value_of(None, jnp.asarray(x))

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        return self.prox_of(None, jnp.asarray(z), jnp.asarray(step))

    def norms(self, x: ArrayLike) -> jax.Array:
        """Return ‖x_g‖₂ of every group: in the shape of `x` with the group's axes of length 1, by labels (groups,)."""
        x = jnp.asarray(x)
        return euclidean.norms(x, self.partition(x.ndim))

    def size_weight(self, x: ArrayLike) -> jax.Array:
        """Return ω, the weight of a group: a number, by labels of groups of different sizes an array (groups,)."""
        return self._omega(jnp.asarray(x))

    def by_groups(self, x: Any) -> Groups:
        return Groups(self.penalty, self._omega(x), self._grouping(x))

    def partition(self, ndim: int) -> Partition:
        return _axes.axes_of("Group", self.axis, ndim) if self.groups is None else Labels(self.groups, ndim)

    def _grouping(self, x: Arrays) -> Grouping:
        """The groups of an array like x, or of several."""
        return self.groups if isinstance(self.groups, Units) else self.partition(x.ndim)

    def _omega(self, x: Arrays) -> jax.Array:
        """ω for an array like x."""
        if self.weight == "none":
            return jnp.ones((), numerics.real_dtype(first(x)))
        return roots_of_sizes(x, self._grouping(x))

    def value_of(self, weights: jax.Array | None, x: Arrays) -> jax.Array:
        groups, omega = self._grouping(x), self._omega(x)
        if omega.ndim:
            return _sum(groups, (self.penalty, omega if weights is None else weights * omega), x)
        return omega * _sum(groups, (self.penalty, weights), x)

    def prox_of(self, weights: jax.Array | None, z: Arrays, step: Arrays) -> Any:
        groups, omega = self._grouping(z), self._omega(z)
        if isinstance(step, tuple) or step.ndim:
            step = jax.tree.map(jnp.multiply, step, spread(omega, groups))
            return self._metric_prox(weights, z, step, groups)
        return radial.resized_groups(_shrunk, groups, (self.penalty, weights, step * omega), z)

    def _metric_prox(self, weights: jax.Array | None, z: Arrays, step: Arrays, groups: Grouping) -> Any:
        parts = self.penalty.parts()
        if not parts.is_elastic:
            raise NotImplementedError(
                f"`Group({type(self.penalty).__name__}).prox` with an array step has no exact form. Use one step for "
                "all entries (`metric=None`), or `Group` of L1, L2 or L1L2; `jaxreg.proximal` takes it in every "
                "metric, by labels or inside `Anchored` with `inner_steps`."
            )
        parts = parts if weights is None else weighted(parts, weights)
        if parts.l2 is not None:  # Σ‖x_g‖² = Σx², and L2 only rescales the point and the steps
            l2 = parts.l2
            z, step = results(lambda g, z, step: without_l2(z, step, spread(l2, g)), groups, z, step)
        w = z if parts.l1 is None else secular_prox(z, step, jnp.asarray(parts.l1, first(step).dtype), groups)[0]
        return w if parts.excluded is None else without_excluded(spread(parts.excluded, groups), w)


# A penalty of norms, and weights of the groups or None.
Inside = tuple[Regularizer, jax.Array | None]


def _of_norms(inside: Inside, norms: jax.Array) -> jax.Array:
    penalty, weights = inside
    return penalty(norms) if weights is None else weighted_value(penalty, weights, norms)


def _slope(inside: Inside, norms: jax.Array) -> jax.Array:
    return jax.grad(_of_norms, argnums=1)(inside, norms)


def _shrunk(params: tuple[Regularizer, jax.Array | None, jax.Array], norms: jax.Array) -> jax.Array:
    penalty, weights, step = params
    return penalty.prox(norms, step) if weights is None else weighted_prox(penalty, weights, norms, step)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _sum(groups: Grouping, inside: Inside, x: Arrays) -> jax.Array:
    """Σ_g ρ(‖x_g‖)."""
    return _of_norms(inside, euclidean.norms(x, groups))


@_sum.defjvp
def _sum_jvp(groups: Grouping, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (inside, x), (dinside, dx) = primals, tangents
    norms = euclidean.norms(x, groups)
    value, tangent = jax.jvp(lambda inside: _of_norms(inside, norms), (inside,), (dinside,))
    gradient = radial.directed_groups(_slope, groups, inside, x)
    changes = jax.tree.map(lambda g, dx: jnp.sum(numerics.real_product(g, dx)), gradient, dx)
    return value, sum(jax.tree.leaves(changes), start=tangent)
