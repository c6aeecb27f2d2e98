"""What a regularizer does to a tree of parameters, leaf by leaf."""

import dataclasses
import math
import re
import textwrap
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg import _numerics, _paths
from jaxreg._regularizer import Regularizer
from jaxreg._rules import Rule
from jaxreg._sparsity import count_zeros
from jaxreg._table import WIDTH, Report, Table, count, leaves, merged, share
from jaxreg._tree import TreeRegularizer, as_tree, is_inexact

_BY_RULE = "by the rule "


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One leaf: what it is, its regularizer and what comes of it, or why it has none."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    size: int
    regularizer: Regularizer | None
    penalty: float | None  # None where there is no regularizer, as the gradient norm
    gradient_norm: float | None  # of the penalty
    zeros: int | None  # entries that are exactly 0; None where there are no floats to count
    left_out: str  # why it has no regularizer; "" if it has one


@dataclasses.dataclass(frozen=True)
class RuleUse:
    """One rule: its pattern, its regularizer in words, the leaves that it decides over, whether any leaf matches."""

    pattern: str
    regularizer: str
    paths: tuple[str, ...]
    matches: bool


@dataclasses.dataclass(frozen=True, repr=False)
class Summary(Report):
    """Hold the leaves, the totals and the rules that match nothing; print as a table."""

    rules: tuple[RuleUse, ...]
    leaves: tuple[Leaf, ...]

    @property
    def penalty(self) -> float:
        """The penalty of the tree."""
        return math.fsum(leaf.penalty for leaf in self.leaves if leaf.penalty is not None)

    @property
    def gradient_norm(self) -> float:
        """The norm of the penalty's gradient with respect to all leaves."""
        return math.hypot(*(leaf.gradient_norm for leaf in self.leaves if leaf.gradient_norm is not None))

    @property
    def size(self) -> int:
        """The number of floating and complex entries."""
        return sum(leaf.size for leaf in self.leaves if leaf.zeros is not None)

    @property
    def zeros(self) -> int:
        """The number of these that are exactly 0."""
        return sum(leaf.zeros for leaf in self.leaves if leaf.zeros is not None)

    @property
    def unmatched(self) -> tuple[str, ...]:
        """The patterns that match no leaf."""
        return tuple(rule.pattern for rule in self.rules if not rule.matches)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers, strings and lists, fit for JSON; regularizers by their repr."""
        every = [
            {**{f.name: getattr(leaf, f.name) for f in dataclasses.fields(leaf)}, "regularizer": _repr(leaf)}
            for leaf in self.leaves
        ]
        total = {name: getattr(self, name) for name in ("size", "penalty", "gradient_norm", "zeros")}
        rules = [{"pattern": r.pattern, "regularizer": r.regularizer, "leaves": len(r.paths)} for r in self.rules]
        return {"leaves": every, "total": total, "rules": rules, "unmatched": list(self.unmatched)}

    def _table(self) -> Table:
        header = ("path", "shape", "dtype", "regularizer", "penalty", "share", "zeros", "‖∇R‖")
        penalty = self.penalty
        kinds = [(leaf.path, (leaf.shape, leaf.dtype, _repr(leaf), leaf.left_out)) for leaf in self.leaves]
        rows = [(path, *_cells([self.leaves[i] for i in alike], penalty)) for path, alike in merged(kinds)]
        total = (leaves(len(self.leaves)), count(self.size), "", "", _number(penalty), "")
        return Table(header, rows, (*total, share(self.zeros, self.size), _number(self.gradient_norm)), (0, 1, 2, 3))

    def _notes(self) -> list[str]:
        of: dict[str, list[str]] = {}
        for leaf in self.leaves:
            if leaf.left_out and not leaf.left_out.startswith(_BY_RULE) and self.rules:
                of.setdefault(leaf.left_out, []).append(leaf.path)
        penalties = {leaf.path: leaf.penalty or 0.0 for leaf in self.leaves}
        notes = [_rule_note(rule, math.fsum(map(penalties.__getitem__, rule.paths))) for rule in self.rules]
        notes += [f"left out, {reason}: {_named(paths)}" for reason, paths in of.items()]
        return [line for note in notes for line in textwrap.wrap(note, WIDTH, subsequent_indent="    ")]


def summary(reg: Any, params: Any) -> Summary:
    """Show what a regularizer does to each leaf of a tree: which one it has, and what comes of it.

    For each leaf: path, shape, dtype, the regularizer that the rules assign, its penalty R(leaf) and share of the
    tree's, the entries that are exactly 0, and ‖∇R(leaf)‖, the Euclidean norm of the penalty's gradient. Below the
    totals stand the rules, also those that match no leaf (where `reg(params)` raises), and what is left out and why.
    In print, from 40 leaves on, those that differ only in numbers (`layers_0`, `layers_1`) share a row.

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
    tree: TreeRegularizer = as_tree(reg)
    paths, arrays, _ = _paths.flatten(params)
    shown = [(path, leaf) for path, leaf in zip(paths, arrays, strict=True) if _is_number(leaf)]
    deciding, idle = tree.decide([path for path, _ in shown], [leaf for _, leaf in shown])
    first_path: dict[int, str] = {}
    found = []
    for (path, leaf), rule in zip(shown, deciding, strict=True):
        reason = _why_left_out(leaf, rule, first_path.get(id(leaf), ""))
        if isinstance(leaf, (jax.Array, np.ndarray)):
            first_path.setdefault(id(leaf), path)
        found.append((path, leaf, reason, None if reason or rule is None else rule.regularizer))
    zeros = [count_zeros("summary", path, leaf).zeros if is_inexact(leaf) else None for path, leaf, _, _ in found]
    measured = _measure([(regularizer, leaf) for _, leaf, _, regularizer in found])
    rows = [
        Leaf(path, np.shape(leaf), _dtype(leaf), math.prod(np.shape(leaf)), regularizer, *numbers, n, reason)
        for (path, leaf, reason, regularizer), n, numbers in zip(found, zeros, measured, strict=True)
    ]
    return Summary(tuple(_use(rule, idle, deciding, rows) for rule in tree._rules), tuple(rows))


def _is_number(leaf: Any) -> bool:
    """Whether it is an array or a number: not a function of a module, nor where an optax wrapper took a leaf away."""
    return hasattr(leaf, "dtype") or isinstance(leaf, (int, float, complex))


def _why_left_out(leaf: Any, rule: Rule | None, first_path: str) -> str:
    if not is_inexact(leaf):
        return "not a float or complex array"
    if first_path:
        return f"the same array as {first_path}"
    if rule is None:
        return "no rule matches"
    return f"{_BY_RULE}{_text(rule)!r}" if rule.regularizer is None else ""


def _measure(pairs: Sequence[tuple[Regularizer | None, Any]]) -> list[tuple[Any, Any]]:
    """Penalty and gradient norm of each leaf."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The gradient of")
        values = [(None, None) if reg is None else _penalty_and_norm(reg, _padded(reg, leaf)) for reg, leaf in pairs]
    return [(None, None) if a is None else (float(a), float(b)) for a, b in jax.device_get(values)]


def _padded(regularizer: Regularizer, leaf: Any) -> Any:
    """The leaf, or where only its entries count, these and zeros up to a power of two: one program for many shapes."""
    if not regularizer._is_elementwise():
        return leaf
    entries = np.asarray(leaf).ravel()
    return np.pad(entries, (0, max(1024, 1 << (entries.size - 1).bit_length()) - entries.size))


@jax.jit
def _penalty_and_norm(regularizer: Regularizer, leaf: Any) -> tuple[jax.Array, jax.Array]:
    penalty, gradient = jax.value_and_grad(regularizer)(leaf)
    return penalty, jnp.linalg.norm(_numerics.promote(gradient).ravel())


def _use(rule: Rule, idle: Sequence[Rule], deciding: Sequence[Rule | None], rows: Iterable[Leaf]) -> RuleUse:
    of = (row for by, row in zip(deciding, rows, strict=True) if by is rule)
    paths = tuple(row.path for row in of if not row.left_out or row.left_out.startswith(_BY_RULE))
    return RuleUse(_text(rule), _without_arrays(rule.regularizer), paths, all(rule is not one for one in idle))


def _text(rule: Rule) -> str:
    pattern = rule.pattern
    return (
        pattern if isinstance(pattern, str) else getattr(pattern, "pattern", getattr(pattern, "__name__", "function"))
    )


def _dtype(leaf: Any) -> str:
    """`f32`, `bf16`, `i8`, ...; the type of what has no dtype."""
    name = str(leaf.dtype) if hasattr(leaf, "dtype") else type(leaf).__name__
    return re.sub(r"^(bf|[fcui])[a-z]*(?=\d)", r"\1", name)


# ------------------------------------------------------------------------------------------------------------- words


def _repr(leaf: Leaf) -> str | None:
    return None if leaf.regularizer is None else _without_arrays(leaf.regularizer)


class _Array(NamedTuple):
    """Stands where a regularizer has an array, such as the reference of `Anchored`."""

    shape: tuple[int, ...]
    dtype: str

    def __repr__(self) -> str:
        return f"<{'×'.join(map(str, self.shape))} {self.dtype}>"


def _without_arrays(regularizer: Regularizer | None) -> str:
    """The repr, with arrays by their shapes."""
    return repr(jax.tree.map(lambda c: _Array(np.shape(c), _dtype(c)) if np.ndim(c) else c, regularizer))


def _positional(text: str) -> str:
    """`L1(0.1)` for `L1(l1=0.10000000149)`."""
    positional = re.sub(r"(?<=[(\s])\w+=", "", text)
    return re.sub(r"\d+\.\d{7,}(e-?\d+)?", lambda number: f"{float(number[0]):.6g}", positional)


def _cells(alike: Sequence[Leaf], total: float) -> tuple[str, ...]:
    """The row of one leaf, or of some that are alike, after its path."""
    one = alike[0]
    shape = "×".join(map(str, one.shape)) or "scalar"
    zeros = "-" if one.zeros is None else share(sum(leaf.zeros or 0 for leaf in alike), one.size * len(alike))
    if one.penalty is None:
        return shape, one.dtype, "-", "-", "-", zeros, "-"
    penalty = math.fsum(leaf.penalty or 0.0 for leaf in alike)
    norm = math.hypot(*(leaf.gradient_norm or 0.0 for leaf in alike))
    return (
        shape,
        one.dtype,
        _positional(_repr(one) or ""),
        _number(penalty),
        share(penalty, total),
        zeros,
        _number(norm),
    )


def _number(x: float) -> str:
    return f"{x:.3g}"


def _rule_note(rule: RuleUse, penalty: float) -> str:
    name = f"rule {rule.pattern!r}, {rule.regularizer}"
    if not rule.matches:
        return f"{name}: NO LEAF MATCHES"
    if not rule.paths:
        return f"{name}: decides over no leaf, rules before it do"
    if rule.regularizer == "None":
        return f"{name}, leaves out {leaves(len(rule.paths))}"
    return f"{name}: {leaves(len(rule.paths))}, penalty {_number(penalty)}"


def _named(paths: Sequence[str]) -> str:
    more = f" and {count(len(paths) - 4)} more" if len(paths) > 5 else ""
    return ", ".join(paths[: 4 if more else 5]) + more
