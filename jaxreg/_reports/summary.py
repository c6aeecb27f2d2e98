"""`summary`: what a regularizer does to a tree of parameters, leaf by leaf."""

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
from jaxreg._reports.sparsity import count_zeros
from jaxreg._reports.summary_table import BY_RULE, Leaf, RuleUse, Summary, dtype_name, without_arrays
from jaxreg._rules.paths import Leaves, flatten_with_paths, is_inexact
from jaxreg._rules.patterns import Rule
from jaxreg._rules.tree import TreeRegularizer, as_tree
from jaxreg._rules.tree_penalty import TreePenalty


def summary(reg: Any, params: Any) -> Summary:
    """Show what a regularizer does to each leaf of a tree.

    For each leaf: path, shape, dtype, the regularizer that the rules assign, its penalty R(leaf) and the share of it in
    the penalty of the tree, the entries that are exactly 0, and ‖∇R(leaf)‖, the Euclidean norm of the penalty's
    gradient. Below the totals the rules are listed, also those that match no leaf (`reg(params)` raises there), and the
    leaves without a penalty, with the reason. In print, with more than 40 leaves, those whose paths differ only in
    numbers (`layers_0`, `layers_1`) share a row.

    Args:
        reg: a `TreeRegularizer`, or one regularizer for all floating leaves.
        params: any tree of arrays.

    Returns:
        a `Summary`: plain text of 80 columns by `print`, HTML in a notebook, in colours by `rich.print`; in code
        `leaves`, `penalty`, `gradient_norm`, `size`, `zeros`, `unmatched`, and `as_dict()` for JSON.

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
    tree = _as_rules(as_tree(reg), params)
    places = zip(flat.paths, flat.leaves, flat.parameters, strict=True)
    numbers = [(path, leaf, is_parameter) for path, leaf, is_parameter in places if _is_number(leaf)]
    deciding, idle = tree.decide(Leaves([p for p, _, _ in numbers], [leaf for _, leaf, _ in numbers], []))
    first_path: dict[int, str] = {}
    found = []
    for (path, leaf, is_parameter), rule in zip(numbers, deciding, strict=True):
        reason = _why_left_out(leaf, is_parameter, rule, first_path.get(id(leaf), ""))
        if isinstance(leaf, (jax.Array, np.ndarray)):
            first_path.setdefault(id(leaf), path)
        found.append((path, leaf, reason, None if reason or rule is None else rule.regularizer))
    zeros = [count_zeros("summary", path, leaf).zeros if is_inexact(leaf) else None for path, leaf, _, _ in found]
    measured = _measure([(path, regularizer, leaf) for path, leaf, _, regularizer in found])
    rows = [
        Leaf(path, np.shape(leaf), dtype_name(leaf), math.prod(np.shape(leaf)), regularizer, *numbers, n, reason)
        for (path, leaf, reason, regularizer), n, numbers in zip(found, zeros, measured, strict=True)
    ]
    return Summary(tuple(_use(rule, idle, deciding, rows) for rule in tree._rules), tuple(rows))


def _as_rules(tree: TreePenalty, params: Any) -> TreeRegularizer:
    """Return the tree's own rules, or, of a sum of trees, one for each leaf."""
    if isinstance(tree, TreeRegularizer):
        return tree
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


def _measure(leaves: Sequence[tuple[str, Regularizer | None, Any]]) -> list[tuple[Any, Any]]:
    """Penalty and gradient norm of each leaf."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The gradient of")
        values = [(None, None) if reg is None else _of_leaf(path, reg, leaf) for path, reg, leaf in leaves]
    return [(None, None) if a is None else (float(a), float(b)) for a, b in jax.device_get(values)]


def _of_leaf(path: str, regularizer: Regularizer, leaf: Any) -> tuple[jax.Array, jax.Array]:
    try:
        return _penalty_and_norm(regularizer, _padded(regularizer, _as_jax_has_it(leaf)))
    except (TypeError, ValueError, NotImplementedError) as error:
        kind = next(kind for kind in (NotImplementedError, TypeError, ValueError) if isinstance(error, kind))
        raise kind(f"`jaxreg.summary`, the leaf {short(path)}: {error}") from None


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
    return np.pad(entries, (0, max(1024, 1 << (entries.size - 1).bit_length()) - entries.size))


@jax.jit
def _penalty_and_norm(regularizer: Regularizer, leaf: Any) -> tuple[jax.Array, jax.Array]:
    penalty, gradient = jax.value_and_grad(regularizer)(leaf)
    return penalty, jnp.linalg.norm(numerics.promote(gradient).ravel())


def _use(rule: Rule, idle: Sequence[Rule], deciding: Sequence[Rule | None], rows: Iterable[Leaf]) -> RuleUse:
    of = (row for by, row in zip(deciding, rows, strict=True) if by is rule)
    paths = tuple(row.path for row in of if not row.left_out or row.left_out.startswith(BY_RULE))
    return RuleUse(_text(rule), without_arrays(rule.regularizer), paths, all(rule is not one for one in idle))


def _text(rule: Rule) -> str:
    pattern = rule.pattern
    return (
        pattern if isinstance(pattern, str) else getattr(pattern, "pattern", getattr(pattern, "__name__", "function"))
    )
