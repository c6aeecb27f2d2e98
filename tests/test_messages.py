"""Names and paths in messages: of bounded length, and without what a terminal obeys."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxreg
import jaxreg.linen
import jaxreg.nnx

X = np.ones((2, 2), np.float32)
L1 = jaxreg.L1(1.0)


def linen(name: str, **options: Any) -> nn.Module:
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            return jaxreg.linen.Dense(2, name=name, **options)(x)

    return Model()


def linen_parameter(name: str) -> None:
    linen(name, use_bias=False, bias_regularizer="l1").init(jax.random.key(0), X)


def linen_rule(name: str) -> None:
    variables = {"params": {name: {"kernel": X, "bias": X[0]}}}
    jaxreg.linen.with_losses(linen(name), [("other", L1)])(variables, X)


def linen_output(name: str) -> None:
    class Silent(jaxreg.linen.Dense):
        @nn.compact
        def __call__(self, inputs: Any) -> Any:
            return lambda: super().__call__(inputs)

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            return Silent(2, name=name, activity_regularizer=L1)(x)

    jaxreg.linen.with_losses(Model())({"params": {}}, X)


def linen_sown(name: str) -> None:
    class Sowing(jaxreg.linen.Regularized):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            self.sow("losses", "activity", jnp.ones(()))
            return x

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            return Sowing(name=name, activity_regularizer=L1)(x)

    Model().apply({}, X, mutable=["losses"])


def nnx_model(name: str, *layers: nnx.Module) -> Any:
    model = nnx.Module()
    for i, layer in enumerate(layers):
        setattr(model, f"{name}{i}", layer)
    return model


def nnx_two_regularizers(name: str) -> None:
    first, second = (jaxreg.nnx.Linear(2, 2, rngs=nnx.Rngs(0), kernel_regularizer=c * L1) for c in (1.0, 2.0))
    second.kernel = first.kernel
    jaxreg.nnx.regularizer(nnx_model(name, first, second))


def nnx_parameter(name: str) -> None:
    layer = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    layer.scale_regularizer = L1
    jaxreg.nnx.regularizer(nnx_model(name, layer))


def nnx_output(name: str) -> None:
    class Silent(jaxreg.nnx.Regularized, nnx.Module):
        def __call__(self, x: Any) -> Any:
            return lambda: x

    class Model(nnx.Module):
        def __call__(self, x: Any) -> Any:
            return getattr(self, name)(x)

    model = Model()
    setattr(model, name, Silent(activity_regularizer=L1))
    jaxreg.nnx.with_losses(model)(X)


def tree_pattern(name: str) -> None:
    jaxreg.TreeRegularizer({"other": L1})({name: X})


def tree_anchors(name: str) -> None:
    jaxreg.TreeRegularizer({"**": L1}).anchored({f"{name}/b": X, name: {"b": X + 1}})


def shrink_graph(name: str) -> None:
    jaxreg.shrink({name: {"kernel": np.ones((2, 3))}, "b": {"kernel": X}}, [(name, "b")])


def summary_leaf(name: str) -> None:
    jaxreg.summary(jaxreg.Spectral(L1), {name: np.ones(3)})


def decay_that_grows(name: str) -> None:
    grow = optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(-1.0), optax.scale(-0.1))
    jaxreg.proximal(grow, L1, 0.1, jaxreg.adam_metric()).init({name: jnp.ones(2)})


WAYS: tuple[Callable[[str], None], ...] = (
    *(linen_parameter, linen_rule, linen_output, linen_sown, nnx_two_regularizers, nnx_parameter, nnx_output),
    *(tree_pattern, tree_anchors, shrink_graph, summary_leaf, decay_that_grows),
)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_message_obeys_no_name_and_does_not_grow_with_it(way: Callable[[str], None]) -> None:
    lengths = []
    for size in (500, 5000):
        with pytest.raises((ValueError, TypeError)) as raised:
            way("start\x1b[31m\n\u202e" + "x" * size)
        message = str(raised.value)
        assert "start" in message and message.isprintable(), message
        lengths.append(len(message))
    assert lengths[0] < 1500 and lengths[1] <= lengths[0] + 4  # the digits of a number
