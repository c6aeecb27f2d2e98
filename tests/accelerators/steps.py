"""The steps of optimizers, each beside the same optimizer without a penalty; and the trees that they train."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

import jaxreg
from tests.accelerators.targets import TARGETS, Target
from tests.benchmarks import programs

RATE = 1e-3
ON = tuple(TARGETS)
# Shapes, and the axis that is divided over the devices: the inputs, so that `Group(axis=-2)` has groups that are
# divided, an output unit each, and `Group(axis=-1)` has groups that are whole.
BLOCKS = {
    f"layers_{i}": {"up": ((2048, 8192), 0), "down": ((8192, 2048), 0), "norm": ((2048,), None)} for i in range(2)
}
KERNEL = {"layers": {"kernel": ((4096, 4096), 0), "norm": ((4096,), None)}}
LLAMA_3_70B = {
    "embedding": ((128256, 8192), 1),
    "layers": {  # stacked by a scan
        "query": ((80, 8192, 8192), 1),
        "key": ((80, 8192, 1024), 1),
        "value": ((80, 8192, 1024), 1),
        "output": ((80, 8192, 8192), 1),
        "gate": ((80, 8192, 28672), 1),
        "up": ((80, 8192, 28672), 1),
        "down": ((80, 28672, 8192), 1),
        "norm": ((80, 8192), None),
        "ffn_norm": ((80, 8192), None),
    },
    "norm": ((8192,), None),
    "head": ((8192, 128256), 0),
}


class Step(NamedTuple):
    """A transformation, and the plain optimizer that is its yardstick."""

    transformation: optax.GradientTransformation
    plain: optax.GradientTransformation
    is_of_one_kernel: bool = False


def parameters(target: Target, is_one_kernel: bool = False) -> Any:
    """70.6 billion on 1 024 chips, 67 million elsewhere; or one kernel of 17 million."""
    shapes = KERNEL if is_one_kernel else LLAMA_3_70B if target.count > 100 else BLOCKS
    return jax.tree.map(lambda leaf: target.array(*leaf), shapes, is_leaf=lambda node: isinstance(node, tuple))


def _rules(penalty: jaxreg.Regularizer) -> jaxreg.TreeRegularizer:
    """The matrices of the layers."""
    return jaxreg.TreeRegularizer([("**/*norm", None), ("layers*/*", penalty), ("**", None)])


@functools.cache
def steps() -> dict[str, Step]:
    """All, by name."""
    adam, sgd = optax.adam(RATE), optax.sgd(RATE)
    joint = jaxreg.JointGroup(jaxreg.L1(0.1), {"layers*/up": -1, "layers*/down": -2})  # units, over all layers
    net, l1 = _rules(jaxreg.L1L2(0.1, 0.2)), _rules(jaxreg.L1(0.1))
    whole, divided = (_rules(jaxreg.Group(jaxreg.L1(0.1), axis=axis)) for axis in (-1, -2))
    decoupled = optax.chain(optax.scale_by_adam(), jaxreg.add_regularization(net), optax.scale_by_learning_rate(RATE))
    of_layers = _rules(jaxreg.TopK(0.1, axis=(-2, -1)))
    budget = jaxreg.TreeBudget([("**/*norm", None), ("layers*/*", 0.1), ("**", None)])
    pairs = {
        "Adam": (adam, adam),
        "SGD": (sgd, sgd),
        "Adam, L1L2 coupled": (optax.chain(jaxreg.add_regularization(net), adam), adam),
        "Adam, L1L2 coupled, penalty tracked": (optax.chain(jaxreg.add_regularization(net, track=True), adam), adam),
        "Adam, L1L2 decoupled": (decoupled, adam),
        "proximal_adam, L1": (jaxreg.proximal_adam(RATE, l1), adam),
        "proximal(adam), groups that are whole": (jaxreg.proximal(adam, whole, RATE), adam),
        "proximal(adam), groups that are divided": (jaxreg.proximal(adam, divided, RATE), adam),
        "proximal_adam, groups that are whole": (jaxreg.proximal_adam(RATE, whole), adam),
        "proximal_adam, groups that are divided": (jaxreg.proximal_adam(RATE, divided), adam),
        "proximal_adam, groups across leaves": (jaxreg.proximal_adam(RATE, joint), adam),
        "proximal_adam, moments by group, whole": (jaxreg.proximal_adam(RATE, whole, moments="group"), adam),
        "proximal_adam, moments by group, divided": (
            jaxreg.proximal_adam(RATE, divided, moments="group"),
            adam,
        ),
        "keep_zeros(adam)": (jaxreg.keep_zeros(adam), adam),
        "proximal(adam), TopK": (jaxreg.proximal(adam, of_layers, RATE), adam),
        "proximal(adam), TopK each 10th step": (jaxreg.proximal(adam, of_layers, RATE, every=10), adam),
        "proximal(adam), NofM": (jaxreg.proximal(adam, _rules(jaxreg.NofM(2, 4)), RATE), adam),
        "proximal(adam), TreeBudget": (jaxreg.proximal(adam, budget, RATE), adam),
        "SGD, L1L2": (optax.chain(jaxreg.add_regularization(net), sgd), sgd),
        "proximal(sgd), L1": (jaxreg.proximal(sgd, l1, RATE), sgd),
        "proximal(sgd), groups that are divided": (jaxreg.proximal(sgd, divided, RATE), sgd),
    }
    for optimizer, metric in {
        optax.amsgrad: jaxreg.amsgrad_metric,
        optax.adabelief: jaxreg.adabelief_metric,
        optax.rmsprop: jaxreg.rmsprop_metric,
        optax.adagrad: jaxreg.adagrad_metric,
    }.items():
        plain = optimizer(RATE)
        pairs[f"proximal({optimizer.__name__}), L1"] = (jaxreg.proximal(plain, l1, RATE, metric=metric()), plain)
    found = {name: Step(*pair) for name, pair in pairs.items()}
    for groups, reg in {"whole": whole, "divided": divided}.items():
        name = f"proximal_adam, one kernel, groups that are {groups}"
        found[name] = Step(jaxreg.proximal_adam(RATE, reg), adam, is_of_one_kernel=True)
    return found


def state(transformation: optax.GradientTransformation, params: Any, target: Target) -> Any:
    """What the optimizer keeps: arrays of the shape of a parameter lie as it does, all others whole on every device."""
    placed = {leaf.shape: leaf.sharding for leaf in jax.tree.leaves(params)}
    whole = target.array(()).sharding
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed.get(leaf.shape, whole)),
        jax.eval_shape(transformation.init, params),
    )


def program(
    transformation: optax.GradientTransformation, target: Target, is_one_kernel: bool = False
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """One step, and the parameters, the state and the gradients that it is called with."""
    params = parameters(target, is_one_kernel)
    return programs.step(transformation), (params, state(transformation, params, target), params)
