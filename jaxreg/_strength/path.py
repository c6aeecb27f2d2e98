"""path: train at every strength of a penalty at once, and find the strength to keep."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray

from jaxreg._core import checks
from jaxreg._core.constraint import Constraint
from jaxreg._core.keras_slots import sets_in
from jaxreg._core.regularizer import Regularizer
from jaxreg._core.struct import stable_name
from jaxreg._rules.paths import flatten_with_paths
from jaxreg._rules.tree import as_tree
from jaxreg._rules.tree_penalty import TreePenalty
from jaxreg._strength.runs import run

Reg = Regularizer | TreePenalty
Floats = NDArray[np.floating[Any]]


@stable_name
@dataclasses.dataclass(frozen=True)
class RegularizationPath:
    """Hold what `jaxreg.path` found: one entry for each of the n coefficients, in their order; NumPy throughout.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> def train(reg, key):
        ...     w = reg.prox(jnp.array([3.0, -1.0]))
        ...     return w, jnp.sum(w), -jnp.sum((w - 1) ** 2)
        >>> result = jaxreg.path(train, jaxreg.L1(1.0), [2.0, 1.0])
        >>> result.coefficients[result.best], result.at(result.best)
        (np.float64(2.0), array([1., 0.], dtype=float32))
    """

    coefficients: Floats  # (n,)
    losses: Floats  # (n,): mean over the keys
    scores: Floats  # (n,): mean over the keys, higher is better
    zeros: Floats  # (n,): share of the penalized entries that are exactly 0, mean over the keys
    fold_scores: Floats  # (n, k): one column for each key
    params: Any  # the trees stacked on axis 0; with `keys` given, the keys on axis 1

    @property
    def standard_errors(self) -> Floats:
        """Standard errors of `scores` over the keys, (n,); 0 for one key, which gives no estimate of it."""
        k = self.fold_scores.shape[1]
        return np.std(self.fold_scores, axis=1, ddof=1) / math.sqrt(k) if k > 1 else np.zeros(len(self.scores))

    @property
    def best(self) -> int:
        """Index of the highest score, of equal ones that of the strongest penalty; nan (divergence) is the lowest."""
        return self._strongest_above(float(np.max(_nan_lowest(self.scores))))

    @property
    def best_1se(self) -> int:
        """Index of the strongest penalty whose score is within one standard error of the best one."""
        best = self.best
        return self._strongest_above(float(self.scores[best] - self.standard_errors[best]))

    def at(self, index: int) -> Any:
        """Return the parameters of one strength."""
        return jax.tree.map(lambda leaf: leaf[index], self.params)

    def _strongest_above(self, score: float) -> int:
        if score == -math.inf:
            raise ValueError("`path`: every score is nan or -inf, so none is the best; lower the learning rate.")
        return int(np.argmax(np.where(_nan_lowest(self.scores) >= score, self.coefficients, -1.0)))


def path(
    train: Callable[..., tuple[Any, Any, Any]],
    regularizer: Reg | Callable[[jax.Array], Reg],
    coefficients: ArrayLike,
    *,
    keys: Any = None,
    start: Any = None,
    chunk: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    progress: bool = True,
) -> RegularizationPath:
    """Train at every strength of a penalty at once: one program, mapped over the stacked regularizer.

    `train` is traced once and mapped by `jax.vmap`, so it must be a JAX function that runs the whole training, for
    example with `jax.lax.scan`. With several keys every strength is trained with each of them: folds of a
    cross-validation or seeds, from which the one-standard-error rule takes its errors.

    With `start` the strengths are trained one after the other, from the strongest on, each from where the last one
    ended; the keys still run at once. A convex problem has the same minima, after fewer steps; one that is not convex
    may find better ones, since the strongest penalty leaves little to choose. On a machine with many arithmetic units
    all strengths at once may still be sooner. Linear models of thousands of features are for `jaxreg.minima`.

    As many trainings run at once as `chunk` says; by default all of them, or as many as the compiler's own estimate
    says fit into nine tenths of the memory of the devices. Several devices share the trainings. A progress bar is
    shown in a terminal if `rich` is there; it advances with the chunks.

    Args:
        train: `(regularizer, key) -> (params, loss, score)`: the trained tree and two scalars; a higher score is
            better. With `start`, `(regularizer, key, start) -> ...`. `jaxreg.minimize` is one that certifies what it
            found.
        regularizer: is multiplied by each coefficient, so write it with the coefficient 1; or a function
            `coefficient -> regularizer` such as `jaxreg.L1` or `lambda c: jaxreg.MCP(c, gamma=3.0)`. Both may be a
            `TreeRegularizer`. The largest coefficient is taken for the strongest penalty: of a set write a function
            under which it shrinks, such as `lambda c: jaxreg.TopK(1 - c)`, where c is the share of zeros.
        coefficients: a sequence of n; or one number c, for 50 from c down to c/1000 in equal ratios, such as
            `jaxreg.coefficient_max(regularizer, grads_at_zero)` (`numpy.geomspace` makes other grids).
        keys: a tree whose leaves have a leading axis of length k: `jax.random.split(key, k)`, `jnp.arange(k)` for the
            numbers of folds, masks of folds. By default `jax.random.key(0)`, and no axis for keys in the parameters.
        start: the tree to begin the strongest penalty at, like the trained one.
        chunk: the number of trainings at once; with `start`, of keys.
        devices: those to use, by default all.
        progress: whether to show the bar.

    Raises:
        TypeError: `train` does not return a triple, or `regularizer` or `coefficients` is of another type.
        ValueError: a coefficient is negative or not finite, `regularizer` is a set or a class of sets, the loss or
            score is no scalar, keys have no axis, or the trained tree is not like `start`.

    Example:
        >>> import jax.numpy as jnp, jaxreg, numpy as np
        >>> x, held_out = jnp.array([3.0, -1.0, 0.2]), jnp.array([2.5, 0.0, 0.0])
        >>> def train(reg, key):
        ...     w = reg.prox(x)                         # the minimum of ½‖w − x‖² + reg(w)
        ...     return w, 0.5 * jnp.sum((w - x) ** 2), -jnp.sum((w - held_out) ** 2)
        >>> result = jaxreg.path(train, jaxreg.L1(1.0), [4.0, 0.5, 0.1])
        >>> result.params
        array([[ 0. ,  0. ,  0. ],
               [ 2.5, -0.5,  0. ],
               [ 2.9, -0.9,  0.1]], dtype=float32)
        >>> result.zeros.round(2), result.best
        (array([1.  , 0.33, 0.  ]), 1)

        With `jaxreg.minimize`, each strength from the minimum of the one before:

        >>> def fit(reg, key, start):
        ...     found = jaxreg.minimize(lambda w: 0.5 * jnp.sum((w - x) ** 2), reg, start)
        ...     return found.params, found.value, -jnp.sum((found.params - held_out) ** 2)
        >>> jaxreg.path(fit, jaxreg.L1(1.0), [4.0, 0.5, 0.1], start=jnp.zeros(3)).params.round(3)
        array([[ 0. ,  0. ,  0. ],
               [ 2.5, -0.5,  0. ],
               [ 2.9, -0.9,  0.1]], dtype=float32)

        Folds of a cross-validation are masks, the keys; all folds and strengths run at once:

        >>> x, y = jnp.tile(jnp.eye(2), (3, 1)), jnp.array([3.0, 0.5, 3.5, 0.0, 2.5, 1.0])
        >>> masks = jnp.repeat(1 - jnp.eye(3), 2, axis=1)           # a row for each fold, 1 where it is trained on
        >>> def on_fold(reg, mask):
        ...     found = jaxreg.minimize(lambda w: mask @ (x @ w - y) ** 2 / (2 * mask.sum()), reg, jnp.zeros(2))
        ...     return found.params, found.value, -(1 - mask) @ (x @ found.params - y) ** 2 / (1 - mask).sum()
        >>> folds = jaxreg.path(on_fold, jaxreg.L1(1.0), [0.25, 0.05], keys=masks)
        >>> folds.fold_scores.round(2)                              # less the mean square of each fold
        array([[-0.25, -0.81, -0.53],
               [-0.01, -0.57, -0.57]])
    """
    grid = grid_of("path", coefficients)
    reg_at = _at(regularizer)
    stacked_keys = jax.random.key(0)[None] if keys is None else keys
    k = _number_of_keys(stacked_keys)

    def one(coefficient: jax.Array, key: Any, *begin: Any) -> Any:
        reg = reg_at(coefficient)
        params, loss, score = _triple(train(reg, key, *begin))
        return params, loss, score, _zero_share(as_tree(reg), params)

    def one_after_the_other(key: Any) -> Any:
        def step(params: Any, coefficient: jax.Array) -> Any:
            result = one(coefficient, key, params)
            return _like_start(params, result[0]), result

        order = np.argsort(-grid, kind="stable")
        results = jax.lax.scan(step, jax.tree.map(_strongly_typed, start), jnp.asarray(grid[order]))[1]
        return jax.tree.map(lambda leaf: leaf[np.argsort(order)], results)

    def runs(start: int, size: int) -> tuple[Any, Any]:
        index = np.minimum(np.arange(start, start + size), len(grid) * k - 1)  # the last one again fills up a chunk
        return jnp.asarray(grid[index // k]), jax.tree.map(lambda leaf: leaf[index % k], stacked_keys)

    if start is None:
        params, *measured = run(one, runs, len(grid) * k, _chunk(chunk), devices, progress)
    else:

        def paths(first: int, size: int) -> tuple[Any]:
            index = np.minimum(np.arange(first, first + size), k - 1)
            return (jax.tree.map(lambda leaf: leaf[index], stacked_keys),)

        results = run(one_after_the_other, paths, k, _chunk(chunk), devices, progress)
        params, *measured = jax.tree.map(lambda leaf: np.swapaxes(leaf, 0, 1), results)
    losses, scores, zeros = (np.asarray(values, float).reshape(len(grid), k) for values in measured)
    shape = (len(grid),) if keys is None else (len(grid), k)
    entries = 1 if start is None else 2  # where the axes of a leaf begin
    params = jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[entries:]), params)
    return RegularizationPath(grid, losses.mean(axis=1), scores.mean(axis=1), zeros.mean(axis=1), scores, params)


def grid_of(call: str, coefficients: Any) -> Floats:
    """The coefficients that the user gave or, of one number, those of a path from it down."""
    if np.ndim(coefficients) == 0:
        top = checks.number(f"{call}(coefficients=...)", coefficients, above=0.0)
        return np.geomspace(top, top / 1000, 50)
    grid = np.asarray([checks.number(f"{call}(coefficients=...)", c, above=None) for c in coefficients], float)
    if grid.ndim != 1 or not len(grid):
        raise ValueError(f"`{call}(coefficients=...)` takes a number or a sequence of numbers, got shape {grid.shape}.")
    return grid


def _at(regularizer: Any) -> Callable[[jax.Array], Reg]:
    is_class = isinstance(regularizer, type) and issubclass(regularizer, Constraint)
    is_one = isinstance(regularizer, (Regularizer, TreePenalty)) and sets_in(regularizer) == [regularizer]
    if is_class or is_one:
        raise ValueError(
            f"`path(regularizer=...)`: a set has no strength, its multiples are the same set, got "
            f"{checks.short(regularizer)}. Give a function under which it shrinks as the coefficient grows, "
            "`lambda c: jaxreg.TopK(1 - c)`, where c is the share of zeros."
        )
    if isinstance(regularizer, (Regularizer, TreePenalty)):
        return lambda coefficient: coefficient * regularizer
    if not callable(regularizer):
        raise TypeError(
            "`path(regularizer=...)` takes a regularizer or a function `coefficient -> regularizer`, got "
            f"{checks.short(regularizer)}."
        )

    def at(coefficient: jax.Array) -> Reg:
        reg = regularizer(coefficient)
        if not isinstance(reg, (Regularizer, TreePenalty)):
            raise TypeError(
                f"`path(regularizer=...)`: the function must return a regularizer, got {checks.short(reg)}."
            )
        return reg

    return at


def _number_of_keys(keys: Any) -> int:
    lengths = {leaf.shape[0] if getattr(leaf, "shape", ()) else 0 for leaf in jax.tree.leaves(keys)}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            "`path(keys=...)` takes arrays with one common leading axis, such as `jax.random.split(key, 5)` or "
            f"`jnp.arange(5)`, got {checks.short(jax.tree.map(jnp.shape, keys))} as shapes."
        )
    return int(lengths.pop())


def _chunk(chunk: Any) -> int | None:
    if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
        raise ValueError(f"`path(chunk=...)` takes a whole number of at least 1 or None, got {checks.short(chunk)}.")
    return chunk


def _triple(result: Any) -> tuple[Any, Any, Any]:
    if not isinstance(result, tuple) or len(result) != 3:
        raise TypeError(f"`path(train=...)` must return (params, loss, score), got {checks.short(result)}.")
    for name, value in zip(("loss", "score"), result[1:], strict=True):
        if jnp.shape(value) != ():
            raise ValueError(f"`path(train=...)` must return a scalar {name}, got shape {jnp.shape(value)}.")
    return result


def _strongly_typed(leaf: Any) -> jax.Array:
    return jnp.asarray(leaf, jnp.result_type(leaf))


def _like_start(start: Any, params: Any) -> Any:
    kinds = [jax.tree.map(lambda leaf: (jnp.shape(leaf), str(jnp.result_type(leaf))), tree) for tree in (start, params)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            "`path(start=...)` is a tree like the trained one, because the next strength begins there: got "
            f"{checks.short(kinds[0])} as shapes and dtypes for {checks.short(kinds[1])}."
        )
    return jax.tree.map(_strongly_typed, params)


def _zero_share(reg: TreePenalty, params: Any) -> jax.Array:
    flat = flatten_with_paths(params)
    assigned = reg.assign(flat)
    joint = {i for joint in reg.joints(flat) for i in joint.positions}
    shown = enumerate(zip(flat.leaves, assigned, strict=True))
    penalized = [jnp.asarray(leaf) for i, (leaf, r) in shown if r is not None or i in joint]
    zeros = sum((jnp.sum(leaf == 0) for leaf in penalized), start=jnp.zeros((), int))
    return zeros / max(1, sum(leaf.size for leaf in penalized))


def _nan_lowest(scores: Floats) -> Floats:
    return np.where(np.isnan(scores), -np.inf, scores)
