"""Compiled programs, and what can be read off them without running."""

from collections.abc import Callable
from typing import Any

import jax
import optax


def compile_(function: Callable[..., Any], *args: Any, donate: tuple[int, ...] = ()) -> Any:
    """With all of XLA's passes over loops, of which the tests leave out those that keep what a loop does not change."""
    lowered = jax.jit(function, donate_argnums=donate, keep_unused=True).lower(*args)
    return lowered.compile({"xla_disable_hlo_passes": ""})


def compiled_gradient(loss: Callable[[Any], Any], params: Any) -> Any:
    """(params, memory for the gradient) -> (value, gradient)."""

    def value_and_gradient(params: Any, memory: Any) -> Any:
        del memory
        return jax.value_and_grad(loss)(params)

    return compile_(value_and_gradient, params, params, donate=(1,))


def temporaries(program: Any) -> int:
    """Bytes of memory that the program needs beside its arguments and results."""
    return int(program.memory_analysis().temp_size_in_bytes)


def accessed(program: Any) -> int:
    """Bytes that its instructions read and write; both sides of a branch count."""
    return int(program.cost_analysis()["bytes accessed"])


def flops(program: Any) -> float:
    return float(program.cost_analysis()["flops"])


def step(transformation: optax.GradientTransformation) -> Callable[..., Any]:
    """One step of an optimizer: (params, state, grads) -> (params, state)."""

    def run(params: Any, state: Any, grads: Any) -> Any:
        updates, state = transformation.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return run


def compiled_step(transformation: optax.GradientTransformation, params: Any) -> Any:
    """The step with parameters and state donated, as training runs it."""
    state = jax.eval_shape(transformation.init, params)
    return compile_(step(transformation), params, state, params, donate=(0, 1))
