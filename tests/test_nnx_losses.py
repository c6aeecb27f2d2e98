"""with_losses: values and paths, what is left behind, rules for modules one cannot edit, weights for an optax chain."""

import re
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxreg
import jaxreg.nnx
from jaxreg.nnx import with_losses

ONES = {"kernel_init": nnx.initializers.ones, "rngs": nnx.Rngs(0)}
X = np.ones((4, 3), np.float32)
L1 = jaxreg.L1(1.0)


class Net(nnx.Module):
    """A regularized layer that is called twice, batch statistics, dropout, a plain layer."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.shared = jaxreg.nnx.Linear(3, 3, kernel_regularizer="l2", activity_regularizer="l1", rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.out = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x: Any, *, scale: float = 1.0) -> Any:
        return self.out(self.drop(self.norm(self.shared(self.shared(scale * x)))))

    def encode(self, x: Any) -> Any:
        return self.shared(x)


def test_keras_documented_example() -> None:
    layer = jaxreg.nnx.Linear(5, 5, kernel_regularizer=jaxreg.L1(0.01), activity_regularizer=jaxreg.L2(0.01), **ONES)
    for call in (with_losses(layer), nnx.jit(lambda x: with_losses(layer)(x))):
        _, losses = call(2 * jnp.ones((5, 5)))
        np.testing.assert_allclose(losses["kernel"], 0.25, rtol=1e-6)
        np.testing.assert_allclose(losses["activity"], 5.0, rtol=1e-6)
        np.testing.assert_allclose(sum(losses.values()), 5.25, rtol=1e-6)


def test_a_shared_layer_counts_its_weights_once_and_its_output_each_time() -> None:
    model = Net(nnx.Rngs(0))
    kernel, bias = np.asarray(model.shared.kernel), np.asarray(model.shared.bias)
    first = 2 * X @ kernel + bias
    second = first @ kernel + bias
    _, losses = with_losses(model)(X, scale=2.0)
    assert sorted(losses) == ["shared/activity", "shared/kernel"]
    np.testing.assert_allclose(losses["shared/kernel"], 0.01 * np.sum(kernel**2), rtol=1e-5)
    np.testing.assert_allclose(losses["shared/activity"], 0.01 * (abs(first).sum() + abs(second).sum()) / 4, rtol=1e-5)


def test_shared_modules_and_tied_parameters() -> None:
    class Tied(nnx.Module):
        def __init__(self) -> None:
            self.z = jaxreg.nnx.Linear(3, 3, kernel_regularizer=L1, activity_regularizer=L1, use_bias=False, **ONES)
            self.a = self.z
            self.b = jaxreg.nnx.Linear(3, 3, kernel_regularizer=L1, use_bias=False, **ONES)
            self.b.kernel = self.z.kernel

        def __call__(self, x: Any) -> Any:
            return self.a(x) + self.z(x) + self.b(x)

    model = Tied()
    paths = ["/".join(path) for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))]
    for call in (with_losses(model), nnx.jit(lambda x: with_losses(model)(x))):
        losses = jax.tree.map(float, call(X)[1])
        assert losses == {"a/activity": 18.0, "a/kernel": 9.0}
    assert paths == ["a/kernel"]
    assert float(jaxreg.nnx.regularizer(model)(nnx.state(model, nnx.Param))) == 9.0
    model.b.kernel_regularizer = "l2"
    with pytest.raises(ValueError, match="The parameter a/kernel has two regularizers"):
        with_losses(model)(X)


def test_nothing_is_left_behind_and_nothing_accumulates() -> None:
    model = Net(nnx.Rngs(0))
    before, graphdef = nnx.to_flat_state(nnx.state(model)), nnx.graphdef(model)
    model(X)  # warnings are errors: no deprecated `sow`
    assert nnx.graphdef(model) == graphdef
    call = nnx.jit(lambda model, x: with_losses(model)(x)[1])
    first, second = with_losses(model)(X)[1], with_losses(model)(X)[1]
    third = call(model, X)
    for losses in (second, third):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), first, losses)
    assert [path for path, _ in nnx.to_flat_state(nnx.state(model))] == [path for path, _ in before]
    assert nnx.graphdef(model) == graphdef


def test_changes_of_the_model_stay() -> None:
    for transform in (lambda f: f, nnx.jit):
        model, twin = Net(nnx.Rngs(0)), Net(nnx.Rngs(0))
        y, _ = transform(lambda model, x: with_losses(model)(x))(model, X)
        np.testing.assert_allclose(y, twin(X), rtol=1e-6)  # the same dropout mask
        for (path, ours), (_, theirs) in zip(
            nnx.to_flat_state(nnx.state(model)), nnx.to_flat_state(nnx.state(twin)), strict=True
        ):
            value, other = ours.get_value(), theirs.get_value()
            if not jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
                np.testing.assert_allclose(value, other, rtol=1e-6, err_msg=str(path))
        assert int(model.drop.rngs.count[...]) == 1


def test_an_exception_leaves_the_model_as_it_was() -> None:
    model = Net(nnx.Rngs(0))
    graphdef, call = nnx.graphdef(model), nnx.Linear.__call__
    with pytest.raises(TypeError):
        with_losses(model, activity=[("out", "l1")])(np.ones((4, 7), np.float32))
    assert nnx.graphdef(model) == graphdef
    assert nnx.Linear.__call__ is call
    model(X)


def test_other_methods() -> None:
    model = Net(nnx.Rngs(0))
    once = with_losses(model, method="encode")(X)[1]["shared/activity"]
    out = X @ np.asarray(model.shared.kernel) + np.asarray(model.shared.bias)
    np.testing.assert_allclose(once, 0.01 * abs(out).sum() / 4, rtol=1e-5)
    np.testing.assert_allclose(with_losses(model, method=Net.encode)(X)[1]["shared/activity"], once)
    assert float(with_losses(model.shared, method=lambda layer: layer.kernel.sum())()[1]["activity"]) == 0.0


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (np.float32(12.0), 144.0),  # rank 0 is not divided
        (np.ones((0, 3), np.float32), 0.0),  # an empty batch
        (np.ones(4, np.float32), 1.0),
        ({"a": np.ones((4, 3), np.float32), "b": (np.full(4, 3.0, np.float32), np.ones((1, 3), np.float32))}, 15.0),
        ((np.arange(3), np.ones((2, 2), np.float32)), 2.0),  # integers are left alone
        (np.full((1, 300), 30.0, jnp.float16), 270000.0),  # beyond float16
        (np.ones((1, 70001), jnp.bfloat16), 70001.0),
        (np.full((2, 1), 3 + 4j, np.complex64), 25.0),
    ],
)
def test_outputs(output: Any, expected: float) -> None:
    class Identity(jaxreg.nnx.Regularized, nnx.Module):
        def __call__(self, x: Any) -> Any:
            return x

    for call in (with_losses, lambda model: nnx.jit(lambda x: with_losses(model)(x))):
        _, losses = call(Identity(activity_regularizer=jaxreg.L2(1.0)))(jax.tree.map(jnp.asarray, output))
        assert losses["activity"].dtype == jnp.float32
        assert float(losses["activity"]) == expected


def test_metadata_of_parameters() -> None:
    layer = nnx.Linear(3, 2, kernel_metadata={"regularizer": jaxreg.L2(1.0)}, **ONES)
    assert jax.tree.map(float, with_losses(layer)(X)[1]) == {"kernel": 6.0}
    assert list(jaxreg.nnx.regularizer(layer).assignment(nnx.state(layer, nnx.Param))) == ["kernel"]
    # Adam's moments copy the metadata, and are no parameters
    optimizer = nnx.Optimizer(layer, optax.adam(0.1), wrt=nnx.Param)
    both = nnx.Dict(layer=layer, optimizer=optimizer)
    assert jax.tree.map(float, with_losses(both, method=lambda m: m["layer"](X))()[1]) == {"layer/kernel": 6.0}
    layer.kernel.set_metadata("regularizer", jaxreg.TreeRegularizer(()))
    with pytest.raises(TypeError, match="a regularizer of one array"):
        with_losses(layer)(X)


# ------------------------------------------------------------------------------------ rules for modules one cannot edit


def plain() -> nnx.Sequential:
    return nnx.Sequential(
        nnx.Linear(3, 2, **ONES), nnx.relu, nnx.Sequential(nnx.Linear(2, 2, **ONES), nnx.BatchNorm(2, rngs=nnx.Rngs(0)))
    )


def test_activity_rules() -> None:
    model = plain()
    call = {name: cls.__call__ for name, cls in (("linear", nnx.Linear), ("sequential", nnx.Sequential))}
    rules = [("layers/2/layers/1", None), ("layers/**", L1)]
    _, losses = with_losses(model, activity=rules)(X)
    expected = {"layers/0/activity": 6.0, "layers/2/activity": 0.0, "layers/2/layers/0/activity": 12.0}
    assert jax.tree.map(lambda v: round(float(v), 3), losses) == expected
    _, losses = with_losses(model, activity={"": L1, re.compile("0$"): 2.0 * L1})(X)
    expected = {"activity": 0.0, "layers/0/activity": 12.0, "layers/2/layers/0/activity": 24.0}
    assert jax.tree.map(lambda v: round(float(v), 3), losses) == expected
    _, losses = with_losses(model, activity=[(lambda path, module: isinstance(module, nnx.Linear), L1)])(X)
    assert sorted(losses) == ["layers/0/activity", "layers/2/layers/0/activity"]
    assert nnx.Linear.__call__ is call["linear"] and nnx.Sequential.__call__ is call["sequential"]
    assert with_losses(model)(X)[1] == {}


def test_activity_rules_add_to_declared_ones() -> None:
    layer = jaxreg.nnx.Linear(3, 2, activity_regularizer=L1, **ONES)
    _, losses = with_losses(layer, activity=[("**", 0.5 * L1)])(X)
    assert float(losses["activity"]) == 9.0
    # `*` is a name, and the root has none
    with pytest.raises(ValueError, match="no module"):
        with_losses(layer, activity=[("*", L1)])(X)


def test_a_rule_that_matches_nothing_raises_with_near_names() -> None:
    with pytest.raises(ValueError, match=r"(?i)no module matches the pattern 'layer/0'; paths are \['layers/0'"):
        with_losses(plain(), activity=[("layer/0", L1)])(X)
    with pytest.raises(TypeError, match="A pattern is"):
        with_losses(plain(), activity=[(3, L1)])
    with pytest.raises(TypeError, match=r"`with_losses\(model\)` takes a Flax NNX module"):
        with_losses(lambda x: x)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"`regularizer\(model\)` takes a Flax NNX module"):
        jaxreg.nnx.regularizer({})  # type: ignore[arg-type]


def test_rules_in_two_threads() -> None:
    call = nnx.Linear.__call__
    models, results = [plain() for _ in range(4)], [0.0] * 4

    def work(i: int) -> None:
        for _ in range(5):
            results[i] += float(
                with_losses(models[i], activity=[("layers/0", (i + 1.0) * L1)])(X)[1]["layers/0/activity"]
            )

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [30.0, 60.0, 90.0, 120.0]
    assert nnx.Linear.__call__ is call


class Meeting(nnx.Module):
    """A model in the middle of whose call something else happens."""

    def __init__(self) -> None:
        self.layer = jaxreg.nnx.Linear(3, 2, activity_regularizer=L1, **ONES)

    def __call__(self, x: Any, meanwhile: Any) -> Any:
        y = self.layer(x)
        meanwhile()
        return y


OTHERS = {
    "a call": lambda model: model.layer(1e3 * X),
    "a compiled call": lambda model: nnx.jit(lambda layer, x: layer(x))(model.layer, 1e3 * X),
    "a call of with_losses": lambda model: with_losses(model)(1e3 * X, lambda: None),
}


@pytest.mark.parametrize("other", OTHERS)
def test_other_threads_neither_count_nor_see_a_total(other: str) -> None:
    model = Meeting()
    graphdef, seen = nnx.graphdef(model), []

    def work() -> None:
        OTHERS[other](model)
        seen.append(nnx.graphdef(model))

    def meanwhile() -> None:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    losses = jax.tree.map(float, with_losses(model)(X, meanwhile)[1])
    assert losses == {"layer/activity": 6.0}  # outputs are 1 * 3 weights of 1: 2 units of 3
    assert seen == [graphdef]
    assert nnx.graphdef(model) == graphdef


def test_calls_that_overlap_leave_nothing_behind() -> None:
    model, other_began, first_ended = Meeting(), threading.Event(), threading.Event()
    graphdef, found = nnx.graphdef(model), []

    def meanwhile() -> None:
        other_began.set()
        first_ended.wait(60)

    thread = threading.Thread(target=lambda: found.append(with_losses(model)(2 * X, meanwhile)[1]))

    def start() -> None:
        thread.start()
        other_began.wait(60)

    found.append(with_losses(model)(X, start)[1])
    first_ended.set()
    thread.join()
    assert jax.tree.map(float, found) == [{"layer/activity": 6.0}, {"layer/activity": 12.0}]
    assert nnx.graphdef(model) == graphdef


def test_what_a_call_does_to_its_modules_is_done_to_the_model() -> None:
    class Changing(nnx.Module):
        def __init__(self) -> None:
            self.layer = jaxreg.nnx.Linear(3, 2, activity_regularizer=L1, **ONES)
            self.old = 1
            self.layers = nnx.List([self.layer])

        def __call__(self, x: Any) -> Any:
            del self.old
            self.calls = 1
            self.layers.append(nnx.Sequential(self.layer))
            self.again = self.layer
            return self

    model = Changing()
    layer = model.layer
    returned, losses = with_losses(model, method=lambda m, given: (m.__call__(X), given(X), layer(X))[0])(layer)
    assert returned is model  # what was given, and what the closure holds, is counted as the module that it is
    assert float(losses["layer/activity"]) == 12.0
    assert (model.calls, hasattr(model, "old"), len(model.layers)) == (1, False, 2)
    assert all(one is layer for one in (model.layer, model.again, model.layers[0], model.layers[1].layers[0]))


def test_a_parameter_named_activity() -> None:
    class Odd(jaxreg.nnx.Regularized, nnx.Module):
        def __init__(self) -> None:
            self.activity = nnx.Param(jnp.ones(3), regularizer=L1)

        def __call__(self, x: Any) -> Any:
            return x * self.activity

    assert jax.tree.map(float, with_losses(Odd())(X)[1]) == {"activity": 3.0}
    with pytest.raises(ValueError, match="Rename the parameter"):
        with_losses(Odd(activity_regularizer=L1))(X)


# ------------------------------------------------------------------------------------------------ the optimizer's side


def test_weights_in_an_optax_chain() -> None:
    model = nnx.Sequential(
        jaxreg.nnx.Linear(3, 2, kernel_regularizer=jaxreg.L2(0.5), activity_regularizer=L1, **ONES),
        nnx.Linear(2, 2, **ONES),
    )
    reg = jaxreg.nnx.regularizer(model)
    assert float(reg(nnx.state(model, nnx.Param))) == 3.0
    tx = optax.chain(jaxreg.add_regularization(reg), optax.sgd(0.1))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model: Any, optimizer: Any) -> None:
        grads = nnx.grad(lambda model: 0.0 * jnp.sum(model(X)))(model)
        optimizer.update(model, grads)

    step(model, optimizer)
    step(model, optimizer)
    np.testing.assert_allclose(model.layers[0].kernel, np.full((3, 2), 0.81), rtol=1e-6)
    np.testing.assert_allclose(model.layers[1].kernel, np.ones((2, 2)))
    assert isinstance(jaxreg.nnx.regularizer(plain()), jaxreg.TreeRegularizer)


def test_gradients_through_the_optimizer_equal_those_of_the_loss() -> None:
    def train(in_loss: bool) -> Any:
        model = jaxreg.nnx.Linear(3, 2, kernel_regularizer=jaxreg.L1L2(0.1, 0.2), rngs=nnx.Rngs(1))
        first = () if in_loss else (jaxreg.add_regularization(jaxreg.nnx.regularizer(model)),)
        optimizer = nnx.Optimizer(model, optax.chain(*first, optax.adam(0.01)), wrt=nnx.Param)

        def loss(model: Any) -> Any:
            y, losses = with_losses(model)(X)
            return jnp.sum(jnp.sin(y)) + (sum(losses.values()) if in_loss else 0.0)

        for _ in range(5):
            optimizer.update(model, nnx.grad(loss)(model))
        return model.kernel[...]

    np.testing.assert_allclose(train(True), train(False), rtol=1e-5)


def test_proximal_training_reaches_exact_zeros() -> None:
    model = jaxreg.nnx.Linear(3, 2, kernel_regularizer=jaxreg.L1(1.0), rngs=nnx.Rngs(0))
    tx = jaxreg.proximal(optax.sgd(0.1), jaxreg.nnx.regularizer(model), 0.1)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    for _ in range(30):
        optimizer.update(model, nnx.grad(lambda model: 0.0 * jnp.sum(model(X)))(model))
    assert np.count_nonzero(model.kernel) == 0


# ------------------------------------------------------------------------------------- together with what Flax offers


def test_metadata_set_in_the_ways_of_flax() -> None:
    layer = nnx.Linear(3, 2, **ONES)
    nnx.set_metadata(layer, only=nnx.PathContains("kernel"), regularizer="l2")
    np.testing.assert_allclose(with_losses(layer)(X)[1]["kernel"], 0.06, rtol=1e-6)
    init = nnx.with_metadata(nnx.initializers.ones, regularizer=L1)
    layer = nnx.Linear(3, 2, kernel_init=init, rngs=nnx.Rngs(0))
    restored = nnx.merge(*nnx.split(layer))
    for model in (layer, restored):
        assert jax.tree.map(float, nnx.jit(lambda m: with_losses(m)(X)[1])(model)) == {"kernel": 6.0}
    # of nnx.Param only: a statistic is no weight
    layer.mean = nnx.BatchStat(jnp.ones(3), regularizer=L1)
    assert sorted(with_losses(layer)(X)[1]) == ["kernel"]


@pytest.mark.skipif(not hasattr(nnx, "capture"), reason="Flax before 0.12.8 has no `nnx.capture`")
def test_capture_and_with_losses_do_not_disturb_each_other() -> None:
    class Sower(nnx.Module):
        def __init__(self) -> None:
            self.layer = jaxreg.nnx.Linear(3, 2, activity_regularizer=L1, **ONES)

        def __call__(self, x: Any) -> Any:
            y = self.layer(x)
            self.sow(nnx.Intermediate, "hidden", y)
            return y

    model = Sower()
    (_, losses), aux = nnx.capture(lambda m, x: with_losses(m)(x), nnx.Intermediate)(model, X)
    assert jax.tree.map(float, losses) == {"layer/activity": 6.0}
    np.testing.assert_array_equal(aux["hidden"].get_value()[0], np.full((4, 2), 3.0))
    _, losses = with_losses(model, method=lambda m, x: nnx.capture(m, nnx.Intermediate)(x))(X)
    assert jax.tree.map(float, losses) == {"layer/activity": 6.0}


def test_a_call_inside_another_one() -> None:
    class Outer(nnx.Module):
        def __init__(self) -> None:
            self.layer = jaxreg.nnx.Linear(3, 3, activity_regularizer=L1, **ONES)

        def __call__(self, x: Any) -> Any:
            y = self.layer(x)
            _, inner = with_losses(self.layer)(y)
            return inner

    inner, losses = with_losses(Outer())(X)
    assert float(losses["layer/activity"]) == 9.0
    assert float(inner["activity"]) == 27.0


def test_attributes_that_a_call_adds_stay() -> None:
    class Caching(jaxreg.nnx.Linear):
        def __call__(self, x: Any) -> Any:
            self.cache = nnx.Cache(jnp.asarray(x))
            return super().__call__(x)

    model = Caching(3, 2, activity_regularizer=L1, **ONES)
    with_losses(model)(X)
    assert [path for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Cache))] == [("cache",)]
    with_losses(nnx.clone(model))(X)


def test_coefficients_of_rules_are_differentiable() -> None:
    layer = nnx.Linear(3, 2, **ONES)
    for transform in (lambda f: f, jax.jit):
        slope = jax.grad(transform(lambda c: with_losses(layer, activity=[("", jaxreg.L1(c))])(X)[1]["activity"]))(0.5)
        assert float(slope) == 6.0


def test_float64() -> None:
    with jax.enable_x64(True):
        layer = jaxreg.nnx.Linear(3, 2, activity_regularizer=L1, kernel_regularizer=L1, **ONES)
        assert {loss.dtype for loss in with_losses(layer)(X)[1].values()} == {np.dtype(np.float32)}
        layer = jaxreg.nnx.Linear(3, 2, activity_regularizer=L1, kernel_regularizer=L1, param_dtype=np.float64, **ONES)
        assert {loss.dtype for loss in with_losses(layer)(X)[1].values()} == {np.dtype(np.float64)}
