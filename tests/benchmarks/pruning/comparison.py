"""Three ways to a smaller network, each trained, shrunk and fine-tuned in as many steps as the dense network.

And what they are worth: a network of the widths that the proximal method came to, trained from random numbers.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxreg
from tests.benchmarks import timing
from tests.benchmarks.pruning.digits import NETWORKS, forward, splits, start
from tests.benchmarks.pruning.methods import Trainer, multiply_adds, pruned

DENSE, PROXIMAL, IN_LOSS, MAGNITUDE = "dense", "group lasso, proximal", "group lasso in the loss", "magnitude"
FROM_START = "small from the start"
METHODS = (PROXIMAL, IN_LOSS, MAGNITUDE, FROM_START)


@dataclasses.dataclass(frozen=True)
class Budget:
    """What all methods get; the strengths are for the network of that name."""

    strengths: dict[str, tuple[float, ...]]
    shares: tuple[float, ...] = (1 / 2, 1 / 4, 1 / 8, 1 / 16)  # of the multiply-adds of the dense network
    rates: tuple[float, ...] = (3e-3, 1e-2, 3e-2)
    seeds: tuple[int, ...] = (0, 1, 2)
    first: int = 1000  # steps before the removal
    second: int = 500  # steps after it; the dense network takes both in one
    batch: int = 32
    rounds: int = 7  # of timing the small network beside the dense one


@dataclasses.dataclass(frozen=True)
class Setting:
    rate: float
    strength: float = 0.0
    fine_rate: float | None = None  # of fine-tuning

    @property
    def before(self) -> "Setting":
        """That of the network before its units are removed."""
        return dataclasses.replace(self, fine_rate=None)


@dataclasses.dataclass(frozen=True)
class Row:
    """One network; accuracies are shares of the images. `share` is 0 for the dense one and where none was aimed at."""

    network: str
    method: str
    share: float
    seed: int
    setting: Setting
    sizes: list[int]
    multiply_adds: int
    removed: float | None  # test accuracy after the removal, before fine-tuning
    validation: float
    test: float
    seconds: float
    forward: float | None = None  # its time over that of the dense network
    chosen: bool = False


class Comparison:
    """All methods on one network. The first seed chooses the settings, by validation; the others run those alone."""

    def __init__(self, name: str, budget: Budget) -> None:
        self.name, self.budget, self.network = name, budget, NETWORKS[name]
        self.data = splits()
        self.image = np.zeros((1, 8, 8, 1), np.float32)
        self.apply = forward(self.network)
        self.output = jax.jit(self.apply)
        dense = start(self.network(), 0)
        self.units = jaxreg.units(self.apply, dense, self.image)
        self.dense = multiply_adds(self.apply, dense, self.image)
        examples = self.data["train"]
        self.plain = Trainer(self.network, examples, budget.batch)
        self.proximal = Trainer(self.network, examples, budget.batch, proximal=True)
        self.first = functools.cache(self._first)
        self.small = functools.cache(self._small)

    def rows(self) -> Iterator[Row]:
        """All that was tried with the first seed, then what was chosen, with all seeds."""
        first = self.budget.seeds[0]
        dense = [self.trained(rate, first) for rate in self.budget.rates]
        yield from dense
        settings = [Setting(rate, c) for rate in self.budget.rates for c in self.budget.strengths[self.name]]
        tried = [self._in_band(row) for setting in settings for row in self.fine_tuned(PROXIMAL, setting, first)]
        yield from tried
        chosen = {(PROXIMAL, share): best(self._near(share, tried)) for share in self.budget.shares}
        of_loss = list(dict.fromkeys(row.setting.before for row in chosen.values()))
        for method, settings in ((IN_LOSS, of_loss), (MAGNITUDE, [Setting(rate) for rate in self.budget.rates])):
            for share in self.budget.shares:
                goal = chosen[PROXIMAL, share].multiply_adds
                found = [row for setting in settings for row in self.fine_tuned(method, setting, first, goal)]
                tried = [dataclasses.replace(row, share=share) for row in found]
                yield from tried
                chosen[method, share] = best(tried)
        for share in self.budget.shares:
            sizes = chosen[PROXIMAL, share].sizes
            found = [self.trained(rate, first, sizes) for rate in self.budget.rates]
            tried = [dataclasses.replace(row, share=share) for row in found]
            yield from tried
            chosen[FROM_START, share] = best(tried)
        for seed in self.budget.seeds:
            yield dataclasses.replace(self.trained(best(dense).setting.rate, seed), chosen=True)
            for share in self.budget.shares:
                yield from self._final(seed, share, {method: chosen[method, share].setting for method in METHODS})

    def _final(self, seed: int, share: float, settings: dict[str, Setting]) -> Iterator[Row]:
        goal, sizes = None, list[int]()
        for method, setting in settings.items():
            if method == FROM_START:
                row = self.trained(setting.rate, seed, sizes)
            else:
                (row,) = self.fine_tuned(method, setting.before, seed, goal, [setting.fine_rate])
            yield dataclasses.replace(row, share=share, chosen=True)
            if method == PROXIMAL:
                goal, sizes = row.multiply_adds, row.sizes

    def trained(self, rate: float, seed: int, sizes: Sequence[int] = ()) -> Row:
        """The dense network, or one of these widths, from random numbers."""
        steps, module = self.budget.first + self.budget.second, self.network.of(sizes) if sizes else self.network()
        variables, seconds = self.plain.train(start(module, seed), steps, rate, seed)
        return self._row(FROM_START if sizes else DENSE, seed, Setting(rate), variables, seconds)

    def fine_tuned(
        self, method: str, setting: Setting, seed: int, goal: int | None = None, rates: Sequence[Any] = ()
    ) -> list[Row]:
        """A row for each rate of fine-tuning."""
        small = self.small(method, setting, seed, goal)
        seconds, removed = self.first(method, setting, seed)[1], self._accuracy(small, "test")
        found = []
        for rate in rates or self.budget.rates:
            variables, more = self.plain.train(small, self.budget.second, rate, seed + 100)
            with_rate = dataclasses.replace(setting, fine_rate=rate)
            found.append(self._row(method, seed, with_rate, variables, seconds + more, removed))
        return found

    def _first(self, method: str, setting: Setting, seed: int) -> tuple[Any, float]:
        penalty = None if method == MAGNITUDE else self.units.joint_groups(jaxreg.L1(setting.strength))
        trainer = self.proximal if method == PROXIMAL else self.plain
        return trainer.train(start(self.network(), seed), self.budget.first, setting.rate, seed, penalty)

    def _small(self, method: str, setting: Setting, seed: int, goal: int | None) -> Any:
        variables, _ = self.first(method, setting, seed)
        if goal is None:
            return jaxreg.shrink(variables, self.apply, self.image)
        groups = self.units.joint_groups(jaxreg.L1(1.0)).terms
        return pruned(self.network, variables, groups, self.image, goal)

    def _away(self, share: float, row: Row) -> float:
        return abs(math.log2(row.multiply_adds / self.dense / share))

    def _in_band(self, row: Row) -> Row:
        """With the share of multiply-adds that it is within a factor of √2 of."""
        near = [share for share in self.budget.shares if self._away(share, row) <= 0.5]
        return dataclasses.replace(row, share=near[0]) if near else row

    def _near(self, share: float, rows: Sequence[Row]) -> list[Row]:
        return [row for row in rows if row.share == share] or [min(rows, key=functools.partial(self._away, share))]

    def _row(
        self, method: str, seed: int, setting: Setting, variables: Any, seconds: float, removed: float | None = None
    ) -> Row:
        accuracies = {name: self._accuracy(variables, name) for name in ("validation", "test")}
        count = multiply_adds(self.apply, variables, self.image)
        sizes = self.network.like(variables).sizes
        return Row(self.name, method, 0.0, seed, setting, sizes, count, removed, seconds=seconds, **accuracies)

    def _accuracy(self, variables: Any, name: str) -> float:
        images, labels = self.data[name]
        return float((np.asarray(self.output(variables, images)).argmax(-1) == labels).mean())


def timed(row: Row, rounds: int) -> Row:
    """With the time that the network takes for 512 images over that of the dense one: the least of each, in turn."""
    calls = {"small": _call(row.network, tuple(row.sizes)), "dense": _call(row.network, None)}
    times = timing.alternate(calls, rounds, at_least=0.01)
    return dataclasses.replace(row, forward=min(times["small"]) / min(times["dense"]))


@functools.cache
def _call(name: str, sizes: tuple[int, ...] | None) -> timing.Function:
    network, images = NETWORKS[name], jnp.zeros((512, 8, 8, 1))
    module = network() if sizes is None else network.of(sizes)
    shapes = jax.eval_shape(lambda: start(module, 0))
    variables = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.1, leaf.dtype), shapes)
    compiled = jax.jit(forward(network)).lower(variables, images).compile()
    return lambda: compiled(variables, images)


def best(rows: Sequence[Row]) -> Row:
    return max(rows, key=lambda row: row.validation)
