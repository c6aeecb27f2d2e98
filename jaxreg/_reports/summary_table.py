"""`Summary`: the summary as data, and as text."""

import dataclasses
import math
import re
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxreg._core.regularizer import Regularizer
from jaxreg._core.text import printable
from jaxreg._reports.conformity import Conformity
from jaxreg._reports.summary_groups import LeafGroups
from jaxreg._reports.table import WIDTH, Report, Table, count, leaves, merged, share

BY_RULE = "by the rule "


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One leaf: what it is, its regularizer with its numbers, or why it has none."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    size: int
    regularizer: Regularizer | None
    penalty: float | None  # None without a regularizer; so is the gradient norm
    gradient_norm: float | None  # of the penalty
    zeros: int | None  # entries that are exactly 0; None for leaves that are not floating or complex
    left_out: str  # why it has no regularizer; "" if it has one, or is penalized in groups across leaves
    blocks: int | None = None  # of `NofM`, groups of `TopK`
    conforming: int | None = None  # those of which no more entries than that are other than 0
    rank: int | None = None  # with `Rank`: the numerical rank, the largest in a stack
    groups: int | None = None  # of `Group`
    zero_groups: int | None = None  # those whose entries are all exactly 0


@dataclasses.dataclass(frozen=True)
class RuleUse:
    """One rule: its pattern, the repr of its regularizer, the leaves it decides over, whether any leaf matches.

    Where none does, `meant` is the pattern that was probably meant, or "".
    """

    pattern: str
    regularizer: str
    paths: tuple[str, ...]
    matches: bool
    meant: str = ""


@dataclasses.dataclass(frozen=True, repr=False)
class Summary(Report):
    """Hold what `summary` found: leaves, totals, and the rules that match nothing; print it as a table."""

    rules: tuple[RuleUse, ...]
    leaves: tuple[Leaf, ...]
    groups: tuple[LeafGroups, ...] = ()  # those that lie in several leaves
    shared: float = 0.0  # ‖∇R‖² beyond the sum of the parts, where a leaf has a penalty of its own beside its groups

    @property
    def penalty(self) -> float:
        """The penalty of the tree."""
        return math.fsum(part.penalty for part in self._parts() if part.penalty is not None)

    @property
    def gradient_norm(self) -> float:
        """The Euclidean norm of the penalty's gradient with respect to all leaves."""
        alone = math.hypot(*(part.gradient_norm for part in self._parts() if part.gradient_norm is not None))
        return math.sqrt(max(0.0, alone**2 + self.shared)) if self.shared else alone

    @property
    def size(self) -> int:
        """The number of entries of all floating and complex leaves."""
        return sum(leaf.size for leaf in self.leaves if leaf.zeros is not None)

    @property
    def zeros(self) -> int:
        """The number of those entries that are exactly 0."""
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
        groups = [dataclasses.asdict(part) for part in self.groups]
        return {"leaves": every, "groups": groups, "total": total, "rules": rules, "unmatched": list(self.unmatched)}

    def _parts(self) -> tuple[Leaf | LeafGroups, ...]:
        return (*self.leaves, *self.groups)

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
            if leaf.left_out and not leaf.left_out.startswith(BY_RULE) and (self.rules or self.groups):
                of.setdefault(leaf.left_out, []).append(leaf.path)
        penalties, conformities = self._penalties(), self._conformities()
        notes = []
        for rule in self.rules:
            paths = set(rule.paths)
            penalty = math.fsum(penalties[path] for path in paths)
            notes.append(_rule_note(rule, penalty, sum((conformities[path] for path in paths), Conformity())))
        notes += [_groups_note(part) for part in self.groups]
        notes += [f"left out, {reason}: {_named(paths)}" for reason, paths in of.items()]
        return [line for note in notes for line in textwrap.wrap(printable(note), WIDTH, subsequent_indent="    ")]

    def _conformities(self) -> dict[str, Conformity]:
        of: dict[str, Conformity] = {}
        for leaf in self.leaves:
            found = Conformity(leaf.blocks, leaf.conforming, leaf.rank, leaf.groups, leaf.zero_groups)
            of[leaf.path] = of.get(leaf.path, Conformity()) + found
        return of

    def _penalties(self) -> dict[str, float]:
        """The penalty of each path; different keys may be the same path: `a/b`, and `b` in `a`."""
        of: dict[str, list[float]] = {}
        for leaf in self.leaves:
            of.setdefault(leaf.path, []).append(leaf.penalty or 0.0)
        return {path: math.fsum(penalties) for path, penalties in of.items()}


def _repr(leaf: Leaf) -> str | None:
    return None if leaf.regularizer is None else without_arrays(leaf.regularizer)


class _Array(NamedTuple):
    """What is printed in place of an array in a regularizer, such as the reference of `Anchored`."""

    shape: tuple[int, ...]
    dtype: str

    def __repr__(self) -> str:
        return f"<{'×'.join(map(str, self.shape))} {self.dtype}>"


def without_arrays(regularizer: Regularizer | None) -> str:
    """The repr, with shape and dtype in place of arrays."""
    return repr(jax.tree.map(lambda c: _Array(np.shape(c), dtype_name(c)) if np.ndim(c) else c, regularizer))


def _positional(text: str) -> str:
    """`L1(0.1)` for `L1(l1=0.10000000149)`."""
    positional = re.sub(r"(?<=[(\s])\w+=", "", text)
    return re.sub(r"\d+\.\d{7,}(e-?\d+)?", lambda number: f"{float(number[0]):.6g}", positional)


def _cells(alike: Sequence[Leaf], total: float) -> tuple[str, ...]:
    """The cells after the path, for one leaf or for several that share a row."""
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


def _rule_note(rule: RuleUse, penalty: float, conformity: Conformity) -> str:
    name = f"rule {rule.pattern!r}, {rule.regularizer}"
    if not rule.matches:
        return f"{name}: NO LEAF MATCHES" + (f", write {rule.meant!r}" if rule.meant else "")
    if not rule.paths:
        return f"{name}: decides over no leaf, rules before it do"
    if rule.regularizer == "None":
        return f"{name}, leaves out {leaves(len(rule.paths))}"
    return f"{name}: {leaves(len(rule.paths))}, penalty {_number(penalty)}{conformity}"


def _groups_note(part: LeafGroups) -> str:
    groups = f", {part.zero_groups} of {part.groups} groups are zero"
    return (
        f"groups in {_named(part.paths)}, {part.regularizer}: penalty {_number(part.penalty)}, ‖∇R‖ "
        f"{_number(part.gradient_norm)}{groups}"
    )


def _named(paths: Sequence[str]) -> str:
    more = f" and {count(len(paths) - 4)} more" if len(paths) > 5 else ""
    return ", ".join(paths[: 4 if more else 5]) + more


def dtype_name(leaf: Any) -> str:
    """`f32`, `bf16`, `i8`, ...; the name of the type for what has no dtype."""
    dtype = getattr(leaf, "dtype", type(leaf).__name__)
    name = str(dtype.newbyteorder("=") if isinstance(dtype, np.dtype) else dtype)
    return re.sub(r"^(bf|[fcui])[a-z]*(?=\d)", r"\1", name)
