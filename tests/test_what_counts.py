"""Which calls of a module count, and where a penalty stands: recursion, branches, generators, names that are taken."""

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

X = np.ones((4, 2), np.float32)
L1 = jaxreg.L1(1.0)  # of 2^k X, divided by the batch: 2 * 2^k


class Doubling:
    """Doubles its input n times by calling itself: n + 1 calls, all of which return 2^n X."""

    def __call__(self, x: Any, n: int = 2) -> Any:
        return x if n == 0 else self(2 * x, n - 1)


class Halved(Doubling):
    """Calls the method of its base once: one call, for which the base counts nothing of its own."""

    def __call__(self, x: Any, n: int = 2) -> Any:
        return super().__call__(x, n)


class Generating:
    def __call__(self, x: Any) -> Any:
        yield x


class Hiding:
    def __call__(self, x: Any) -> Any:
        return {"y": lambda: x}


class Index:
    def __call__(self, x: Any) -> Any:
        return jnp.argmax(x), "a name", 3, None


def nnx_declared(behaviour: type) -> Any:
    class Model(jaxreg.nnx.Regularized, behaviour, nnx.Module): ...

    return jaxreg.nnx.with_losses(Model(activity_regularizer=L1))


def nnx_by_rule(behaviour: type) -> Any:
    class Model(behaviour, nnx.Module): ...

    return jaxreg.nnx.with_losses(Model(), [("", L1)])


def linen_declared(behaviour: type) -> Any:
    class Model(jaxreg.linen.Regularized):
        __call__ = behaviour.__call__

    return lambda *args: jaxreg.linen.with_losses(Model(activity_regularizer=L1))({}, *args)


def linen_by_rule(behaviour: type) -> Any:
    class Model(nn.Module):
        __call__ = behaviour.__call__

    return lambda *args: jaxreg.linen.with_losses(Model(), [("", L1)])({}, *args)


WAYS = (nnx_declared, nnx_by_rule, linen_declared, linen_by_rule)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_each_call_of_a_recursion_counts(way: Callable[[type], Any]) -> None:
    call = way(Doubling)
    for n in (0, 1, 2):
        y, losses = call(X, n)
        np.testing.assert_array_equal(y, 2**n * X)
        assert jax.tree.map(float, losses) == {"activity": (n + 1) * 2.0 * 2**n}


@pytest.mark.parametrize("way", WAYS[:2], ids=lambda way: way.__name__)
def test_a_recursion_through_super_counts_the_calls_of_the_module(way: Callable[[type], Any]) -> None:
    assert jax.tree.map(float, way(Halved)(X, 2)[1]) == {"activity": 3 * 8.0}
    assert jax.tree.map(float, way(Halved)(X, 0)[1]) == {"activity": 2.0}


def test_super_is_no_other_call_in_linen() -> None:
    class Base(jaxreg.linen.Regularized):
        def __call__(self, x: Any) -> Any:
            return 2 * x

    class Model(Base):
        def __call__(self, x: Any) -> Any:
            return super().__call__(x) + 0

    model = Model(activity_regularizer=L1)
    losses = jaxreg.linen.with_losses(model, [("", L1)])({}, X)[1]
    assert jax.tree.map(float, losses) == {"activity": 2 * 4.0}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_an_output_that_hides_its_arrays_is_refused(way: Callable[[type], Any]) -> None:
    for behaviour, kind in ((Generating, "generator"), (Hiding, "function")):
        with pytest.raises(TypeError, match=rf"`with_losses`: the activity penalty L1\(l1=1.0\).* a `{kind}`"):
            way(behaviour)(X)
    assert jax.tree.map(float, way(Index)(X)[1]) == {"activity": 0.0}


class Sowing(jaxreg.linen.Regularized):
    name_of_loss: str = "own"

    @nn.compact
    def __call__(self, x: Any) -> Any:
        self.sow("losses", self.name_of_loss, jnp.float32(7.0))
        return x @ self.param("kernel", nn.initializers.ones, (2, 2))


@pytest.mark.parametrize("name", ["kernel", "activity"])
def test_a_loss_that_a_module_sows_under_the_name_of_a_penalty_is_refused(name: str) -> None:
    variables = {"params": {"kernel": jnp.ones((2, 2))}}
    penalties = {"kernel_regularizer": L1, "activity_regularizer": L1}

    def both(model: nn.Module) -> list[Any]:
        _, losses = jaxreg.linen.with_losses(model)(variables, X)
        _, state = model.apply(variables, X, mutable=["losses"])
        _, again = model.apply({**variables, **state}, X, mutable=["losses"])
        return [jax.tree.map(float, tree) for tree in (losses, state["losses"], again["losses"])]

    for call in (
        lambda m: jaxreg.linen.with_losses(m)(variables, X),
        lambda m: m.apply(variables, X, mutable="losses"),
    ):
        with pytest.raises(ValueError, match=rf"sow losses of their own under \['{name}'\]"):
            call(Sowing(name_of_loss=name, **penalties))
    losses, state, again = both(Sowing(**penalties))
    assert losses == {"kernel": 4.0, "activity": 4.0, "own": 7.0}
    assert state == {"kernel": 4.0, "activity": 4.0, "own": (7.0,)}
    assert again == {"kernel": 4.0, "activity": 4.0, "own": (7.0, 7.0)}
    other = "activity" if name == "kernel" else "kernel"
    alone = {f"{other}_regularizer": L1}
    assert both(Sowing(name_of_loss=name, **alone))[0] == {name: 7.0, other: 4.0}


class Branching(nn.Module):
    """One branch, or one of three, has a penalized layer, and so has a second choice after it."""

    transform: str

    def setup(self) -> None:
        self.a, self.b = (
            jaxreg.linen.Dense(2, kernel_init=nn.initializers.ones, activity_regularizer=L1) for _ in range(2)
        )

    def __call__(self, x: Any, which: Any) -> Any:
        if self.is_initializing():
            return self.b(self.a(x))
        if self.transform == "cond":
            first = nn.cond(which == 1, lambda m, x: m.a(x), lambda m, x: x, self, x)
        else:
            first = nn.switch(which, [lambda m, x: x, lambda m, x: m.a(m.a(x)), lambda m, x: m.b(x)], self, x)
        return nn.cond(which == 2, lambda m, x: m.b(x), lambda m, x: x, self, first)


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        ("cond", {0: (0.0, 0.0), 1: (4.0, 0.0), 2: (0.0, 4.0)}),
        ("switch", {0: (0.0, 0.0), 1: (4.0 + 8.0, 0.0), 2: (0.0, 4.0 + 8.0)}),
    ],
)
def test_a_penalty_in_one_branch_counts_when_that_branch_runs(transform: str, expected: Any) -> None:
    model = Branching(transform)
    variables = model.init(jax.random.key(0), X, 0)
    run = jax.jit(lambda which: jaxreg.linen.with_losses(model)({"params": variables["params"]}, X, which)[1])
    for which, (a, b) in expected.items():
        assert jax.tree.map(float, run(which)) == {"a/activity": a, "b/activity": b}


def test_a_branch_whose_penalty_cannot_be_handed_on_is_refused() -> None:
    class Step(nn.Module):
        penalty: Any

        def setup(self) -> None:
            self.a = jaxreg.linen.Dense(2, kernel_init=nn.initializers.ones, activity_regularizer=self.penalty)

        def __call__(self, x: Any, _: Any) -> Any:
            if self.is_initializing():
                return self.a(x), None
            return nn.cond(x[0, 0] < 3, lambda m, x: m.a(x), lambda m, x: x, self, x), None

    class Model(nn.Module):
        penalty: Any = L1

        @nn.compact
        def __call__(self, x: Any) -> Any:
            axes = {"variable_broadcast": "params", "variable_axes": {"losses": 0}, "split_rngs": {"params": False}}
            return nn.scan(Step, length=2, **axes)(self.penalty, name="steps")(x, None)[0]

    variables = {"params": Model().init(jax.random.key(0), X)["params"]}
    with pytest.raises(ValueError, match=r"modules \['steps/a'\] are of some branches of `nn.cond`.*module around"):
        jaxreg.linen.with_losses(Model())(variables, X)
    losses = jaxreg.linen.with_losses(Model(None), [("", L1)])(variables, X)[1]
    assert jax.tree.map(float, losses) == {"activity": 8.0}  # 1 in, 2 and 4 out


def test_a_penalty_that_is_taken_away_is_forgotten() -> None:
    declared = [L1]

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            first = jaxreg.linen.Dense(2, kernel_regularizer=declared[0])(x)
            return jaxreg.linen.Dense(2, bias_regularizer=L1)(first)

    model = Model()
    variables = model.init(jax.random.key(0), X)
    kept = ("Dense_1/bias", L1)
    assert jaxreg.linen.regularizer(model, variables) == jaxreg.TreeRegularizer([("Dense_0/kernel", L1), kept])
    for regularizer, rules in ((None, [kept]), (2 * L1, [("Dense_0/kernel", 2 * L1), kept])):
        declared[0] = regularizer
        model.apply(variables, X)
        assert jaxreg.linen.regularizer(model, variables) == jaxreg.TreeRegularizer(rules)
