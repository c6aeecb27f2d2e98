"""Plain `apply(variables, x, mutable=["losses"])` under lifted transforms: what it returns is right, or it raises."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest

import jaxreg
import jaxreg.linen
from jaxreg.linen import with_losses

X = np.ones((4, 5, 3), np.float32)
L2 = jaxreg.L2(0.5)
ASK = {"mutable": ["losses"]}


def squares(array: Any) -> float:
    return float(0.5 * np.sum(np.asarray(array, np.float64) ** 2))


class Step(nn.Module):
    """A layer in the form that nn.scan takes."""

    options: Any

    @nn.compact
    def __call__(self, x: Any, _: Any) -> Any:
        return jaxreg.linen.Dense(3, **dict(self.options))(x), None


def scanned(variable_axes: dict[str, Any], split: bool, **options: Any) -> nn.Module:
    lifted: Any = nn.scan(
        Step,
        variable_axes={k: v for k, v in variable_axes.items() if v is not None},
        variable_broadcast=[k for k, v in variable_axes.items() if v is None],
        split_rngs={"params": split},
        length=2,
    )
    return lifted(tuple(options.items()))


class Scanned(nn.Module):
    """A stack of layers, or one layer that runs twice."""

    axes: Any
    split: bool
    options: Any

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return scanned(dict(self.axes), self.split, **dict(self.options))(x, None)[0]


def stack(losses: bool, **options: Any) -> nn.Module:
    axes = {"params": 0, "losses": 0} if losses else {"params": 0}
    return Scanned(tuple(axes.items()), True, tuple(options.items()))


def shared(losses: bool, **options: Any) -> nn.Module:
    axes: dict[str, Any] = {"params": None, "losses": 0} if losses else {"params": None}
    return Scanned(tuple(axes.items()), False, tuple(options.items()))


def rnn(losses: bool, **options: Any) -> nn.Module:
    cell = jaxreg.linen.SimpleCell(2, **options)
    return nn.RNN(cell, variable_axes={"losses": 0}) if losses else nn.RNN(cell)


class Mapped(nn.Module):
    """One layer that sees one example."""

    axes: Any
    options: Any

    @nn.compact
    def __call__(self, x: Any) -> Any:
        lifted = nn.vmap(jaxreg.linen.Dense, variable_axes=dict(self.axes), split_rngs={"params": False})
        return lifted(3, **dict(self.options))(x)


def mapped(losses: bool, **options: Any) -> nn.Module:
    axes: dict[str, Any] = {"params": None, "losses": 0} if losses else {"params": None}
    return Mapped(tuple(axes.items()), tuple(options.items()))


LOST: list[Callable[..., nn.Module]] = [stack, shared, rnn, mapped]


@pytest.mark.parametrize("make", LOST)
@pytest.mark.parametrize("option", ["kernel_regularizer", "activity_regularizer"])
@pytest.mark.parametrize("compiled", [False, True])
def test_what_would_be_lost_raises_and_the_way_out_runs(make: Any, option: str, compiled: bool) -> None:
    model = make(False, **{option: L2})
    variables = model.init(jax.random.key(0), X)

    def ask(variables: Any) -> Any:
        return model.apply(variables, X, **ASK)[1]

    with pytest.raises(ValueError, match=r"apply\(\.\.\., mutable=\['losses'\]\)`: the penalty L2\(l2=0\.5\).*is lost"):
        (jax.jit(ask) if compiled else ask)(variables)
    y = model.apply(variables, X)  # computes none, and may
    np.testing.assert_array_equal(model.apply(variables, X, mutable=["batch_stats"])[0], y)
    if option == "kernel_regularizer":
        assert len(with_losses(model)(variables, X)[1]) == 1
    else:
        _, losses = with_losses(make(True, **{option: L2}))(variables, X)  # the way out of `with_losses` itself
        assert len(losses) == 1


@pytest.mark.parametrize("make", [shared, rnn, mapped])
def test_a_weight_that_would_count_once_a_step_raises(make: Any) -> None:
    model = make(True, kernel_regularizer=L2)
    variables = model.init(jax.random.key(0), X)
    with pytest.raises(ValueError, match=r"kernel in the module .* counts once a run.*with_losses"):
        model.apply(variables, X, **ASK)
    (value,) = with_losses(model)(variables, X)[1].values()
    kernels = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(variables) if "'h'" not in str(path)]
    np.testing.assert_allclose(value, sum(squares(leaf) for leaf in kernels if leaf.ndim == 2), rtol=1e-6)


def test_a_stack_of_layers_is_right() -> None:
    model = stack(True, kernel_regularizer=L2, activity_regularizer=L2)
    variables = model.init(jax.random.key(0), X)
    y, state = model.apply(variables, X, **ASK)
    found = state["losses"]["ScanStep_0"]["Dense_0"]
    np.testing.assert_allclose(
        found["kernel"].sum(), squares(variables["params"]["ScanStep_0"]["Dense_0"]["kernel"]), 1e-6
    )
    np.testing.assert_allclose(found["activity"][1], squares(y) / 4, rtol=1e-6)


@pytest.mark.parametrize("make", [shared, rnn, mapped])
def test_penalties_of_outputs_that_are_passed_on_are_right(make: Any) -> None:
    model = make(True, activity_regularizer=L2)
    variables = model.init(jax.random.key(0), X)
    _, state = model.apply(variables, X, **ASK)
    (value,) = jax.tree.leaves(state["losses"])
    (expected,) = with_losses(model)(variables, X)[1].values()
    np.testing.assert_allclose(value.sum(), expected, rtol=1e-6)


@pytest.mark.parametrize("lift", [nn.remat, nn.jit, lambda cls: cls])
def test_transforms_that_repeat_nothing_are_right(lift: Any) -> None:
    model = lift(jaxreg.linen.Dense)(3, kernel_regularizer=L2)
    variables = model.init(jax.random.key(0), X)
    _, state = model.apply(variables, X, **ASK)
    np.testing.assert_allclose(state["losses"]["kernel"], squares(variables["params"]["kernel"]), rtol=1e-6)


def test_another_model_inside_that_is_not_asked_is_left_alone() -> None:
    """A teacher that a module applies: the caller asks for the losses of the student."""
    teacher = rnn(False, kernel_regularizer=L2)
    frozen = teacher.init(jax.random.key(0), X)

    class Student(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            return jaxreg.linen.Dense(2, kernel_regularizer=L2)(x) - teacher.apply(frozen, x)

    variables = Student().init(jax.random.key(0), X)
    _, state = Student().apply(variables, X, **ASK)
    assert list(state["losses"]) == ["Dense_0"]


class Branches(nn.Module):
    """A penalized layer in one branch; `before` calls it outside too."""

    options: Any
    before: bool = False

    def setup(self) -> None:
        self.layer = jaxreg.linen.Dense(3, kernel_init=nn.initializers.ones, **dict(self.options))

    def __call__(self, x: Any, flag: Any) -> Any:
        if self.before or self.is_initializing():
            x = self.layer(x)
        return nn.cond(flag, lambda m, x: m.layer(x), lambda m, x: x, self, x)


@pytest.mark.parametrize("field", ["kernel_regularizer", "activity_regularizer"])
def test_a_penalty_that_begins_in_a_branch_is_refused(field: str) -> None:
    model, x = Branches({field: L2}.items()), np.ones((2, 3), np.float32)
    variables = {"params": model.init(jax.random.key(0), x, True)["params"]}
    with pytest.raises(
        ValueError, match=r"of layer/\w+ in the module layer begins in a branch .*`jaxreg.linen.with_loss"
    ):
        model.apply(variables, x, True, **ASK)
    outputs = {True: 0.5 * 6 * 3**2 / 2, False: 0.0}  # six threes, divided by the batch
    for flag, output in outputs.items():
        (value,) = with_losses(model)(variables, x, flag)[1].values()
        assert float(value) == pytest.approx(4.5 if field == "kernel_regularizer" else output)
    begun = Branches({field: L2}.items(), before=True)
    state = begun.apply(variables, x, True, **ASK)[1]["losses"]["layer"]
    nines = 0.5 * 6 * 9**2 / 2
    assert jax.tree.map(float, list(state.values())) == [
        4.5 if field == "kernel_regularizer" else outputs[True] + nines
    ]
