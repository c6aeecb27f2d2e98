"""What an NNX model declares: one walk a call, over shared modules, tied parameters, circles and stacks too."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxreg
import jaxreg.nnx
from jaxreg.nnx._declarations import Declarations

L1 = jaxreg.L1(1.0)
LAYERS = 5
X = np.ones((4, 3), np.float32)


def linear(rngs: nnx.Rngs, **kwargs: Any) -> Any:
    return jaxreg.nnx.Linear(3, 3, use_bias=False, kernel_init=nnx.initializers.ones, rngs=rngs, **kwargs)


class Net(jaxreg.nnx.Regularized, nnx.Module):
    """A parameter of its own, a layer under two names, a tied kernel, a way back up, and a stack of layers."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.gain = nnx.Param(jnp.full(3, 2.0))
        self.last = linear(rngs, kernel_regularizer=L1, activity_regularizer=L1)
        self.first = self.last
        self.tied = linear(rngs, kernel_regularizer=L1)
        self.tied.kernel = self.last.kernel
        self.first.up = self

        @nnx.split_rngs(splits=LAYERS)
        @nnx.vmap(in_axes=0, out_axes=0)
        def stack(rngs: nnx.Rngs) -> Any:
            return linear(rngs, kernel_regularizer=jaxreg.Spectral(L1), activity_regularizer=L1)

        self.stack = stack(rngs)

    def __call__(self, x: Any) -> Any:
        x = self.gain * self.tied(self.last(self.first(x)))
        return nnx.scan(lambda layer, x: layer(x), in_axes=(0, nnx.Carry), out_axes=nnx.Carry)(self.stack, x)


def make() -> Net:
    return Net(nnx.Rngs(0), gain_regularizer=jaxreg.L2(1.0))


def test_modules_and_parameters_are_those_of_flax() -> None:
    model = make()
    found = Declarations(model)
    modules = {"/".join(map(str, path)): module for path, module in nnx.iter_modules(model)}
    assert {one.path: one.module for one in found.modules} == modules
    assert set(modules) == {"", "first", "stack", "tied"}
    state = nnx.to_flat_state(nnx.state(model, nnx.Param))
    assert sorted(path for path, _ in found.parameters) == sorted("/".join(path) for path, _ in state)
    assert sorted(path for path, _ in found.parameters) == ["first/kernel", "gain", "stack/kernel"]


def test_what_is_shared_stands_once_in_the_model_and_in_each_module_that_has_it() -> None:
    model = make()
    found = Declarations(model)
    assert [path for path, _ in found.inside(model.tied)] == ["kernel"]
    assert found.inside(model.tied)[0][1] is model.last.kernel
    assert "kernel" in [path for path, _ in found.inside(model.first)]  # and more, by the way back up
    assert found.shapes[id(model.stack.kernel)] == (3, 3)
    assert [found.stack_of(module) for module in (model, model.tied, model.stack)] == [(), (), (LAYERS,)]


def test_losses_of_shared_tied_circular_and_stacked_modules() -> None:
    model, ones = make(), np.ones((3, 3))
    hidden = [X @ ones, X @ ones @ ones]  # the outputs of the layer under two names
    stacked = [2.0 * hidden[1] @ ones]
    for _ in range(LAYERS):
        stacked.append(stacked[-1] @ ones)
    expected = {
        "first/activity": sum(np.abs(y).sum() / 4 for y in hidden),
        "first/kernel": 9.0,
        "gain": 12.0,
        "stack/activity": sum(np.abs(y).sum() / 4 for y in stacked[1:]),
        "stack/kernel": 3.0 * LAYERS,
    }
    for call in (lambda m, x: jaxreg.nnx.with_losses(m)(x), nnx.jit(lambda m, x: jaxreg.nnx.with_losses(m)(x))):
        losses = call(model, X)[1]
        assert sorted(losses) == sorted(expected)
        for path, value in expected.items():
            np.testing.assert_allclose(losses[path], value, rtol=1e-5, err_msg=path)


@pytest.mark.parametrize("rules", [(), [("**", L1)]], ids=["declared", "by rule"])
def test_a_call_walks_over_the_model_once(rules: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    walked: list[Any] = []
    iter_graph = nnx.iter_graph

    def counted(node: Any, **kwargs: Any) -> Iterator[Any]:
        walked.append(node)
        return iter_graph(node, **kwargs)

    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("another walk")

    monkeypatch.setattr(nnx, "iter_graph", counted)
    monkeypatch.setattr(nnx, "iter_modules", forbidden)
    jaxreg.nnx.with_losses(model, activity=rules)(X)
    assert sum(node is model for node in walked) == 1
    assert len({id(node) for node in walked}) == len(walked) == 4  # inside of a module: when it is not the model, once
    walked.clear()
    jaxreg.nnx.regularizer(model)
    assert sum(node is model for node in walked) == 1


def test_messages_show_traced_coefficients_by_their_types() -> None:
    def fails(make: Any) -> str:
        with pytest.raises((ValueError, TypeError)) as error:
            jax.jit(make)(0.5)
        assert "Tracer" not in str(error.value) and "<traced float32[]>" in str(error.value)
        return str(error.value)

    def two(strength: Any) -> None:
        model = make()
        model.last.kernel_regularizer = jaxreg.L1(strength)
        jaxreg.nnx.regularizer(model)

    def no_parameter(strength: Any) -> None:
        linear(nnx.Rngs(0), bias_regularizer=jaxreg.L2(strength))

    def square(strength: Any) -> None:
        model = nnx.vmap(lambda key: linear(nnx.Rngs(key)))(jax.random.split(jax.random.key(0), 3))
        model.kernel_regularizer = jaxreg.Spectral(jaxreg.L1(strength))
        jaxreg.nnx.regularizer(model)

    def rules(strength: Any) -> None:
        linear(nnx.Rngs(0), kernel_regularizer=jaxreg.TreeRegularizer({"**": jaxreg.L2(strength)}))

    assert "has two regularizers, L1(l1=<traced float32[]>) and L1(l1=1.0)" in fails(two)
    assert "`Linear(bias_regularizer=L2(l2=<traced float32[]>))` fits no parameter" in fails(no_parameter)
    assert "along an axis that the shapes do not tell" in fails(square)
    assert "takes a regularizer of one array" in fails(rules)
