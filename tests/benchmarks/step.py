"""A training step with regularization in the optax chain, beside the plain one and the one that Keras makes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxreg
from tests.benchmarks import peers, programs, settings
from tests.benchmarks.measurement import Limit, Measurement, exact, ratios
from tests.benchmarks.timing import Function, alternate
from tests.benchmarks.transformations import L1, L2, NET, RATE, transformations

FAMILY = "optimizer step"


def measure(config: settings.Settings) -> list[Measurement]:
    params = settings.transformer(config)
    return [*_adam(config, params), *_weight_decay(config, params), *_sgd(config, params), *_torch(config, params)]


WORK = {
    "coupled": ("Adam, L1L2 coupled", Limit("≤", 1.05)),
    "decoupled": ("Adam, L1L2 decoupled", Limit("≤", 1.05)),
    "tracked": ("Adam, L1L2 coupled, penalty tracked", None),
    "proximal L1": ("proximal_adam, L1", Limit("≤", 1.05)),
    "proximal group": ("proximal_adam, group lasso", Limit("≤", 1.25)),
    "proximal group moments": ("proximal_adam, group lasso, moments by group", Limit("≤", 1.15)),
}


def _adam(config: settings.Settings, params: Any) -> list[Measurement]:
    found, size = [], settings.nbytes(params)
    plain, *others = transformations().items()
    yardstick = programs.compiled_step(plain[1], params)
    for name, transformation in others:
        work, limit = WORK[name]
        program = programs.compiled_step(transformation, params)
        functions = {
            "jaxreg": _running(program, transformation, params),
            "plain Adam": _running(yardstick, plain[1], params),
        }
        times = alternate(functions, config.rounds, config.at_least)
        found += ratios(FAMILY, work, times, {"plain Adam": limit})
        extra = (programs.temporaries(program) - programs.temporaries(yardstick)) / size
        more = (programs.accessed(program) - programs.accessed(yardstick)) / size
        found.append(exact(FAMILY, f"{work}: temporaries", "plain Adam", extra, "trees more", Limit("≤", 0.01)))
        found.append(exact(FAMILY, f"{work}: bytes accessed", "plain Adam", more, "trees more", None))
    if peers.keras is not None:
        times = alternate(
            {"Keras": _keras_way(optax.adam(RATE), params), "plain Adam": _running(yardstick, plain[1], params)},
            config.rounds,
            config.at_least,
        )
        found += ratios(
            FAMILY, "Adam, L1L2 in the loss by Keras", times, {"plain Adam": None}, ours="Keras", stated=True
        )
    return found


def _weight_decay(config: settings.Settings, params: Any) -> list[Measurement]:
    decay = jaxreg.add_regularization(jaxreg.L2.from_weight_decay(1e-4))
    ours = optax.chain(optax.scale_by_adam(), decay, optax.scale_by_learning_rate(RATE))
    functions = {"jaxreg": _compiled(ours, params), "optax.adamw": _compiled(optax.adamw(RATE), params)}
    times = alternate(functions, config.rounds, config.at_least)
    return ratios(FAMILY, "Adam, L2 decoupled", times, {"optax.adamw": Limit("≤", 1.05)})


def _sgd(config: settings.Settings, params: Any) -> list[Measurement]:
    ours = optax.chain(jaxreg.add_regularization(NET), optax.sgd(RATE))
    decayed = optax.chain(optax.add_decayed_weights(L2), optax.sgd(RATE))
    functions = {
        "jaxreg": _compiled(ours, params),
        "plain SGD": _compiled(optax.sgd(RATE), params),
        "optax.add_decayed_weights": _compiled(decayed, params),
    }
    times = alternate(functions, config.rounds, config.at_least)
    limits = {"plain SGD": Limit("≤", 1.1), "optax.add_decayed_weights": None}
    found = ratios(FAMILY, "SGD, L1L2", times, limits)
    if peers.keras is not None:
        functions = {"Keras": _keras_way(optax.sgd(RATE), params), "plain SGD": functions["plain SGD"]}
        times = alternate(functions, config.rounds, config.at_least)
        found += ratios(FAMILY, "SGD, L1L2 in the loss by Keras", times, {"plain SGD": None}, ours="Keras", stated=True)
    return found


def _compiled(transformation: optax.GradientTransformation, params: Any) -> Function:
    return _running(programs.compiled_step(transformation, params), transformation, params)


def _running(program: Any, transformation: optax.GradientTransformation, params: Any) -> Function:
    """A function that goes one step further on its own copy of the parameters."""
    current = [jax.tree.map(jnp.copy, params), transformation.init(params)]

    def run() -> Any:
        current[:] = program(*current, params)
        return current[0]

    return run


def _keras_way(transformation: optax.GradientTransformation, params: Any) -> Function:
    """The penalty as a part of the loss: its value is reported, its gradient goes through autodiff."""
    regularizer = peers.keras.regularizers.L1L2(L1, L2)
    current = [jax.tree.map(jnp.copy, params), transformation.init(params)]
    update: Callable[..., Any] = programs.step(transformation)

    def step(params: Any, state: Any, grads: Any) -> Any:
        penalty, slopes = jax.value_and_grad(lambda p: sum(map(regularizer, jax.tree.leaves(p))))(params)
        return *update(params, state, jax.tree.map(jnp.add, grads, slopes)), penalty

    program = programs.compile_(step, *current, params, donate=(0, 1))

    def run() -> Any:
        *current[:], penalty = program(*current, params)
        return penalty

    return run


def _torch(config: settings.Settings, params: Any) -> list[Measurement]:
    """How PyTorch does: weight decay in its fused step, a penalty through autograd."""
    if peers.torch is None:
        return []

    def running(optimizer: Any, penalty: bool, **kwargs: Any) -> Function:
        tensors = peers.torch_tensors(jax.tree.leaves(params), requires_grad=True)
        grads = [tensor.detach().clone() for tensor in tensors]
        step = optimizer(tensors, lr=RATE, foreach=True, **kwargs)

        def run() -> Any:
            for tensor, grad in zip(tensors, grads, strict=True):
                tensor.grad = grad.clone() if penalty else grad
            if penalty:
                sum(L1 * tensor.abs().sum() + L2 * tensor.square().sum() for tensor in tensors).backward()
            step.step()
            return peers.torch_wait(tensors[0])

        return run

    adam, sgd = peers.torch.optim.Adam, peers.torch.optim.SGD
    wanted = {
        "Adam, weight_decay, PyTorch": (
            "plain Adam, PyTorch",
            running(adam, False, weight_decay=L2),
            running(adam, False),
        ),
        "SGD, L1L2 by autograd, PyTorch": ("plain SGD, PyTorch", running(sgd, True), running(sgd, False)),
    }
    found = []
    for work, (plain, penalized, bare) in wanted.items():
        times = alternate({"PyTorch": penalized, plain: bare}, config.slow_rounds, config.at_least)
        found += ratios(FAMILY, work, times, {plain: None}, ours="PyTorch", stated=True)
    return found
