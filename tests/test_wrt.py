"""`regularizer(model, wrt=...)`: the declarations of what an optimizer trains, in both Flax APIs."""

import re
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

L1, L2 = jaxreg.L1(0.1), jaxreg.L2(0.5)
X = np.arange(12, dtype=np.float32).reshape(4, 3) / 10


class Scales(nnx.Variable[Any]):
    """A kind of variable that is no nnx.Param."""


def lora() -> Any:
    return jaxreg.nnx.LoRALinear(
        3, 2, lora_rank=2, kernel_regularizer=L2, lora_a_regularizer=L2, lora_b_regularizer=L1, rngs=nnx.Rngs(0)
    )


def test_only_declarations_of_such_variables() -> None:
    model = lora()
    assert jaxreg.nnx.regularizer(model) == jaxreg.nnx.regularizer(model, wrt=nnx.Param)
    every = {"kernel": L2, "lora/lora_a": L2, "lora/lora_b": L1}
    for wrt, paths in [
        (nnx.Param, list(every)),
        (nnx.LoRAParam, ["lora/lora_a", "lora/lora_b"]),
        (nnx.All(nnx.Param, nnx.Not(nnx.LoRAParam)), ["kernel"]),
        ((nnx.LoRAParam, nnx.PathContains("kernel")), list(every)),
        (lambda path, variable: path[-1] == "lora_b", ["lora/lora_b"]),
        (nnx.PathContains("bias"), []),
    ]:
        expected = jaxreg.TreeRegularizer([(path, every[path]) for path in paths])
        assert jaxreg.nnx.regularizer(model, wrt=wrt) == expected


def test_fine_tuning_against_the_formula() -> None:
    """One step of gradient descent on the penalties alone: w − η·∇R(w) for what is trained, the rest as it was."""
    model = nnx.Sequential(lora(), lora())
    for layer in model.layers:
        layer.lora.lora_b.set_value(jnp.ones((2, 2)))
    before = {
        "/".join(map(str, p)): np.asarray(v.get_value()) for p, v in nnx.to_flat_state(nnx.state(model, nnx.Param))
    }
    reg = jaxreg.nnx.regularizer(model, wrt=nnx.LoRAParam)
    optimizer = nnx.Optimizer(model, optax.chain(jaxreg.add_regularization(reg), optax.sgd(0.25)), wrt=nnx.LoRAParam)
    zeros = jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.LoRAParam))
    optimizer.update(model, zeros)
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        name = "/".join(map(str, path))
        step = {"lora_a": 0.25 * before[name], "lora_b": 0.25 * 0.1 * np.sign(before[name])}.get(path[-1], 0.0)
        np.testing.assert_allclose(variable.get_value(), before[name] - step, rtol=1e-6)


def test_variables_that_are_no_param() -> None:
    class Model(nnx.Module):
        def __init__(self) -> None:
            self.linear = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
            self.linear.kernel_regularizer = L1
            self.scales = Scales(jnp.ones(2))
            self.scales_regularizer = L2
            self.inner = nnx.Dict(gain=Scales(jnp.ones(2), regularizer=L2))

    model = Model()
    assert jaxreg.nnx.regularizer(model, wrt=Scales) == jaxreg.TreeRegularizer([("inner/gain", L2), ("scales", L2)])
    assert len(jaxreg.nnx.regularizer(model, wrt=(Scales, nnx.Param)).rules) == 3


def test_a_shared_parameter_stands_once() -> None:
    layer = lora()
    model = nnx.List([layer, layer])
    paths = [rule.pattern for rule in jaxreg.nnx.regularizer(model, wrt=nnx.LoRAParam).rules]
    assert paths == ["0/lora/lora_a", "0/lora/lora_b"]


def test_a_kind_that_the_model_has_not_raises_and_the_way_out_runs() -> None:
    model = jaxreg.nnx.Linear(3, 2, kernel_regularizer=L2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"regularizer\(model, wrt=.*LoRAParam.*no such variable, only \['Param'\]"):
        jaxreg.nnx.regularizer(model, wrt=nnx.LoRAParam)
    assert len(jaxreg.nnx.regularizer(model, wrt=nnx.Param).rules) == 1
    with pytest.raises(TypeError, match=r"regularizer\(model, wrt=\.\.\.\)` takes a filter of NNX"):
        jaxreg.nnx.regularizer(model, wrt=3)


class Net(nn.Module):
    """Two layers, of which one is trained."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = jaxreg.linen.Dense(3, kernel_regularizer=L2, name="base")(x)
        return jaxreg.linen.Dense(2, kernel_regularizer=L2, bias_regularizer=L1, name="head")(x)


def test_linen_by_the_paths_of_parameters() -> None:
    variables = Net().init(jax.random.key(0), X)
    every = {"base/kernel": L2, "head/bias": L1, "head/kernel": L2}
    for wrt, paths in [
        ("**", list(every)),
        ("head/**", ["head/bias", "head/kernel"]),
        (re.compile("kernel$"), ["base/kernel", "head/kernel"]),
        (jaxreg.is_weight, ["base/kernel", "head/kernel"]),
        ("base/bias", []),
    ]:
        for inputs in ((), (X,)):
            found = jaxreg.linen.regularizer(Net(), variables, *inputs, wrt=wrt)
            assert found == jaxreg.TreeRegularizer([(path, every[path]) for path in paths])
    with pytest.raises(ValueError, match=r"regularizer\(model, variables, wrt=\.\.\.\)`: No leaf matches.*'heads/"):
        jaxreg.linen.regularizer(Net(), variables, wrt="heads/**")
    with pytest.raises(TypeError, match="A pattern is a glob"):
        jaxreg.linen.regularizer(Net(), variables, wrt=nnx.Param)


def test_linen_training_a_part() -> None:
    params = Net().init(jax.random.key(0), X)["params"]
    reg = jaxreg.linen.regularizer(Net(), params, wrt="head/**")
    optimizer = optax.chain(jaxreg.add_regularization(reg), optax.sgd(0.25))
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    np.testing.assert_allclose(updates["head"]["kernel"], -0.25 * params["head"]["kernel"], rtol=1e-6)
    np.testing.assert_array_equal(updates["base"]["kernel"], 0)


# ------------------------------------------------------------------------------------------- nnx.Optimizer and proximal

TARGET = np.array([[1.0, 0.05], [-2.0, 0.2], [-0.08, 0.6]])
ETA = 0.5


class Tuned(nnx.Module):
    """y = x(K + AB), and a layer that keeps statistics beside it."""

    def __init__(self) -> None:
        self.layer = nnx.LoRALinear(3, 2, lora_rank=2, use_bias=False, rngs=nnx.Rngs(0))
        self.layer.lora.lora_b.set_value(jnp.asarray([[0.5, -1.0], [1.5, 0.1]]))
        self.statistics = nnx.BatchNorm(2, use_scale=False, use_bias=False, rngs=nnx.Rngs(0))

    def __call__(self, x: Any) -> Any:
        y = self.layer(x)
        self.statistics(y)
        return y


def soft(z: np.ndarray, threshold: float) -> np.ndarray:
    return np.sign(z) * np.maximum(np.abs(z) - threshold, 0)


@pytest.mark.parametrize("wrt", [nnx.Param, nnx.LoRAParam, nnx.PathContains("kernel")], ids=["all", "LoRA", "path"])
@pytest.mark.parametrize("make", ["sgd", "adam"])
def test_proximal_steps_of_an_nnx_optimizer(wrt: Any, make: str) -> None:
    """By NumPy: the gradients of ½‖K + AB − T‖², the step, the soft threshold of what `wrt` means, and nothing else."""
    model = Tuned()
    if make == "sgd":
        tx = jaxreg.proximal(optax.sgd(ETA), jaxreg.L1(0.2), ETA)
    else:
        tx = jaxreg.proximal_adam(ETA, jaxreg.L1(0.2), max_step=1e9)
    optimizer = nnx.Optimizer(model, tx, wrt=wrt)

    @nnx.jit
    def step(model: Any, optimizer: Any) -> None:
        def loss(model: Any) -> Any:
            return 0.5 * jnp.sum(jnp.square(model(jnp.eye(3)) - TARGET))

        optimizer.update(model, nnx.grad(loss, argnums=nnx.DiffState(0, wrt))(model))

    lora = model.layer.lora
    k, a, b = (np.asarray(v[...], np.float64) for v in (model.layer.kernel, lora.lora_a, lora.lora_b))
    step(model, optimizer)
    rest = k + a @ b - TARGET
    trained = {"k": wrt is not nnx.LoRAParam, "a": not isinstance(wrt, nnx.PathContains)}
    for name, found, w, g in (
        ("k", model.layer.kernel, k, rest),
        ("a", lora.lora_a, a, rest @ b.T),
        ("a", lora.lora_b, b, a.T @ rest),
    ):
        tau = ETA if make == "sgd" else ETA / (np.abs(g) + 1e-8)  # after one step of Adam √v̂ = |g| and m̂ = g
        expected = soft(w - tau * g, 0.2 * tau) if trained[name] else w
        np.testing.assert_allclose(found[...], expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(np.asarray(found[...]) == 0, expected == 0)
    np.testing.assert_allclose(model.statistics.mean[...], 0.01 * (k + a @ b).mean(0), rtol=1e-4)
