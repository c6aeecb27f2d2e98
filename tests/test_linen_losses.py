"""with_losses and the plain collection: what they return, for which calls, under which transformations of JAX."""

from concurrent.futures import ThreadPoolExecutor

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import freeze
from flax.training.train_state import TrainState

import jaxreg
from jaxreg.linen import Dense, Embed, Regularized, with_losses

KEY = jax.random.key(0)
ONES = nn.initializers.ones
X = jnp.ones((2, 3))


class Net(nn.Module):
    """Dense kernels of ones: 3x4 and 4x1; the penalties 0.5 * 12 * 1 and 2 * 4."""

    @nn.compact
    def __call__(self, x, train=False):
        x = Dense(4, kernel_init=ONES, kernel_regularizer=jaxreg.L2(0.5), activity_regularizer=jaxreg.L1(1.0))(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return Dense(1, kernel_init=ONES, kernel_regularizer=jaxreg.L1(2.0), name="head")(x)

    def features(self, x):
        return 2 * x


LOSSES = {"Dense_0/kernel": 6.0, "Dense_0/activity": 12.0, "head/kernel": 8.0}


def numbers(tree):
    return jax.tree.map(lambda x: round(float(x), 4), tree)


def test_keras_documented_example():
    x, parts = 2 * jnp.ones((5, 5)), {"kernel_regularizer": jaxreg.L1(0.01), "activity_regularizer": jaxreg.L2(0.01)}
    model = Dense(5, kernel_init=ONES, **parts)
    variables = model.init(KEY, x)
    _, losses = with_losses(model)(variables, x)
    assert numbers(losses) == {"kernel": 0.25, "activity": 5.0}
    assert float(sum(losses.values())) == pytest.approx(5.25)
    _, state = model.apply(variables, x, mutable=["losses"])
    assert float(sum(jax.tree.leaves(state["losses"]))) == pytest.approx(5.25)


def test_paths_and_the_plain_collection():
    variables = Net().init(KEY, X)
    y, losses = with_losses(Net())(variables, X)
    assert numbers(losses) == LOSSES
    np.testing.assert_array_equal(y, Net().apply(variables, X))
    _, state = Net().apply(variables, X, mutable=["losses"])
    assert numbers(state["losses"]) == {"Dense_0": {"kernel": 6.0, "activity": 12.0}, "head": {"kernel": 8.0}}


@pytest.mark.parametrize(
    "mutable", [["batch_stats"], "batch_stats", ["batch_stats", "losses"], True, nn.DenyList("params")]
)
def test_mutable_collections(mutable):
    variables = Net().init(KEY, X)
    (y, state), losses = with_losses(Net())(variables, X, True, mutable=mutable, rngs={"dropout": KEY})
    y_plain, state_plain = Net().apply(variables, X, True, mutable=mutable, rngs={"dropout": KEY})
    assert numbers(losses) == LOSSES
    np.testing.assert_array_equal(y, y_plain)
    state, asked = dict(state), dict(state_plain).pop("losses", None) is not None
    assert ("losses" in state) == asked
    state.pop("losses", None)
    jax.tree.map(np.testing.assert_array_equal, state, {n: v for n, v in state_plain.items() if n != "losses"})


def test_no_mutable_collection_given_as_a_list_returns_a_state():
    variables = Net().init(KEY, X)
    (_, state), losses = with_losses(Net())(variables, X, mutable=[])
    assert state == {}
    assert numbers(losses) == LOSSES


def test_method_rngs_and_intermediates():
    variables = Net().init(KEY, X)
    y, losses = with_losses(Net())(variables, X, method="features")
    np.testing.assert_array_equal(y, 2 * X)
    assert numbers(losses) == {"Dense_0/kernel": 6.0, "head/kernel": 8.0}  # declared by init; no output to penalize
    y, losses = with_losses(Net())(variables, X, method=lambda model, x: model(x))
    assert numbers(losses) == LOSSES
    (_, state), losses = with_losses(Net())(variables, X, capture_intermediates=True)
    _, plain = Net().apply(variables, X, capture_intermediates=True)
    assert jax.tree.structure(state) == jax.tree.structure(plain)
    assert numbers(losses) == LOSSES


def test_training_with_jit_grad_and_train_state():
    model = Net()
    variables = model.init(KEY, X)
    state = TrainState.create(apply_fn=with_losses(model), params=variables["params"], tx=optax.sgd(0.1))

    @jax.jit
    def step(state, stats):
        def loss(params):
            inputs = {"params": params, "batch_stats": stats}
            (y, new), losses = state.apply_fn(inputs, X, True, mutable=["batch_stats"], rngs={"dropout": KEY})
            return 0.0 * jnp.sum(y) + losses["Dense_0/kernel"], (new, losses)

        grads, (new, losses) = jax.grad(loss, has_aux=True)(state.params)
        return state.apply_gradients(grads=grads), new["batch_stats"], losses

    state, stats, losses = step(state, variables["batch_stats"])
    assert numbers(losses) == LOSSES
    np.testing.assert_allclose(state.params["Dense_0"]["kernel"], 0.9 * np.ones((3, 4)), rtol=1e-6)
    state, _, losses = step(state, stats)
    assert float(losses["Dense_0/kernel"]) == pytest.approx(6 * 0.81)


def test_the_coefficient_may_be_traced_and_differentiated():
    def total(lam, x):
        model = nn.Sequential([Dense(4, kernel_init=ONES, kernel_regularizer=jaxreg.L2(lam)), nn.relu])
        variables = model.init(KEY, x)
        return sum(with_losses(model)(variables, x)[1].values())

    assert float(jax.jit(jax.grad(total))(0.5, X)) == 12.0
    with jax.check_tracer_leaks():
        assert float(jax.grad(total)(0.5, X)) == 12.0


def test_vmap_over_examples():
    variables = Net().init(KEY, X)
    _, losses = jax.vmap(with_losses(Net()), in_axes=(None, 0))(variables, jnp.stack([X, 2 * X]))
    np.testing.assert_allclose(losses["Dense_0/activity"], [12.0, 24.0])
    np.testing.assert_allclose(losses["head/kernel"], [8.0, 8.0])


def test_structured_outputs_scalars_and_empty_batches():
    class Parts(Regularized, nn.Module):
        @nn.compact
        def __call__(self, x):
            return {"a": 2 * x, "b": (x[:1], jnp.sum(x)), "count": jnp.arange(3), "none": None, "text": "ignored"}

    model = Parts(activity_regularizer=jaxreg.L2(1.0))
    _, losses = with_losses(model)({}, X)
    assert numbers(losses) == {"activity": 4 * 6 / 2 + 3 / 1 + 36.0}
    _, losses = with_losses(Dense(2, activity_regularizer=lambda x: jnp.mean(x)))(Dense(2).init(KEY, X), X[:0])
    assert numbers(losses) == {"activity": 0.0}


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_outputs_are_summed_in_float32(dtype):
    model = Dense(300, kernel_init=ONES, dtype=dtype, activity_regularizer=jaxreg.L2(0.01))
    x = jnp.ones((300, 300))
    _, losses = with_losses(model)(model.init(KEY, x), x)
    assert losses["activity"].dtype == jnp.float32
    assert float(losses["activity"]) == pytest.approx(0.01 * 300 * 300**2, rel=1e-5)


def test_attend_shares_the_embedding():
    class Tied(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            embed = Embed(5, 2, embedding_init=ONES, embedding_regularizer="l2", activity_regularizer="l1")
            return embed.attend(embed(tokens))

    tokens = jnp.array([[1, 2]])
    _, losses = with_losses(Tied())(Tied().init(KEY, tokens), tokens)
    assert numbers(losses) == {"Embed_0/embedding": 0.1, "Embed_0/activity": 0.04}
    model = Embed(5, 2, embedding_init=ONES, embedding_regularizer="l1")
    variables = {"params": {"embedding": jnp.ones((5, 2))}}
    _, state = model.apply(variables, X[:, :2], method="attend", mutable=["losses"])
    assert numbers(state["losses"]) == {"embedding": 0.1}


def test_losses_that_others_sow_are_returned_too():
    class Router(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.sow("losses", "balance", jnp.float32(0.25))
            self.sow("losses", "balance", jnp.float32(0.5))
            return Dense(1, kernel_init=ONES, kernel_regularizer="l2")(x)

    variables = {"params": Router().init(KEY, X)["params"]}
    assert numbers(with_losses(Router())(variables, X)[1]) == {"balance": 0.75, "Dense_0/kernel": 0.03}


def test_a_model_applied_inside_a_model_is_not_counted():
    teacher = Dense(3, kernel_init=ONES, kernel_regularizer="l2", activity_regularizer="l2")

    class Student(nn.Module):
        @nn.compact
        def __call__(self, x):
            target = teacher.apply({"params": {"kernel": jnp.ones((3, 3)), "bias": jnp.zeros(3)}}, x)
            return Dense(3, kernel_init=ONES, kernel_regularizer="l1")(x) - target

    variables = Student().init(KEY, X)
    assert numbers(with_losses(Student())(variables, X)[1]) == {"Dense_0/kernel": 0.09}


def test_super_call_of_a_subclass_counts_once_and_own_calls_are_observed():
    class Doubled(Dense):
        @nn.compact
        def __call__(self, x):
            return 2 * super().__call__(x)

    class Rematted(Regularized, nn.Module):
        @nn.remat
        @nn.compact
        def __call__(self, x):
            return x * self.param("kernel", ONES, (3,))

    model = Doubled(1, kernel_init=ONES, kernel_regularizer="l1", activity_regularizer="l1")
    assert numbers(with_losses(model)(model.init(KEY, X), X)[1]) == {"kernel": 0.03, "activity": 0.06}
    model = Rematted(kernel_regularizer="l1", activity_regularizer="l1")
    assert numbers(with_losses(model)(model.init(KEY, X), X)[1]) == {"kernel": 0.03, "activity": 0.03}


def test_a_teacher_of_the_same_class_inside_the_model():
    class Twin(nn.Module):
        teacher: bool = False

        @nn.compact
        def __call__(self, x, teacher_variables=None):
            y = Dense(3, kernel_init=ONES, kernel_regularizer="l2", activity_regularizer="l2")(x)
            return y if teacher_variables is None else y - self.clone(parent=None).apply(teacher_variables, x)

    variables = Twin().init(KEY, X)
    other = jax.tree.map(lambda leaf: 5 * leaf, variables)
    expected = {"Dense_0/kernel": 0.09, "Dense_0/activity": 0.27}
    assert numbers(with_losses(Twin())(variables, X, other)[1]) == expected


def test_a_regularizer_that_depends_on_the_call():
    class Switched(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return Dense(3, kernel_init=ONES, kernel_regularizer="l2" if train else None)(x)

    class Jitted(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            block = nn.jit(Switched, static_argnums=2)
            return block()(block()(x, train), train)

    variables = Switched().init(KEY, X, True)
    assert numbers(with_losses(Switched())(variables, X, True)[1]) == {"Dense_0/kernel": 0.09}
    assert with_losses(Switched())(variables, X, False)[1] == {}
    variables = Jitted().init(KEY, X, True)
    for _ in range(2):
        found = numbers(with_losses(Jitted())(variables, X, True)[1])
        assert found == {f"JitSwitched_{i}/Dense_0/kernel": 0.09 for i in range(2)}
        assert with_losses(Jitted())(variables, X, False)[1] == {}


@pytest.mark.parametrize("lift", [nn.remat, nn.jit])
def test_lifted_ready_layers_and_frozen_variables(lift):
    model = nn.Sequential(
        [lift(Dense)(3, kernel_init=ONES, kernel_regularizer="l1", activity_regularizer="l1"), nn.relu]
    )
    variables = freeze(model.init(KEY, X))
    for _ in range(2):
        _, losses = with_losses(model)(variables, X)
        assert numbers(losses) == {"layers_0/kernel": 0.09, "layers_0/activity": 0.09}


def test_passes_in_threads_do_not_mix():
    def one(width):
        model = nn.Sequential([Dense(width, kernel_init=ONES, kernel_regularizer="l1") for _ in range(4)])
        variables = model.init(KEY, X)
        return numbers(with_losses(model)(variables, X)[1])

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(one, range(2, 8)))
    for width, losses in zip(range(2, 8), results, strict=True):
        layers = {f"layers_{i}/kernel": round(0.01 * width * (3 if i == 0 else width), 4) for i in range(4)}
        assert losses == layers


def test_a_parameter_that_a_lifted_transform_renames():
    def rename(tree):
        return {"params": {"kernel": tree["params"]["w"], "bias": tree["params"]["b"]}}

    model = nn.map_variables(Dense, "params", rename)(2, kernel_regularizer="l2")
    params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
    with pytest.raises(ValueError, match=r"none of these paths .*map_variables"):
        with_losses(model)({"params": params}, X)
