"""Training, with a penalty or without; removal of the units of least norm; the multiply-adds of a network."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from numpy.typing import NDArray

import jaxreg
from tests.benchmarks.pruning.digits import Examples, Network, disturbed, forward

Groups = Sequence[jaxreg.JointGroup]


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Adam on batches of disturbed images, its rate falling to 0 as a cosine; with `proximal` it is `proximal_adam`.

    Without `proximal` a penalty is part of the loss. Rates and strengths are arguments of the one compiled step.
    """

    network: Network
    examples: Examples
    batch: int
    proximal: bool = False

    def train(self, variables: Any, steps: int, rate: float, seed: int, penalty: Any = None) -> tuple[Any, float]:
        """The new variables, and the seconds of processor time that all steps took, without compiling the first."""
        optimizer = jaxreg.proximal_adam(rate, penalty) if self.proximal else optax.adam(rate)
        rng, state = np.random.default_rng(seed), optimizer.init(variables)
        self._step(variables, state, np.float32(0), penalty, *self._batch(np.random.default_rng(0)))
        start = time.process_time()
        for i in range(steps):
            now = np.float32(rate * (1 + math.cos(math.pi * i / steps)) / 2)
            variables, state = self._step(variables, state, now, penalty, *self._batch(rng))
        jax.block_until_ready(variables)
        return variables, time.process_time() - start

    def _batch(self, rng: np.random.Generator) -> Examples:
        images, labels = self.examples
        chosen = rng.integers(0, len(images), self.batch)
        return disturbed(images[chosen], rng), labels[chosen]

    @functools.cached_property
    def _step(self) -> Callable[..., tuple[Any, Any]]:
        def loss(variables: Any, penalty: Any, images: Any, labels: Any) -> tuple[jax.Array, Any]:
            module = self.network.like(variables)
            logits, statistics = module.apply(variables, images, train=True, mutable=["batch_stats"])
            value = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            return value if penalty is None or self.proximal else value + penalty(variables), statistics

        @jax.jit
        def step(variables: Any, state: Any, rate: Any, penalty: Any, images: Any, labels: Any) -> tuple[Any, Any]:
            optimizer = jaxreg.proximal_adam(rate, penalty) if self.proximal else optax.adam(rate)
            gradient, statistics = jax.grad(loss, has_aux=True)(variables, penalty, images, labels)
            updates, state = optimizer.update(gradient, state, variables)
            return {**optax.apply_updates(variables, updates), **statistics}, state

        return step


def norms(group: jaxreg.JointGroup, variables: Mapping[str, Any]) -> NDArray[np.float64]:
    """‖w_u‖₂ of each unit."""
    total = np.zeros(0)
    for path, axis, labels in group.axes:
        entries = np.moveaxis(np.asarray(_at(variables, path), np.float64), axis, 0)
        of = np.arange(len(entries)) if labels is None else np.asarray(labels)
        squares = (entries.reshape(len(entries), -1) ** 2).sum(1)
        found = np.bincount(of[of >= 0], squares[of >= 0])
        total = found + (total if total.size else 0)
    return np.sqrt(total)


def without(group: jaxreg.JointGroup, variables: Any, dead: NDArray[np.bool_]) -> Any:
    """The variables with 0 for all that the dead units are made of."""
    variables = jax.tree.map(np.array, variables)
    for path, axis, labels in group.axes:
        of = np.arange(len(dead)) if labels is None else np.asarray(labels)
        np.moveaxis(_at(variables, path), axis, 0)[(of >= 0) & dead[of]] = 0
    return variables


def pruned(network: Network, variables: Any, groups: Groups, images: Any, target: float) -> Any:
    """Remove units by magnitude until the multiply-adds are as near as they come to the target.

    One ranking of all units, by the norm over the mean norm of its family, as the importances of Torch-Pruning are
    normalized; the greatest unit of each family stays.
    """
    scores = [(norm := norms(group, variables)) / norm.mean() for group in groups]
    for score in scores:
        score[score.argmax()] = np.inf
    ranking = np.sort(np.concatenate(scores))

    @functools.cache
    def small(n: int) -> tuple[Any, int]:
        zeroed = variables
        for group, score in zip(groups, scores, strict=True):
            zeroed = without(group, zeroed, score < ranking[n])
        smaller = jaxreg.shrink(zeroed, forward(network), images)
        return smaller, multiply_adds(forward(network), smaller, images)

    least, most = 0, int(np.isfinite(ranking).sum())
    while least < most:  # the first number of units to remove that reaches the target
        middle = (least + most) // 2
        least, most = (least, middle) if small(middle)[1] <= target else (middle + 1, most)
    return min((small(n) for n in {max(least - 1, 0), least}), key=lambda found: abs(found[1] - target))[0]


def multiply_adds(apply: Callable[..., Any], *inputs: Any) -> int:
    """Of all matrix products and convolutions in the program, zeros at borders counted as any number, for one image."""
    return _counted(jax.make_jaxpr(apply)(*inputs).jaxpr) // len(inputs[-1])


def _counted(jaxpr: Any) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        size = math.prod(eqn.outvars[0].aval.shape)
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            total += size * math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
        elif eqn.primitive.name == "conv_general_dilated":
            kernel, dimensions = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"]
            total += size * math.prod(kernel) // kernel[dimensions.rhs_spec[0]]
        total += sum(_counted(inner) for value in eqn.params.values() if hasattr(inner := _open(value), "eqns"))
    return total


def _open(value: Any) -> Any:
    return getattr(value, "jaxpr", value)


def _at(tree: Any, path: str) -> Any:
    return functools.reduce(lambda node, key: node[key], path.split("/"), tree)
