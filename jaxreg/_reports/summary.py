"""`summary`: what a regularizer does to a tree of parameters, leaf by leaf."""

import dataclasses
import functools
import glob
import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg._core import numerics
from jaxreg._core.checks import short
from jaxreg._core.regularizer import Regularizer
from jaxreg._reports.conformity import conformity
from jaxreg._reports.sparsity import count_zeros
from jaxreg._reports.summary_groups import of_groups, own_gradient, shared
from jaxreg._reports.summary_table import BY_RULE, Leaf, RuleUse, Summary, dtype_name, without_arrays
from jaxreg._rules.paths import Leaves, flatten_with_paths, is_inexact
from jaxreg._rules.patterns import Rule, meant
from jaxreg._rules.tree import TreeRegularizer, as_tree
from jaxreg._rules.tree_penalty import TreePenalty


def summary(reg: Any, params: Any) -> Summary:
    """Show what a regularizer does to each leaf of a tree.

    For each leaf: path, shape, dtype, the regularizer that the rules assign, its penalty R(leaf) and the share of it in
    the penalty of the tree, the entries that are exactly 0, and ‖∇R(leaf)‖, the Euclidean norm of the penalty's
    gradient. Below the totals the rules are listed, also those that match no leaf (`reg(params)` raises there), and the
    leaves without a penalty, with the reason. For the sets `NofM`, `TopK` and `Rank` they say how many blocks or groups
    conform, and the numerical rank, the largest of several; for `Group` how many groups are zero. A `JointGroup` has a
    line below the rules with its leaves, penalty, ‖∇R‖ and groups that are zero. In print, with more
    than 40 leaves, those whose paths differ only in numbers (`layers_0`, `layers_1`) share a row.

    Args:
        reg: a `TreeRegularizer`, or one regularizer for all floating leaves.
        params: any tree of arrays.

    Returns:
        a `Summary`: plain text of 80 columns by `print`, HTML in a notebook, in colours by `rich.print`; in code
        `leaves`, `groups` (those across leaves), `penalty`, `gradient_norm`, `size`, `zeros`, `unmatched`, and
        `as_dict()` for JSON.

    Raises:
        TypeError: a leaf is traced or a placeholder.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> params = {"first": {"bias": jnp.zeros(2), "kernel": jnp.array([[3.0, 0.0], [0.0, 4.0]])}, "step": 7}
        >>> reg = jaxreg.TreeRegularizer({"**/kernel": jaxreg.L2(0.5), "**/scale": jaxreg.L1(0.1)})
        >>> print(jaxreg.summary(reg, params))
        path          shape   dtype  regularizer  penalty  share  zeros  ‖∇R‖
        ─────────────────────────────────────────────────────────────────────
        first/bias    2       f32    -                  -      -   100%     -
        first/kernel  2×2     f32    L2(0.5)         12.5   100%  50.0%     5
        step          scalar  int    -                  -      -      -     -
        ─────────────────────────────────────────────────────────────────────
        3 leaves      6                              12.5         66.7%     5
        <BLANKLINE>
        rule '**/kernel', L2(l2=0.5): 1 leaf, penalty 12.5
        rule '**/scale', L1(l1=0.1): NO LEAF MATCHES
        left out, no rule matches: first/bias
        left out, not a float or complex array: step
        >>> jaxreg.summary(reg, params).unmatched
        ('**/scale',)
    """
    flat = flatten_with_paths(params)
    whole = as_tree(reg)
    tree = _as_rules(whole, params)
    places = [i for i, leaf in enumerate(flat.leaves) if _is_number(leaf)]
    numbers = [(flat.paths[i], flat.leaves[i], flat.parameters[i]) for i in places]
    deciding, idle = tree.decide(Leaves([p for p, _, _ in numbers], [leaf for _, leaf, _ in numbers], []))
    first_path: dict[int, str] = {}
    joints = whole.joints(flat)
    in_groups = {i for joint in joints for i in joint.all_positions}
    found = []
    for i, (path, leaf, is_parameter), rule in zip(places, numbers, deciding, strict=True):
        reason = (
            ""
            if i in in_groups and rule is None
            else _why_left_out(leaf, is_parameter, rule, first_path.get(id(leaf), ""))
        )
        if isinstance(leaf, (jax.Array, np.ndarray)):
            first_path.setdefault(id(leaf), path)
        found.append((path, leaf, reason, None if reason or rule is None else rule.regularizer))
    zeros = [count_zeros("summary", path, leaf).zeros if is_inexact(leaf) else None for path, leaf, _, _ in found]
    measured = _measure([(path, regularizer, leaf) for path, leaf, _, regularizer in found])
    rows = [
        Leaf(path, np.shape(leaf), dtype_name(leaf), math.prod(np.shape(leaf)), regularizer, *numbers, n, reason,
             *dataclasses.astuple(conformity(regularizer, leaf)))
        for (path, leaf, reason, regularizer), n, numbers in zip(found, zeros, measured, strict=True)
    ]  # fmt: skip
    groups, slopes = of_groups(joints, flat)
    own: list[Any] = [None] * len(flat.leaves)
    for i, (_, leaf, _, regularizer) in zip(places, found, strict=True):
        if i in in_groups and regularizer is not None:
            own[i] = own_gradient(regularizer, leaf)
    return Summary(_uses(tree._rules, idle, deciding, rows), tuple(rows), groups, shared([own, *slopes]))


def _as_rules(tree: TreePenalty, params: Any) -> TreeRegularizer:
    """Return the tree's own rules, or, of a sum of trees, one for each leaf."""
    if isinstance(tree, TreeRegularizer):
        return tree
    if tree.is_joint:
        raise NotImplementedError(
            f"`summary` shows the penalties of single leaves, and {short(tree)} takes several together: "
            "`reg.breakdown(params)` has its penalty, `jaxreg.sparsity(params)` the entries that are 0."
        )
    return TreeRegularizer([(glob.escape(path), regularizer) for path, regularizer in tree.assignment(params).items()])


def _is_number(leaf: Any) -> bool:
    """Whether it is an array or a number: no function held by a module, no placeholder of an optax wrapper."""
    return hasattr(leaf, "dtype") or isinstance(leaf, (int, float, complex))


def _why_left_out(leaf: Any, is_parameter: bool, rule: Rule | None, first_path: str) -> str:
    if not is_inexact(leaf):
        return "not a float or complex array"
    if not is_parameter:
        return "not a parameter"
    if first_path:
        return f"the same array as {first_path}"
    if rule is None:
        return "no rule matches"
    return f"{BY_RULE}{_text(rule)!r}" if rule.regularizer is None else ""


Measured = tuple[str, Regularizer | None, Any]  # a leaf: its path, what penalizes it, its values
_BATCH = 1 << 16  # entries that one program takes at once


def _measure(leaves: Sequence[Measured]) -> list[tuple[Any, Any]]:
    """Penalty and gradient norm of each leaf."""
    values: dict[int, tuple[float, float]] = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The gradient of")
        found = [(alike, _of_leaves(regularizer, alike, leaves)) for regularizer, alike in _batches(leaves)]
    for alike, measured in jax.device_get(found):
        values |= zip(alike, zip(*(np.ravel(numbers).tolist() for numbers in measured), strict=True), strict=False)
    return [values.get(i, (None, None)) for i in range(len(leaves))]


def _batches(leaves: Sequence[Measured]) -> Iterable[tuple[Regularizer, list[int]]]:
    """The places of leaves that one program measures at once: small ones of an elementwise penalty and of a dtype."""
    batches: dict[Any, tuple[Regularizer, list[int]]] = {}
    is_elementwise: dict[int, bool] = {}
    for i, (_, regularizer, leaf) in enumerate(leaves):
        if regularizer is None:
            continue
        of = id(regularizer)
        if of not in is_elementwise:
            is_elementwise[of] = regularizer.scalar() is not None
        size = _padded_size(np.size(leaf))
        together = is_elementwise[of] and size < _BATCH
        batch = batches.setdefault((of, size, getattr(leaf, "dtype", type(leaf))) if together else i, (regularizer, []))
        batch[1].append(i)
    for regularizer, alike in batches.values():
        most = max(1, _BATCH // _padded_size(np.size(leaves[alike[0]][-1])))
        yield from ((regularizer, alike[i : i + most]) for i in range(0, len(alike), most))


def _of_leaves(regularizer: Regularizer, alike: Sequence[int], leaves: Sequence[Measured]) -> tuple[Any, Any]:
    """Penalties and gradient norms of the leaves of one batch; rows of zeros may follow."""
    try:
        arrays = [_padded(regularizer, _as_jax_has_it(leaves[i][-1])) for i in alike]
        if len(arrays) == 1:
            return _penalty_and_norm(regularizer, arrays[0])
        rows = np.zeros((_BATCH // arrays[0].size, arrays[0].size), arrays[0].dtype)
        rows[: len(arrays)] = arrays
        return _penalties_and_norms(regularizer, rows)
    except (TypeError, ValueError, NotImplementedError) as error:
        kind = next(kind for kind in (NotImplementedError, TypeError, ValueError) if isinstance(error, kind))
        raise kind(f"`jaxreg.summary`, the leaf {short(leaves[alike[0]][0])}: {error}") from None


def _as_jax_has_it(leaf: Any) -> Any:
    """The leaf; an array of NumPy in the byte order of this machine, of extended precision in double."""
    if not isinstance(leaf, (np.ndarray, np.generic)):
        return leaf
    wide = {"g": np.float64, "G": np.complex128}.get(leaf.dtype.char)
    return np.asarray(leaf, wide or leaf.dtype.newbyteorder("="))


def _padded(regularizer: Regularizer, leaf: Any) -> Any:
    """The leaf; for elementwise penalties its entries, padded by zeros to a power of 2: one program for many shapes."""
    if regularizer.scalar() is None:
        return leaf
    entries = np.asarray(leaf).ravel()
    return np.pad(entries, (0, _padded_size(entries.size) - entries.size))


def _padded_size(size: int) -> int:
    return max(1024, 1 << (size - 1).bit_length())


@jax.jit
def _penalty_and_norm(regularizer: Regularizer, leaf: Any) -> tuple[jax.Array, jax.Array]:
    penalty, gradient = jax.value_and_grad(regularizer)(leaf)
    return penalty, jnp.linalg.norm(numerics.promote(gradient).ravel())


@jax.jit
def _penalties_and_norms(regularizer: Regularizer, rows: Any) -> tuple[jax.Array, jax.Array]:
    return jax.vmap(functools.partial(_penalty_and_norm, regularizer))(rows)


def _uses(
    rules: Iterable[Rule], idle: Iterable[Rule], deciding: Iterable[Rule | None], rows: Iterable[Leaf]
) -> tuple[RuleUse, ...]:
    of: dict[int, list[str]] = {}
    rows = list(rows)
    for by, row in zip(deciding, rows, strict=True):
        if not row.left_out or row.left_out.startswith(BY_RULE):
            of.setdefault(id(by), []).append(row.path)
    near = {id(rule): meant(rule.pattern, [row.path for row in rows]) for rule in idle}
    return tuple(
        RuleUse(
            pattern=_text(rule),
            regularizer=without_arrays(rule.regularizer),
            paths=tuple(of.get(id(rule), ())),
            matches=id(rule) not in near,
            meant=near.get(id(rule), ""),
        )
        for rule in rules
    )


def _text(rule: Rule) -> str:
    pattern = rule.pattern
    return (
        pattern if isinstance(pattern, str) else getattr(pattern, "pattern", getattr(pattern, "__name__", "function"))
    )
