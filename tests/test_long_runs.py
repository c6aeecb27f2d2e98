"""Ten thousand steps: one trace, no growth of memory, and bit for bit the same when resumed from the middle."""

import gc
import resource
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import jaxreg

pytestmark = pytest.mark.wide  # ten thousand steps

STEPS = 10_000
RATE = optax.cosine_decay_schedule(0.05, STEPS)
STRENGTH = optax.linear_schedule(0.0, 0.3, STEPS // 2)
TARGET = jnp.asarray(np.random.default_rng(0).normal(size=(8, 4)), jnp.float32)


def regularizer(step: jax.Array) -> jaxreg.TreeRegularizer:
    groups = STRENGTH(step) * jaxreg.Group(jaxreg.L1(1.0), axis=1)
    return jaxreg.TreeRegularizer({"bias": None, "kernel": jaxreg.L1(STRENGTH(step)) + groups})


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "proximal": lambda: optax.MultiSteps(jaxreg.proximal(optax.sgd(RATE), regularizer, RATE), 4),
    "proximal_adam": lambda: optax.MultiSteps(
        jaxreg.proximal_adam(RATE, lambda step: jaxreg.L1(STRENGTH(step))), 4
    ),
    "add_regularization": lambda: optax.chain(
        jaxreg.add_regularization(regularizer, track=True), optax.inject_hyperparams(optax.adam)(RATE)
    ),
}  # fmt: skip


class Run:
    """A training run that counts how often its step is traced."""

    def __init__(self, make: Callable[[], Any]) -> None:
        tx = make()
        self.traces = 0
        params = {"kernel": jnp.ones((8, 4)), "bias": jnp.zeros(4)}
        self.state: Any = (params, tx.init(params))

        def step(state: Any, i: jax.Array) -> Any:
            self.traces += 1
            params, inner = state
            noise = jax.random.normal(jax.random.fold_in(jax.random.key(0), i), (8, 4))

            def loss(params: Any) -> jax.Array:
                return 0.5 * jnp.sum((params["kernel"] + params["bias"] - TARGET - 0.1 * noise) ** 2)

            updates, inner = tx.update(jax.grad(loss)(params), inner, params)
            return optax.apply_updates(params, updates), inner

        self.step = jax.jit(step, donate_argnums=0)

    def advance(self, first: int, last: int) -> None:
        for i in range(first, last):
            self.state = self.step(self.state, np.int32(i))
        jax.block_until_ready(self.state)


def memory() -> tuple[int, int]:
    """Arrays on the device, and bytes of Python objects."""
    gc.collect()
    return len(jax.live_arrays()), tracemalloc.get_traced_memory()[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_ten_thousand_steps(name: str, tmp_path: Path) -> None:
    run, checkpointer = Run(OPTIMIZERS[name]), ocp.StandardCheckpointer()
    run.advance(0, 500)
    tracemalloc.start()
    try:
        arrays, size = memory()
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        run.advance(500, STEPS // 2)
        assert memory()[0] == arrays
        checkpointer.save(tmp_path / "middle", run.state)
        checkpointer.wait_until_finished()
        run.advance(STEPS // 2, STEPS)
        after = memory()
        assert after[0] == arrays
        assert after[1] - size < 1_000_000  # the checkpointer's own objects; 9500 steps of 100 bytes would be as much
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident < 50_000  # KB
    finally:
        tracemalloc.stop()
    assert run.traces == 1

    resumed = Run(OPTIMIZERS[name])
    resumed.state = checkpointer.restore(tmp_path / "middle", resumed.state)
    resumed.advance(STEPS // 2, STEPS)
    assert resumed.traces == 1
    for mine, other in zip(jax.tree.leaves(resumed.state), jax.tree.leaves(run.state), strict=True):
        np.testing.assert_array_equal(mine, other)
    zeros = np.asarray(run.state[0]["kernel"]) == 0
    assert zeros.any() == name.startswith("proximal") and not zeros.all()


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_hundred_steps_resumed(make: Callable[[], Any]) -> None:
    """The same with a copy for a checkpoint, in every run of the tests."""
    run, resumed = Run(make), Run(make)
    run.advance(0, 50)
    arrays = memory()[0]
    resumed.state = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), run.state)
    run.advance(50, 100)
    resumed.advance(50, 100)
    assert run.traces == resumed.traces == 1
    for mine, other in zip(jax.tree.leaves(resumed.state), jax.tree.leaves(run.state), strict=True):
        np.testing.assert_array_equal(mine, other)
    del resumed
    assert memory()[0] <= arrays
