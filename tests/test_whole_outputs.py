"""Activity penalties that are means over the batch already, or of all that a module returns: not divided once more."""

import functools
import pickle
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxreg
import jaxreg.linen
import jaxreg.nnx
from jaxreg import activity
from jaxreg.activity import WholeOutput

X = np.linspace(0.1, 0.9, 12, dtype=np.float32).reshape(4, 3)
MASK = np.array([True, True, False, True])


class Identity(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return x


class LinenIdentity(jaxreg.linen.Regularized, Identity):
    pass


class NnxIdentity(jaxreg.nnx.Regularized, nnx.Module):
    def __call__(self, x: Any) -> Any:
        return x


class Plain(nnx.Module):
    def __call__(self, x: Any) -> Any:
        return x


def by_linen(reg: Any, output: Any, **options: Any) -> Any:
    return jaxreg.linen.with_losses(LinenIdentity(activity_regularizer=reg), **options)({}, output)[1]["activity"]


def by_linen_rule(reg: Any, output: Any, **options: Any) -> Any:
    return jaxreg.linen.with_losses(Identity(), [("", reg)], **options)({}, output)[1]["activity"]


def by_nnx(reg: Any, output: Any, **options: Any) -> Any:
    return jaxreg.nnx.with_losses(NnxIdentity(activity_regularizer=reg), **options)(output)[1]["activity"]


def by_nnx_attribute(reg: Any, output: Any, **options: Any) -> Any:
    model = Plain()
    model.activity_regularizer = reg
    return jaxreg.nnx.with_losses(model, **options)(output)[1]["activity"]


def plain_apply(reg: Any, output: Any) -> Any:
    return LinenIdentity(activity_regularizer=reg).apply({}, output, mutable=["losses"])[1]["losses"]["activity"]


WAYS = [by_linen, by_linen_rule, by_nnx, by_nnx_attribute]
each_way = pytest.mark.parametrize("penalty_of", WAYS)
FUNCTIONS = [
    "kl_sparsity",
    "entropy",
    "z_loss",
    "activation_l2",
    "temporal_l2",
    "covariance",
    "decorrelation",
    "variance",
]


def kl_sparsity(h: Any, rho: float) -> float:
    mean = np.asarray(h, np.float64).mean(0)
    return float(np.sum(rho * np.log(rho / mean) + (1 - rho) * np.log((1 - rho) / (1 - mean))))


@pytest.mark.parametrize("penalty_of", [*WAYS, plain_apply])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_activity_are_taken_as_they_are(penalty_of: Any, name: str) -> None:
    function = getattr(activity, name)
    np.testing.assert_allclose(penalty_of(function, X), function(X), rtol=1e-6)


@each_way
def test_partials_sums_and_multiples(penalty_of: Any) -> None:
    sparse = functools.partial(functools.partial(activity.kl_sparsity), rho=0.2)
    by_hand = kl_sparsity(X, 0.2)
    np.testing.assert_allclose(penalty_of(sparse, X), by_hand, rtol=1e-5)
    masked = functools.partial(activity.kl_sparsity, rho=0.2, mask=MASK)
    np.testing.assert_allclose(penalty_of(masked, X), kl_sparsity(X[MASK], 0.2), rtol=1e-5)
    total = jaxreg.L2(0.5) + 3.0 * (jaxreg.Function(sparse) + 2.0 * jaxreg.L1(1.0)) + WholeOutput(jnp.max)
    expected = 0.5 * np.square(X).sum() / 4 + 3 * (by_hand + 2 * np.abs(X).sum() / 4) + X.max()
    np.testing.assert_allclose(penalty_of(total, X), expected, rtol=1e-5)
    divided = functools.partial(activity.penalty, jaxreg.L1(1.0), mask=MASK)
    np.testing.assert_allclose(penalty_of(divided, X), X[MASK].sum() / 3, rtol=1e-6)
    for axis in (1, None):
        if axis is not None:
            np.testing.assert_allclose(penalty_of(sparse, X, batch_axis=axis), by_hand, rtol=1e-5)
        np.testing.assert_allclose(penalty_of(WholeOutput(jnp.max), X, batch_axis=axis), X.max(), rtol=1e-6)


def vae_kl(output: Any) -> Any:
    mean, log_variance = output
    return 0.5 * jnp.mean(jnp.sum(jnp.exp(log_variance) + mean**2 - 1 - log_variance, axis=-1))


@pytest.mark.parametrize("penalty_of", [*WAYS, plain_apply])
def test_the_kl_of_a_pair(penalty_of: Any) -> None:
    mean, log_variance = X, X[::-1] - 0.5
    m, v = np.asarray(mean, np.float64), np.exp(np.asarray(log_variance, np.float64))
    expected = np.mean([0.5 * sum(v[i] + m[i] ** 2 - 1 - np.log(v[i])) for i in range(4)])
    np.testing.assert_allclose(penalty_of(0.1 * WholeOutput(vae_kl), (mean, log_variance)), 0.1 * expected, rtol=1e-5)


def test_gradients_reach_the_model() -> None:
    model = jaxreg.nnx.Linear(3, 2, activity_regularizer=WholeOutput(lambda y: jnp.mean(y**2)), rngs=nnx.Rngs(0))
    grads = nnx.jit(nnx.grad(lambda m: sum(jaxreg.nnx.with_losses(m)(X)[1].values())))(model)
    y = np.asarray(model(X))
    np.testing.assert_allclose(grads["kernel"].get_value(), X.T @ (2 * y / y.size), rtol=1e-5)


class Mine(jaxreg.Regularizer):
    """A regularizer of the user's that calls a mean over the batch."""

    rho: float = 0.2

    def __call__(self, x: Any) -> Any:
        return activity.kl_sparsity(x, self.rho)


HIDDEN: list[Callable[[], Any]] = [
    lambda: lambda h: 2 * activity.kl_sparsity(h),
    lambda: lambda h: activity.penalty("l1", h, mask=MASK),
    lambda: jaxreg.L1(1.0) + (lambda h: activity.z_loss(h)),
    Mine,
    lambda: 2.0 * Mine(),
]


@pytest.mark.parametrize("make", HIDDEN)
@pytest.mark.parametrize("penalty_of", [*WAYS, plain_apply])
def test_a_function_that_calls_one_raises_each_time_and_the_way_out_runs(penalty_of: Any, make: Any) -> None:
    reg = make()
    jaxreg.get(reg)(X)  # whatever is cached of it
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"calls `activity\.\w+`, which is divided by the batch already.*WholeOutput"
        ):
            penalty_of(reg, X)
    assert float(activity.kl_sparsity(X)) > 0  # outside nothing is refused
    np.testing.assert_allclose(penalty_of(WholeOutput(jaxreg.get(reg)), X), jaxreg.get(reg)(X), rtol=1e-6)


@each_way
def test_other_functions_are_divided_as_ever(penalty_of: Any) -> None:
    np.testing.assert_allclose(penalty_of(lambda h: jnp.sum(h**2), X), np.square(X).sum() / 4, rtol=1e-6)


def test_a_whole_output_as_an_object() -> None:
    reg = WholeOutput(vae_kl)
    assert pickle.loads(pickle.dumps(reg)) == reg == WholeOutput(vae_kl)
    assert jax.tree.leaves(2.0 * reg) == [2.0]
    with pytest.raises(TypeError, match=r"WholeOutput\(function=\.\.\.\)` takes a function, got 3"):
        WholeOutput(3)  # type: ignore[arg-type]


@each_way
def test_what_is_no_scalar_raises(penalty_of: Any) -> None:
    with pytest.raises(ValueError, match=r"must return a real scalar, got shape \(4, 3\)"):
        penalty_of(WholeOutput(lambda y: y), X)


def test_two_functions_of_one_name_share_no_trace_of_nn_jit() -> None:
    model = nn.jit(nn.Dense)(2)
    variables = model.init(jax.random.key(0), X)
    for factor in (1.0, 5.0):
        reg = WholeOutput(lambda y, factor=factor: factor + 0 * jnp.sum(y))
        assert float(jaxreg.linen.with_losses(model, [("", reg)])(variables, X)[1]["activity"]) == factor
