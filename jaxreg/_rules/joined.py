"""Joined: a penalty of several leaves taken as one vector."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NoReturn, Self, final

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxreg._core import checks, codec, names
from jaxreg._core.regularizer import Regularizer, as_regularizer
from jaxreg._core.struct import static
from jaxreg._rules.identifiers import get
from jaxreg._rules.paths import Leaves
from jaxreg._rules.patterns import check_pattern, decode_pattern, encode_pattern
from jaxreg._rules.tree import TreeRegularizer
from jaxreg._rules.tree_penalty import TreePenalty


@final
class Joined(TreePenalty):
    """Penalize several leaves as one vector: a norm, a ball, a sphere, a simplex, the largest entries of them all.

        R(params) = P(w),   w the entries of the leaves whose path matches, one leaf after the other

    In a `TreeRegularizer` each leaf has a penalty of its own: with `MaxNorm` each one a ball, here all of them one
    together. What a path matches, and what is a parameter, is as in a `TreeRegularizer`. Leaves of several dtypes are
    joined in the widest of them. The vector is one array in memory: a penalty that is a sum over entries, as L1 and L2
    are, needs it not, and goes into a `TreeRegularizer`.

    It has a value and a proximal operator of the tree, and `jaxreg.minimize` takes it. Single leaves have none, so that
    no other penalty of trees is added to it: add the values in the loss.

    Args:
        penalty: of arrays of rank 1: the axis of a group or a norm is 0.
        leaves: static; a pattern as in `TreeRegularizer`: a glob, a compiled `re` pattern or a function.

    Raises:
        ValueError: the pattern matches no leaf. NotImplementedError: it was asked for the penalty of a single leaf.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> params = {"a": jnp.array([3.0]), "b": jnp.array([[4.0]])}
        >>> ball = jaxreg.Joined(jaxreg.MaxNorm(1.0, axis=0))
        >>> ball.prox(params)
        {'a': Array([0.6], dtype=float32), 'b': Array([[0.8]], dtype=float32)}
        >>> float(jaxreg.Joined(jaxreg.Group(jaxreg.L1(0.5), axis=0))(params))          # half of ‖(3, 4)‖
        2.5
    """

    is_joint: ClassVar[bool] = True  # one operator for all leaves: `prox_of_leaves`

    penalty: Any
    leaves: Any = static("**")

    def __post_init__(self) -> None:
        object.__setattr__(self, "penalty", as_regularizer(get(self.penalty)))
        check_pattern(self.leaves)

    def assign(self, flat: Leaves) -> list[Regularizer | None]:
        """Return for each leaf whether it is a part of the vector, None for those left alone."""
        chosen = TreeRegularizer(((self.leaves, self.penalty),)).assign(flat)
        return [None if found is None else PartOfJoined(self.penalty) for found in chosen]

    def __call__(self, params: Any) -> jax.Array:
        """Return the penalty of the tree, a scalar."""
        return self.penalty(self.vector(params))

    def breakdown(self, params: Any) -> dict[str, jax.Array]:
        """Return the penalty beside all paths, joined by commas."""
        return {", ".join(path for path, _, _ in self._penalized(params)): self(params)}

    def prox_of_leaves(
        self, assigned: Sequence[Regularizer | None], leaves: Sequence[Any], steps: Sequence[Any]
    ) -> list[Any]:
        """Return the leaves after the proximal operator; those that have no part in it as they are."""
        places = [i for i, part in enumerate(assigned) if part is not None]
        parts, taus = [jnp.asarray(leaves[i]) for i in places], [steps[i] for i in places]
        same = all(tau is taus[0] for tau in taus) and not np.ndim(taus[0])
        step = (
            taus[0] if same else _vector([jnp.broadcast_to(tau, x.shape) for tau, x in zip(taus, parts, strict=True)])
        )
        moved = _split(self.penalty.prox(_vector(parts), step), parts)
        new = list(leaves)
        for i, x, part in zip(places, parts, moved, strict=True):
            new[i] = (part if jnp.iscomplexobj(x) else jnp.real(part)).astype(x.dtype)
        return new

    def slopes_of_leaves(self, leaves: Sequence[jax.Array]) -> list[jax.Array]:
        return _split(jnp.abs(jax.grad(self.penalty)(_vector(list(leaves)))), leaves) if leaves else []

    def refusal(self, what: str) -> NotImplementedError:
        return _refusal(what)

    def vector(self, params: Any) -> jax.Array:
        """Return the entries of the leaves, one leaf after the other."""
        return _vector([leaf for _, leaf, _ in self._penalized(params)])

    def get_config(self) -> dict[str, Any]:
        """Return the penalty and the pattern as plain dicts and lists, fit for JSON."""
        return {"penalty": codec.encode(self.penalty), "leaves": encode_pattern(self.leaves)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Return the penalty whose `get_config` gave `config`."""
        if not isinstance(config, Mapping) or set(config) != {"penalty", "leaves"}:
            raise ValueError(
                f"`Joined.from_config` takes {{'penalty': ..., 'leaves': ...}}, got {checks.short(config)}."
            )
        return cls(codec.decode(dict(config), {})["penalty"], decode_pattern(config["leaves"]))

    def __mul__(self, factor: Any) -> "Joined":
        return Joined(self._factor(factor) * self.penalty, self.leaves)


@final
class PartOfJoined(Regularizer):
    """That a leaf is a part of a vector. The penalty is that of the vector, so there is nothing to ask of one leaf."""

    penalty: Any

    def __call__(self, x: ArrayLike) -> NoReturn:
        raise _refusal("penalty")

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> NoReturn:
        raise _refusal("proximal operator")


def _refusal(what: str) -> NotImplementedError:
    return NotImplementedError(
        f"`Joined`: a leaf has no {what} of its own, nor in a sum with others. Ask the tree, `joined(params)`, "
        "`joined.prox(params, step)`; in a loss write `loss(params) + joined(params)`."
    )


def _vector(leaves: list[Any]) -> jax.Array:
    return jnp.concatenate([jnp.ravel(leaf) for leaf in leaves])


def _split(vector: jax.Array, like: Sequence[Any]) -> list[jax.Array]:
    ends = np.cumsum([np.size(leaf) for leaf in like])
    return [x.reshape(np.shape(leaf)) for x, leaf in zip(jnp.split(vector, ends[:-1]), like, strict=True)]


names.add_builtin(Joined)
