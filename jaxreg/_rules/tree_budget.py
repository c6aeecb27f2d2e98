"""TreeBudget: one number of entries, or of groups, for many leaves."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NoReturn, Self, final

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxreg._core import checks, codec, constraint, euclidean, names, numerics
from jaxreg._core.regularizer import Regularizer
from jaxreg._core.struct import coefficient, named, static
from jaxreg._core.structure import Reach
from jaxreg._rules.paths import Leaves
from jaxreg._rules.patterns import Rule, decode_pattern, encode_pattern, matches_nothing
from jaxreg._rules.tree import TreeRegularizer, shows_a_part
from jaxreg._rules.tree_penalty import TreePenalty, added
from jaxreg.penalties import TopK, _axes, _counts, _largest, _threshold


@final
class TreeBudget(TreePenalty):
    """Keep at most a share of the entries, or groups, of a whole tree, the largest ones: global magnitude pruning.

        {w : at most k entries of all leaves together are not 0},   k = ⌈share·size⌉, or the count
        prox(z)_i = z_i if |z_i| is among the k largest of all leaves, else 0
        prox(z, τ)_i = z_i if |z_i|²/τ_i is, else 0                                     (a step for each leaf or entry)

    Where `TopK` in a `TreeRegularizer` prunes every leaf by the same share, here the leaves compete. With `axis` whole
    groups do, by their norms ‖z_g‖, in a metric by Σ |z_i|²/τ_i. Each rule is a budget of its own, of the leaves that
    it decides over; the first rule that matches decides, as in `TreeRegularizer`, and a number alone is one budget of
    all floating leaves, biases too: `{"**/bias": None, "**": 0.1}` leaves those out.

    The value is 0 in the set and ∞ outside, with gradient 0; what trains with it is `jaxreg.proximal`. Of equal
    magnitudes those stay that come first, by the order of the leaves and then of the array, so that there are never too
    many. nan stays nan, and counts as the largest. Leaves of different dtypes are compared in the widest of them. A
    share may follow a schedule without compiling again. The threshold is found by counting, over all leaves at once: a
    sample of one entry in 256 says where to look, and about four reads of float32 leaves find it, 17 at most, on a CPU
    22 (one read more applies it, and 17 where equal magnitudes have to go). Devices exchange the counts alone.

    Leaves that an optimizer does not step belong outside, by a rule `None`: nothing could be taken from them. It has no
    sum with other penalties of trees.

    Args:
        rules: a share or a count, as in `TopK`: a float between 0 and 1 is a share, an int is a count; or a mapping or
            a sequence of `(pattern, share or count or None)`. Shares are leaves of the pytree, patterns are static.
        axis: static; the axes along which a group extends, as in `Group`: -2 for the units of kernels (..., inputs,
            outputs). None: each entry by itself.

    Raises:
        TypeError: a share is not a number. ValueError: it is negative or a float above 1; a pattern matches no leaf.
        NotImplementedError: it was asked for the penalty or the operator of a single leaf.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> params = {"in": {"kernel": jnp.array([3.0, -1.0])}, "out": {"kernel": jnp.array([2.0, 0.5])}}
        >>> budget = jaxreg.TreeBudget({"**/kernel": 0.5})                       # two of four
        >>> pruned = budget.prox(params)
        >>> pruned["in"]["kernel"], pruned["out"]["kernel"]
        (Array([3., 0.], dtype=float32), Array([2., 0.], dtype=float32))
        >>> float(budget(params)), float(budget(pruned))
        (inf, 0.0)

        From all to a tenth, along the cubic ramp, while training:

        >>> import optax
        >>> share = optax.polynomial_schedule(1.0, 0.1, power=3, transition_steps=9000, transition_begin=1000)
        >>> tx = jaxreg.proximal(optax.adam(1e-3), lambda step: jaxreg.TreeBudget(share(step)), 1e-3)

    References:
        Frankle and Carbin, *The lottery ticket hypothesis* (global pruning), ICLR 2019. Zhu and Gupta, *To prune, or
        not to prune*, arXiv:1710.01878.
    """

    is_joint: ClassVar[bool] = True

    rules: Any
    axis: Any = static(None)

    def __post_init__(self) -> None:
        given = self.rules
        if isinstance(given, (str, bytes)):
            raise TypeError(
                f"`TreeBudget(rules)` takes a share, a count, or pairs (pattern, share), got {checks.short(given)}. "
                f"Write `jaxreg.TreeBudget({{{checks.short(given)}: 0.1}})`."
            )
        if not isinstance(given, Iterable) or hasattr(given, "dtype"):
            given = {"**": given}
        pairs = given.items() if isinstance(given, Mapping) else given
        rules = TreeRegularizer([_top_k(pair) for pair in pairs]).rules
        object.__setattr__(self, "rules", rules)
        object.__setattr__(self, "axis", checks.as_tuple(self.axis))
        _axes.check_axis("TreeBudget", self.axis)

    def assign(self, flat: Leaves) -> list[Regularizer | None]:
        """Return for each leaf which budget it shares, None for those left alone."""
        tree = TreeRegularizer(self.rules)
        deciding, idle = tree.decide(flat)
        if idle and not shows_a_part(flat.leaves):
            raise ValueError(f"`TreeBudget`: {matches_nothing(idle[0].pattern, flat.paths)}")
        numbers = {id(rule): number for number, rule in enumerate(tree.rules)}
        return [
            BudgetShare(rule.regularizer.share, numbers[id(rule)], self.axis)
            if rule is not None and is_parameter and isinstance(rule.regularizer, TopK)
            else None
            for rule, is_parameter in zip(deciding, flat.parameters, strict=True)
        ]

    def prox_of_leaves(
        self, assigned: Sequence[Regularizer | None], leaves: Sequence[Any], steps: Sequence[Any]
    ) -> list[Any]:
        new = list(leaves)
        shares: dict[int, list[int]] = {}
        for i, share in enumerate(assigned):
            if isinstance(share, BudgetShare):
                shares.setdefault(share.number, []).append(i)
        for places in shares.values():
            share = assigned[places[0]]
            assert isinstance(share, BudgetShare)  # for the type checker
            kept = share.kept([jnp.asarray(leaves[i]) for i in places], [steps[i] for i in places])
            for i, leaf in zip(places, kept, strict=True):
                new[i] = leaf
        return new

    def __call__(self, params: Any) -> jax.Array:
        """Return 0 if the tree keeps to its budgets, else ∞, a scalar."""
        return added(list(self.breakdown(params).values()))

    def breakdown(self, params: Any) -> dict[str, jax.Array]:
        """Return `{path: ∞ if something has to go there, else 0}`; the values add up to the penalty of the tree."""
        penalized = self._penalized(params)
        values, _ = _measure(self, [reg for _, _, reg in penalized], [jnp.asarray(leaf) for _, leaf, _ in penalized])
        return {path: value for (path, _, _), value in zip(penalized, values, strict=True)}

    def violation(self, params: Any) -> jax.Array:
        """Return the distance to the set: the root of the sum of squares of what has to go."""
        penalized = self._penalized(params)
        return _measure(self, [reg for _, _, reg in penalized], [jnp.asarray(leaf) for _, leaf, _ in penalized])[1]

    def refusal(self, what: str) -> NotImplementedError:
        return _refusal(what)

    def get_config(self) -> dict[str, Any]:
        """Return the rules and the axis as plain lists and numbers, fit for JSON."""
        rules = [[encode_pattern(r.pattern), codec.encode(_share(r))] for r in self.rules]
        return {"rules": rules, "axis": codec.encode(self.axis)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Return the budget whose `get_config` gave `config`."""
        rules = config.get("rules") if isinstance(config, Mapping) and set(config) == {"rules", "axis"} else None
        if not isinstance(rules, (list, tuple)) or not all(isinstance(r, (list, tuple)) and len(r) == 2 for r in rules):
            raise ValueError(
                f"`TreeBudget.from_config` takes {{'rules': [...], 'axis': ...}}, got {checks.short(config)}."
            )
        return cls([(decode_pattern(pattern), share) for pattern, share in rules], checks.as_tuple(config["axis"]))

    def __mul__(self, factor: Any) -> "TreeBudget":
        factor = self._factor(factor)
        is_number = isinstance(factor, (int, float, np.generic, np.ndarray, jax.Array)) and np.ndim(factor) == 0
        if is_number and not isinstance(factor, jax.core.Tracer) and 0 < float(factor) < np.inf:
            return self
        raise NotImplementedError(
            f"`{checks.short(factor)} * {checks.short(self)}`: of a set every positive multiple is the set itself. "
            "Change the share, `jaxreg.TreeBudget(share(step))`; 1.0 keeps everything."
        )

    def __repr__(self) -> str:
        rules = ", ".join(f"({named(rule.pattern)}, {_share(rule)!r})" for rule in self.rules)
        return f"TreeBudget([{rules}]{'' if self.axis is None else f', axis={self.axis!r}'})"


@final
class BudgetShare(constraint.Constraint):
    """Which budget a leaf shares. It is decided over all its leaves together, so there is nothing to ask of one."""

    reach: ClassVar[Reach] = Reach.GROUP

    share: ArrayLike = coefficient()
    number: int = static(0)
    axis: Any = static(None)

    def __post_init__(self) -> None:
        """The share is checked already; as a count it stays an int."""

    def __call__(self, x: ArrayLike) -> NoReturn:
        raise _refusal("penalty")

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> NoReturn:
        raise _refusal("proximal operator")

    def kept(self, leaves: list[jax.Array], steps: list[Any]) -> list[jax.Array]:
        """The leaves with what stays, and 0."""
        stay = self._stay(leaves, steps)
        return [_largest.only(mask, z, jnp.asarray(self.share)) for mask, z in zip(stay, leaves, strict=True)]

    def _stay(self, leaves: list[jax.Array], steps: list[Any]) -> list[jax.Array]:
        in_metric = any(np.ndim(step) for step in steps) or any(step is not steps[0] for step in steps)
        sizes = []
        for z, step in zip(jax.lax.stop_gradient(leaves), steps, strict=True):
            real = jnp.real(numerics.promote(z)).dtype
            if in_metric or self.axis is not None:
                tau = jnp.broadcast_to(jnp.asarray(step, real), z.shape) if in_metric else jnp.ones((), real)
                z = self._size(numerics.promote(z), tau)
            sizes.append(z)
        dtype = numerics.common_dtype(*(jnp.finfo(size.dtype).dtype for size in sizes))
        number = sum(size.size for size in sizes)
        return _threshold.stay(sizes, dtype, _counts.allowed_of_all(self.share, number))[0]

    def _size(self, z: jax.Array, tau: jax.Array) -> jax.Array:
        if self.axis is None:
            return _largest.size(z, tau)
        if tau.ndim:
            z = z / jnp.sqrt(jnp.maximum(tau, float(jnp.finfo(tau.dtype).tiny)))
        return euclidean.norms(z, _axes.axes_of("TreeBudget", self.axis, z.ndim))


def _refusal(what: str) -> NotImplementedError:
    return NotImplementedError(
        f"`TreeBudget`: leaves that share a budget have no {what} of their own, nor in a sum with others. "
        "Ask the tree, `budget(params)`, `budget.prox(params, step)`, or give it alone to `jaxreg.proximal(tx, "
        "budget, learning_rate)`, with other penalties in the loss."
    )


def _top_k(pair: Any) -> tuple[Any, Any]:
    if isinstance(pair, Rule):
        pair = (pair.pattern, _share(pair))
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        raise TypeError(
            f"`TreeBudget`: a rule is a pair (pattern, share), got {checks.short(pair)}. Write one share for all "
            "leaves, `jaxreg.TreeBudget(0.1)`, or a dict, `{'**/kernel': 0.1}`."
        )
    pattern, share = pair
    if isinstance(share, Regularizer):
        raise TypeError(
            f"`TreeBudget`: a rule has a share or a count, got {checks.short(share)} for {named(pattern)}. Write "
            "the number, `{'**/kernel': 0.1}`; a penalty of each leaf is a rule of `jaxreg.TreeRegularizer`."
        )
    return pattern, None if share is None else TopK(_counts.checked_share("TreeBudget", share), None)


def _share(rule: Rule) -> Any:
    return rule.regularizer.share if isinstance(rule.regularizer, TopK) else None


@jax.jit
def _measure(
    budget: TreeBudget, assigned: list[Regularizer], leaves: list[jax.Array]
) -> tuple[list[jax.Array], jax.Array]:
    """0 or ∞ for each leaf, and the distance to the set; what rounding may have left over counts as inside."""
    if not leaves:
        return [], jnp.zeros((), np.float32)
    budget, assigned, leaves = jax.lax.stop_gradient((budget, assigned, leaves))
    kept = budget.prox_of_leaves(assigned, leaves, [1.0] * len(leaves))
    off = _stacked([_norm(jnp.where(z == w, 0, z - w)) for z, w in zip(leaves, kept, strict=True)])
    epsilon = max(float(jnp.finfo(leaf.dtype).eps) for leaf in leaves)
    distance, norm = _norm(off), _norm(_stacked([_norm(z) for z in leaves]))
    outside = ~(distance <= 16 * epsilon * norm) & (off > 0)
    values = jnp.where(jnp.isnan(off), off, jnp.where(outside, jnp.inf, 0))
    return list(values), distance


def _stacked(numbers: list[jax.Array]) -> jax.Array:
    dtype = numerics.common_dtype(*(x.dtype for x in numbers))
    return jnp.stack([x.astype(dtype) for x in numbers])


def _norm(x: jax.Array) -> jax.Array:
    return euclidean.norm(numerics.promote(x))


names.add_builtin(TreeBudget)
