"""Groups in Adam's own metric: the point and the steps are made of the moments wherever they are used.

    z = p − η·m̂/d,   d = √(v̂ + eps_root) + eps,   τ = η/d, or less where the pull of the penalty is bounded

The norm of a group is a sum over z and τ, and the new point needs both again: made anew of m, v and p, which are read
and written in any case, they take no memory. Where v has one number for each group (`group_moments.py`), so has τ;
for a unit in several leaves it is one array, beside as many of m and p as there are leaves.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from jaxreg._core import checks, compiler, numerics, partition
from jaxreg._core.partition import Arrays, Grouping
from jaxreg._core.regularizer import Regularizer
from jaxreg._optax import adam_groups_cpu, adam_newton_cpu
from jaxreg._optax.groups import Grouped, SumsOf, grouped
from jaxreg._optax.metrics import PULL, Metric, Moments
from jaxreg._rules.joint import Joint
from jaxreg._rules.paths import is_hidden


class Numbers(NamedTuple):
    """What a step of Adam is made of beside its moments."""

    rate: Any  # η, of the point
    eta: Any  # of the steps: η, or the sum of several (`when.py`)
    first: Any  # 1 − b1^count
    second: Any  # 1 − b2^count
    eps: Any
    eps_root: Any
    max_step: Any  # None for the bound on the pull


@dataclasses.dataclass(frozen=True)
class Adam:
    """The optimizer inside `proximal_adam`: its metric and arguments, and whether it is `group_adam`."""

    metric: Moments
    b1: Any
    b2: Any
    eps: Any
    eps_root: Any
    max_step: Any
    by_group: bool

    def moments(self, state: Any, rate: Any, eta: Any, treedef: Any) -> list[tuple[Any, Any, Numbers]]:
        """Return m and v of each leaf after the update, and the numbers."""
        part = self.metric.part(state)
        first, second = 1 - self.b1**part.count, 1 - self.b2**part.count
        numbers = Numbers(rate, eta, first, second, self.eps, self.eps_root, self.max_step)
        return [(m, v, numbers) for m, v in zip(*map(treedef.flatten_up_to, (part.mu, part.nu)), strict=True)]


def shapes_of_moments(metric: Metric, state: Any, treedef: Any) -> list[Any]:
    """The shape of the second moments of each leaf, None where there are none."""
    if not isinstance(metric, Moments):
        return [None] * treedef.num_leaves
    leaves = treedef.flatten_up_to(metric.moments(metric.part(state)))
    return [None if is_hidden(leaf) else jnp.shape(leaf) for leaf in leaves]


def shapes_of_units(joint: Joint, leaves: Sequence[Any]) -> dict[int, tuple[Any, ...]]:
    """The shape of second moments by unit in each leaf: a number for each index of the axis; {} for other penalties."""
    if grouped(joint.group, joint.blocks(leaves)) is None:
        return {}
    shapes = {
        view.position: tuple(n if axis == view.axis else 1 for axis, n in enumerate(jnp.shape(leaves[view.position])))
        for view in joint.views
    }
    return shapes | {second: shapes[first] for second, first in joint.tied}


def refuse_other_moments(
    adam: Adam | None, reg: Any, of_groups: tuple[Any, ...] | None, p: jax.Array, shape: tuple[Any, ...]
) -> None:
    """Raise if the second moments of a state, of this shape, are not what the parameter has now.

    `of_groups` is the shape for one number each, None without groups.
    """
    by_group = adam is not None and adam.by_group
    if shape == (of_groups if by_group and of_groups is not None else p.shape):
        return
    in_the_state = f"the state a leaf of shape {p.shape} has second moments of the shape {shape}"
    if not by_group:
        call = '`proximal_adam(moments="entry")`' if adam else "`proximal`"
        raise ValueError(
            f'{call}: in {in_the_state}, as `proximal_adam(moments="group")` makes them. Go on with that, or make a '
            "new state by `tx.init(params)`."
        )
    now = reg if isinstance(reg, str) else checks.short(reg)
    as_entry = ', as `moments="entry"` makes them' if shape == p.shape else ""
    raise ValueError(
        '`proximal_adam(moments="group")`: a penalty must keep the groups that it had in `init`. In '
        f"{in_the_state}{as_entry}, and now it has the penalty {now}. Let a schedule change numbers "
        "alone, `lambda step: ramp(step) * reg`, or make a new state by `tx.init(params)`."
    )


def in_turn(before: Any, form: Grouped, p: Arrays, r: jax.Array, v: Arrays) -> tuple[jax.Array, Any]:
    """The norms and v, of which one is read after the numbers `before`, as by `compiler.only_after`."""
    if adam_groups_cpu.applies(form, p, v):  # then all begins with the norms, and v would be kept
        return compiler.only_after(before, r), v
    return r, compiler.only_after(before, v)


@functools.cache
def compiled() -> Callable[..., tuple[jax.Array, jax.Array]]:
    """(regularizer, p, norms, m, v, numbers, beside) -> the point after the step, the norms of its groups; jitted."""
    return jax.jit(_step)


def _step(
    reg: Regularizer, p: Arrays, r: jax.Array, m: Arrays, v: Arrays, numbers: Numbers, beside: Any = ()
) -> tuple[Any, jax.Array]:
    form = cast(Grouped, grouped(reg, p, beside))
    by_entry = isinstance(v, tuple) or (not isinstance(p, tuple) and v.shape == p.shape)
    how = adam_groups_cpu.plans_of(form, p, v)
    if how is None:
        return _general(form, by_entry, p, r, m, v, numbers)

    def on_cpu(p: jax.Array, r: jax.Array, m: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        if adam_groups_cpu.applies(form, p, v):
            return adam_groups_cpu.step(form, how, numbers, p, r, m, v)
        sums = adam_newton_cpu.sums(form, how, numbers, p, r, m, v)
        return _general(form, True, p, r, m, v, numbers, sums)

    def elsewhere(p: jax.Array, r: jax.Array, m: jax.Array, v: jax.Array) -> tuple[Any, jax.Array]:
        return _general(form, True, p, r, m, v, numbers)

    return compiler.by_device(on_cpu, elsewhere, p, r, m, v)


def _general(
    form: Grouped,
    by_entry: bool,
    p: Arrays,
    r: jax.Array,
    m: Arrays,
    v: Arrays,
    numbers: Numbers,
    sums: SumsOf | None = None,
) -> tuple[Any, jax.Array]:
    slope = form.slope(p, r) if by_entry else form.mean_slope(p, r)
    if not by_entry:
        v, slope = (partition.spread(x, form.where) for x in (v, slope))

    def point(new: jax.Array | None = None) -> tuple[Any, Any]:
        """z and τ; made anew once the norms are known."""

        def of_array(groups: Grouping, p: jax.Array, m: jax.Array, v: jax.Array, slope: jax.Array) -> Any:
            if new is not None and by_entry:
                m, v = compiler.read_again(partition.spread(new, groups), (m, v))
            elif new is not None:
                v = compiler.read_again(partition.spread(new, groups), v)
            return _point(numbers, p, m, v, slope)

        return cast(Any, partition.results(of_array, form.where, p, m, v, slope))

    z, tau = point()
    if not by_entry:
        return form.prox_by_group(z, tau, r, numbers.eta, point)
    if sums is not None:
        return form.one_step(*form.before(z, tau), r, jnp.asarray(numbers.eta, r.dtype), point, sums)
    return form.prox(z, tau, r, numbers.eta, point)


def _point(numbers: Numbers, p: jax.Array, m: jax.Array, v: jax.Array, slope: jax.Array) -> tuple[jax.Array, jax.Array]:
    """z and τ."""
    dtype = numerics.real_dtype(p)
    rate, eta, first, second, eps, eps_root = (jnp.asarray(x, dtype) for x in numbers[:6])
    divisor = jnp.sqrt(jnp.asarray(jnp.real(v), dtype) * (1 / second) + eps_root) + eps
    z = p - jnp.asarray(m, p.dtype) * (rate / (first * divisor))
    if numbers.max_step is not None:
        return z, jnp.minimum(eta / divisor, jnp.asarray(numbers.max_step, dtype))
    return z, eta / jnp.maximum(divisor, slope / PULL)
