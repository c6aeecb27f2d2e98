"""TreePenalty: what every penalty of a whole tree does; sums of them."""

import abc
from collections.abc import Sequence
from typing import Any, ClassVar, Self, final

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg._core import checks, codec, compiler, names
from jaxreg._core.operators import Operators, adds
from jaxreg._core.regularizer import Regularizer
from jaxreg._core.struct import Struct
from jaxreg._rules.joint import Joint, refuse_overlaps
from jaxreg._rules.paths import Leaves, flatten_with_paths


class TreePenalty(Operators, Struct, abc.ABC):
    """Penalize the leaves of a parameter tree. A subclass says which leaf has which regularizer, in `assign`."""

    _argument: ClassVar[str] = "params"
    is_joint: ClassVar[bool] = False  # whether the proximal operator looks at several leaves together

    @abc.abstractmethod
    def assign(self, flat: Leaves) -> list[Regularizer | None]:
        """Return the regularizer of each leaf, None for those left alone."""

    def joints(self, flat: Leaves) -> list[Joint]:
        """Return the penalties of groups across leaves."""
        del flat
        return []

    def refusal(self, what: str) -> NotImplementedError:
        """The error where single leaves of a joint penalty are asked for something."""
        return NotImplementedError(f"`{type(self).__name__}`: single leaves have no {what} of their own.")

    @abc.abstractmethod
    def __mul__(self, factor: Any) -> "TreePenalty":
        """Return the penalty times a factor."""

    def __rmul__(self, factor: Any) -> "TreePenalty":
        return self * factor

    def __add__(self, other: Any) -> "TreePenalty":
        return TreeSum((*_terms(self), *_terms(other))) if adds(self, other, _is_penalty) else self

    def __radd__(self, other: Any) -> "TreePenalty":
        return TreeSum((*_terms(other), *_terms(self))) if adds(other, self, _is_penalty) else self

    def __truediv__(self, divisor: Any) -> "TreePenalty":
        return self * self._inverse(divisor)

    def __call__(self, params: Any) -> jax.Array:
        """Return the penalty of the tree, a scalar."""
        penalties = list(self._penalties(params).values())
        return added(penalties)

    def breakdown(self, params: Any) -> dict[str, jax.Array]:
        """Return `{path: penalty}` for the penalized leaves; the values add up to the penalty of the tree.

        A penalty of groups across leaves stands beside all of their paths, joined by commas.
        """
        return self._penalties(params)

    def assignment(self, params: Any) -> dict[str, Regularizer]:
        """Return `{path: regularizer}` for the penalized leaves; computes nothing, so shapes alone will do."""
        return {path: regularizer for path, _, regularizer in self._penalized(params)}

    def prox(self, params: Any, step: Any = 1.0) -> Any:
        """Return the tree with the proximal operator of its rule applied to each leaf, the others unchanged.

        Args:
            params: the tree.
            step: a non-negative number, or a tree like `params` of numbers and arrays (see `Regularizer.prox`).
        """
        flat = flatten_with_paths(params)
        one_step = isinstance(step, (int, float, np.generic)) or (hasattr(step, "shape") and step.shape == ())
        steps = [step] * len(flat.leaves) if one_step else flat.treedef.flatten_up_to(step)
        own, joints = self.assign(flat), self.joints(flat)
        tied = _tied(flat.leaves) if self.is_joint else {}
        new = self.prox_of_leaves([None if i in tied else reg for i, reg in enumerate(own)], flat.leaves, steps)
        for second, first in tied.items():
            new[second] = new[first]
        refuse_overlaps(joints)
        for joint in joints:
            beside, blocks = joint.beside(own, flat.leaves), joint.blocks(flat.leaves)
            joint.put(joint.prox(beside, blocks, joint.steps(steps, flat.leaves)), new)
        return flat.treedef.unflatten(new)

    def prox_of_leaves(
        self, assigned: Sequence[Regularizer | None], leaves: Sequence[Any], steps: Sequence[Any]
    ) -> list[Any]:
        """Return the leaves after the proximal operator, given what `assign` gave for them; None leaves one alone."""
        return [
            leaf if regularizer is None else regularizer.prox(leaf, leaf_step)
            for leaf, leaf_step, regularizer in zip(leaves, steps, assigned, strict=True)
        ]

    def slopes_of_leaves(self, leaves: Sequence[jax.Array]) -> list[jax.Array]:
        """Return |∂R/∂w_i| of leaves that are penalized together; 0 everywhere for a set."""
        return [jnp.zeros_like(jnp.real(leaf)) for leaf in leaves]

    def _penalized(self, params: Any) -> list[tuple[str, Any, Regularizer]]:
        flat = flatten_with_paths(params)
        seen: set[int] = set()
        found = []
        for path, leaf, regularizer in zip(flat.paths, flat.leaves, self.assign(flat), strict=True):
            if regularizer is None or id(leaf) in seen:
                continue
            if isinstance(leaf, (jax.Array, np.ndarray)):
                seen.add(id(leaf))
            found.append((path, leaf, regularizer))
        return found

    def _penalties(self, params: Any) -> dict[str, jax.Array]:
        penalized = self._penalized(params)
        values = _evaluate([reg for _, _, reg in penalized], [leaf for _, leaf, _ in penalized])
        flat = flatten_with_paths(params)
        joints = self.joints(flat)
        paths = [path for path, _, _ in penalized] + [", ".join(flat.paths[i] for i in j.positions) for j in joints]
        values += [joint.value(flat.leaves) for joint in joints]
        result: dict[str, jax.Array] = {}
        for path, value in zip(paths, values, strict=True):
            result[path] = result[path] + value if path in result else value  # keys that contain "/" may coincide
        return result


def _tied(leaves: Sequence[Any]) -> dict[int, int]:
    """The positions of arrays that stand in an earlier place too, with that place."""
    first: dict[int, int] = {}
    found = {i: first.setdefault(id(x), i) for i, x in enumerate(leaves) if isinstance(x, (jax.Array, np.ndarray))}
    return {i: j for i, j in found.items() if i != j}


def _is_penalty(value: Any) -> bool:
    return isinstance(value, TreePenalty)


def _terms(reg: TreePenalty) -> tuple[TreePenalty, ...]:
    return reg.terms if isinstance(reg, TreeSum) else (reg,)


@final
class TreeSum(TreePenalty):
    """Add penalties of trees: each leaf has the sum of what the terms give it. Written `a + b`.

    Args:
        terms: the penalties of trees (children of the pytree).

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
        >>> decay = jaxreg.TreeRegularizer({"**": jaxreg.L2(0.5)})
        >>> sparse = jaxreg.TreeRegularizer({"kernel": jaxreg.L1(0.1), "bias": None})
        >>> (decay + sparse).assignment(params)
        {'bias': L2(l2=0.5), 'kernel': Sum(terms=(L2(l2=0.5), L1(l1=0.1)))}
    """

    terms: tuple[TreePenalty, ...] = ()

    def __post_init__(self) -> None:
        terms = self.terms if isinstance(self.terms, (list, tuple)) else (self.terms,)
        for term in terms:
            if not isinstance(term, TreePenalty):
                raise TypeError(
                    f"`TreeSum(terms=...)` takes penalties of trees, got {checks.short(term)}. Write a sum as `a + b`, "
                    "and a regularizer for all leaves as `jaxreg.TreeRegularizer({'**': reg})`."
                )
            if term.is_joint and len(terms) > 1:
                raise term.refusal("penalty")
        object.__setattr__(self, "terms", tuple(terms))

    def assign(self, flat: Leaves) -> list[Regularizer | None]:
        columns = zip(*(term.assign(flat) for term in self.terms), strict=True)
        present = ([regularizer for regularizer in column if regularizer is not None] for column in columns)
        return [sum(found[1:], start=found[0]) if found else None for found in present]

    def joints(self, flat: Leaves) -> list[Joint]:
        return [joint for term in self.terms for joint in term.joints(flat)]

    def get_config(self) -> dict[str, Any]:
        """Return the terms as plain lists and dicts, fit for JSON."""
        return {"terms": [codec.encode(term) for term in self.terms]}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Return the penalty whose `get_config` gave `config`."""
        if not isinstance(config, dict) or not isinstance(config.get("terms"), (list, tuple)) or len(config) != 1:
            raise ValueError(f"`TreeSum.from_config` takes {{'terms': [...]}}, got {checks.short(config)}.")
        return cls(tuple(codec.decode(dict(config), {})["terms"]))

    def __mul__(self, factor: Any) -> "TreeSum":
        return TreeSum(tuple(term * self._factor(factor) for term in self.terms))


@jax.jit
def _evaluate(regularizers: list[Regularizer], leaves: list[Any]) -> list[jax.Array]:
    return [regularizer(leaf) for regularizer, leaf in zip(regularizers, leaves, strict=True)]


@jax.jit
def added(penalties: list[jax.Array]) -> jax.Array:
    """Their sum, in float32 or in the widest of their dtypes."""
    dtypes = [penalty.dtype for penalty in penalties]
    dtype = np.result_type(np.float32, *dtypes)
    return compiler.total([jnp.zeros((), dtype), *(penalty.astype(dtype) for penalty in penalties)])


names.add_builtin(TreeSum)
