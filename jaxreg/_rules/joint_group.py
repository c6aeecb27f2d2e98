"""JointGroup: groups of entries across the leaves of a tree."""

from collections.abc import Mapping
from typing import Any, Self, final

import jax
import numpy as np

from jaxreg._core import checks, codec, names
from jaxreg._core.partition import Unit, Units
from jaxreg._core.regularizer import Regularizer
from jaxreg._core.struct import named, static
from jaxreg._rules.joint import Joint, View
from jaxreg._rules.paths import Leaves, is_masked
from jaxreg._rules.patterns import Rule, check_pattern, decode_pattern, encode_pattern, matches_nothing
from jaxreg._rules.tree_penalty import TreePenalty
from jaxreg.penalties import Group

_AXES = "axes={'Dense_0/kernel': 1, 'Dense_0/bias': 0}"


@final
class JointGroup(TreePenalty):
    """Penalize groups that lie in several leaves, so that a unit becomes zero with all that it is made of.

        R(params) = Σ_u ρ(‖w_u‖₂),   w_u the entries of unit u in all leaves,   ρ the profile of `penalty`
        ∇R_u = ρ′(‖w_u‖₂) · w_u/‖w_u‖₂,   0 for a zero unit
        prox(z, τ)_u = z_u/‖z_u‖₂ · prox_ρ(‖z_u‖₂, τ)                                          (exact for every ρ)

    It goes wherever a `TreeRegularizer` does: `reg(params)` in a loss, `add_regularization`, `bounded` (one strength
    for all of its groups), `proximal` (in a metric too, as `Group`: in Adam's own the step sizes of a unit differ, and
    its norm is the root of one equation over all its leaves; by `proximal_adam(moments="group")` they are one),
    `prox(params, step)`, `summary`; and `+` adds it to one. Beside L1, L2 and L1L2 of single leaves the proximal
    operator is exact (sparse groups). The sums over the leaves add, and it costs what `Group`s of single leaves do.
    `jaxreg.units` finds the units of a network, and its `joint_groups(penalty)` writes these.

    Args:
        penalty: an elementwise penalty, a sum or a multiple of such.
        axes: static; `{pattern: axis}`: the axis of the units in the leaves that the pattern matches, of one length in
            all. Or `{pattern: (axis, labels)}` with the number of its unit for each index of the axis, −1 for none,
            where a unit has several indices, or some have none; each unit has as many as the others. The first pattern
            that matches a leaf decides. Patterns are those of `TreeRegularizer`.
        weight: static; "none", or "sqrt_size" for √(entries of a unit)·ρ, as in `Group`.

    Raises:
        TypeError: `penalty` is not elementwise, or an axis or a pattern is none.
        ValueError: a pattern matches no leaf, an axis does not fit, leaves have other numbers of units, or, on Explicit
            axes of a mesh, units that are divided otherwise.
        NotImplementedError: in `prox`, an entry is in two groups, or a leaf has a penalty of another kind as well.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> params = {"Dense_0": {"kernel": jnp.array([[3.0, 0.3], [0.0, 0.0]]), "bias": jnp.array([4.0, 0.4])}}
        >>> reg = jaxreg.JointGroup(jaxreg.L1(1.0), {"Dense_0/kernel": 1, "Dense_0/bias": 0})
        >>> float(reg(params))
        5.5
        >>> reg.prox(params)["Dense_0"]["bias"]
        Array([3.2, 0. ], dtype=float32)

    References:
        Yuan and Lin, *Model selection and estimation in regression with grouped variables*, JRSS B, 2006. Fang et al.,
        *DepGraph: towards any structural pruning*, CVPR 2023.
    """

    penalty: Regularizer
    axes: Any = static()
    weight: str = static("none", choices=("none", "sqrt_size"), shown=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "penalty", Group(self.penalty, 0, self.weight, None).penalty)  # which checks both
        object.__setattr__(self, "axes", _axes(self.axes))
        super().__post_init__()

    def assign(self, flat: Leaves) -> list[Regularizer | None]:
        return [None] * len(flat.leaves)

    def joints(self, flat: Leaves) -> list[Joint]:
        used = [False] * len(self.axes)
        rules = [Rule(pattern, None) for pattern, *_ in self.axes]
        views: list[View] = []
        masked: list[str] = []
        first: dict[int, int] = {}
        tied: list[tuple[int, int]] = []
        for i, (path, leaf, is_parameter) in enumerate(zip(flat.paths, flat.leaves, flat.parameters, strict=True)):
            matching = (k for k, rule in enumerate(rules) if rule.matches(path, leaf))
            if (number := next(matching, -1)) < 0:
                continue
            if is_masked(leaf):
                masked.append(path)
                continue
            used[number] = True
            if not is_parameter:
                continue
            if id(leaf) in first and isinstance(leaf, (jax.Array, np.ndarray)):
                tied.append((i, first[id(leaf)]))
                continue
            first[id(leaf)] = i
            views.append(_view(i, path, leaf, *self.axes[number][1:]))
        if not views and any(map(is_masked, flat.leaves)):
            return []
        if masked:
            raise ValueError(
                f"`JointGroup`: an optax wrapper shows {checks.short(flat.paths[views[0].position])} and hides "
                f"{checks.short(masked[0])}, which has the same units. Mask all leaves of a group, or none."
            )
        if not all(used):
            raise ValueError(f"`JointGroup`: {matches_nothing(rules[used.index(False)].pattern, flat.paths)}")
        if not views:
            return []
        sizes = {view.units: view.path for view in views}
        if len(sizes) > 1:
            raise ValueError(
                "`JointGroup(axes=...)`: the leaves of a group have one number of units, got "
                + " and ".join(f"{n} in {checks.short(path)}" for n, path in list(sizes.items())[:2])
                + "."
            )
        units = Units(tuple(Unit(view.ndim, view.axis) for view in views))
        group = Group(self.penalty, 0, self.weight, units)
        return [Joint(checks.short(self), group, tuple(views), tuple(tied))]

    def get_config(self) -> dict[str, Any]:
        """Return the penalty and the axes as plain lists and dicts, fit for JSON."""
        axes = [[encode_pattern(p), axis, None if labels is None else list(labels)] for p, axis, labels in self.axes]
        return {"penalty": codec.encode(self.penalty), "axes": axes, "weight": self.weight}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Return the penalty whose `get_config` gave `config`."""
        keys = {"penalty", "axes", "weight"}
        rows = config.get("axes") if isinstance(config, Mapping) and set(config) == keys else None
        if not isinstance(rows, (list, tuple)) or not all(isinstance(r, (list, tuple)) and len(r) == 3 for r in rows):
            raise ValueError(
                "`JointGroup.from_config` takes {'penalty': ..., 'axes': [[pattern, axis, labels or None], ...], "
                f"'weight': ...}}, got {checks.short(config)}."
            )
        penalty = codec.decode({"penalty": config["penalty"]}, {})["penalty"]
        axes = [(decode_pattern(p), axis if labels is None else (axis, labels)) for p, axis, labels in rows]
        return cls(penalty, axes, config["weight"])

    def __mul__(self, factor: Any) -> "JointGroup":
        return JointGroup(self._factor(factor) * self.penalty, self._written(), self.weight)

    def __repr__(self) -> str:
        weight = "" if self.weight == "none" else f", weight={self.weight!r}"
        axes = ", ".join(f"({named(pattern)}, {axis!r})" for pattern, axis in self._written())
        return f"JointGroup({self.penalty!r}, axes=[{axes}]{weight})"

    def _written(self) -> list[tuple[Any, Any]]:
        """The axes as the constructor takes them."""
        return [(pattern, axis if labels is None else (axis, labels)) for pattern, axis, labels in self.axes]


def _axes(axes: Any) -> tuple[tuple[Any, int, tuple[int, ...] | None], ...]:
    pairs = list(axes.items()) if isinstance(axes, Mapping) else axes
    is_list = isinstance(pairs, (list, tuple)) and all(isinstance(p, (list, tuple)) and len(p) in (2, 3) for p in pairs)
    if not is_list or not pairs:
        raise TypeError(
            f"`JointGroup(axes=...)` takes a mapping of patterns to axes, `{_AXES}`, got {checks.short(axes)}."
        )
    return tuple(_row(*pair) for pair in pairs)


def _row(pattern: Any, axis: Any, labels: Any = None) -> tuple[Any, int, tuple[int, ...] | None]:
    check_pattern(pattern)
    if isinstance(axis, (list, tuple)) and len(axis) == 2:
        axis, labels = axis
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
        raise TypeError(
            f"`JointGroup(axes=...)`: an axis is an int, or a pair (axis, labels), got {checks.short(axis)} for "
            f"{checks.short(pattern)}. Write {_AXES}."
        )
    if labels is None:
        return pattern, int(axis), None
    numbers = np.asarray(labels)
    if numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer) or (numbers.size and numbers.min() < -1):
        raise ValueError(
            "`JointGroup(axes=...)`: labels are integers, the number of the unit of each index, −1 for none, got "
            f"{checks.short(labels)} for {checks.short(pattern)}."
        )
    counts = np.bincount(numbers[numbers >= 0])
    if not counts.size or np.min(counts) != np.max(counts):
        raise ValueError(
            f"`JointGroup(axes=...)`: each unit from 0 on has as many indices as the others, got {counts.tolist()[:8]} "
            f"of them for {checks.short(pattern)}."
        )
    return pattern, int(axis), tuple(numbers.tolist())


def _view(position: int, path: str, leaf: Any, axis: int, labels: tuple[int, ...] | None) -> View:
    shape = np.shape(leaf)
    if not -len(shape) <= axis < len(shape) or (labels is not None and len(labels) != shape[axis]):
        wanted = f"axis {axis}" if labels is None else f"axis {axis} of length {len(labels)}"
        raise ValueError(f"`JointGroup(axes=...)`: {checks.short(path)} has no {wanted}, its shape is {shape}.")
    axis %= len(shape)
    if labels is None:
        return View(position, path, axis, len(shape), shape[axis], None)
    numbers = np.asarray(labels)
    inside = np.flatnonzero(numbers >= 0)
    indices = inside[np.argsort(numbers[inside], kind="stable")]
    units, is_in_order = int(numbers.max()) + 1, np.array_equal(indices, np.arange(shape[axis]))
    ndim = len(shape) if units == len(indices) else len(shape) + 1
    return View(position, path, axis, ndim, units, None if is_in_order else indices)


names.add_builtin(JointGroup)
