"""Recurrent networks with `seq_lengths` run on the padding too: no penalty of outputs counts it, in Linen and NNX."""

import re
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
from jaxreg.activity import WholeOutput

SQUARES = jaxreg.L2(0.5)
X = np.linspace(-1, 1, 2 * 4 * 3, dtype=np.float32).reshape(2, 4, 3)
LENGTHS = np.array([4, 2])

Call = Callable[..., tuple[Any, dict[str, jax.Array]]]


def linen(activity: Any = (), both: bool = False, **cell: Any) -> Call:
    def rnn(reverse: bool = False) -> Any:
        return nn.RNN(jaxreg.linen.SimpleCell(2, **cell), variable_axes={"losses": 0}, reverse=reverse)

    model = nn.Bidirectional(rnn(), rnn()) if both else rnn()
    variables = model.init(jax.random.key(0), X)
    return lambda **options: jaxreg.linen.with_losses(model, activity)(variables, X, **options)


def of_nnx(activity: Any = (), both: bool = False, **cell: Any) -> Call:
    def rnn() -> Any:
        return nnx.RNN(jaxreg.nnx.SimpleCell(3, 2, rngs=nnx.Rngs(0), **cell))

    model = nnx.Bidirectional(rnn(), rnn()) if both else rnn()
    return lambda **options: jaxreg.nnx.with_losses(model, activity)(X, **options)


def plain_nnx(activity: Any = (), both: bool = False, **cell: Any) -> Call:
    """Attributes of modules that know nothing of jaxreg."""
    model = nnx.RNN(nnx.SimpleCell(3, 2, rngs=nnx.Rngs(0)))
    for name, value in cell.items():
        setattr(model.cell, name, value)
    return lambda **options: nnx.jit(lambda m: jaxreg.nnx.with_losses(m, activity)(X, **options))(model)


ALL = pytest.mark.parametrize("make", [linen, of_nnx, plain_nnx])
BOTH = pytest.mark.parametrize("make", [linen, of_nnx])


@ALL
@pytest.mark.parametrize("where", ["cell", "outputs"])
def test_padding_raises_and_the_way_out_counts_none(make: Any, where: str) -> None:
    call = make(activity_regularizer=SQUARES) if where == "cell" else make([("", SQUARES)])
    module = "cell" if where == "cell" else r"\(root\)"
    with pytest.raises(ValueError, match=rf"penalty L2\(l2=0.5\) of the module {module} would count padding") as error:
        call(seq_lengths=LENGTHS)
    y, losses = make()(seq_lengths=LENGTHS)
    assert losses == {}
    expression = re.search(r"to the loss `(.*?)`", str(error.value))
    assert expression is not None
    known = {"jaxreg": jaxreg, "jnp": jnp, "reg": SQUARES, "y": y, "seq_lengths": LENGTHS}
    kept = [np.asarray(row, np.float64)[:n] for row, n in zip(y, LENGTHS, strict=True)]
    np.testing.assert_allclose(eval(expression[1], known), 0.5 * sum((row**2).sum() for row in kept) / 2, rtol=1e-6)
    _, losses = call()  # without lengths all steps count
    np.testing.assert_allclose(sum(losses.values()), 0.5 * np.square(np.asarray(y, np.float64)).sum() / 2, rtol=1e-6)


class Net(nn.Module):
    """A layer inside a cell, in an RNN that is inside of a model."""

    both: bool = False

    @nn.compact
    def __call__(self, x: Any, **options: Any) -> Any:
        def rnn() -> Any:
            return nn.RNN(jaxreg.linen.GRUCell(2, activity_regularizer=SQUARES), variable_axes={"losses": 0})

        return (nn.Bidirectional(rnn(), rnn()) if self.both else rnn())(x, **options)


@pytest.mark.parametrize("both", [False, True], ids=["one direction", "both"])
def test_plain_apply_of_linen_sees_the_lengths_too(both: bool) -> None:
    model = Net(both)
    variables = model.init(jax.random.key(0), X)
    apply = jax.jit(lambda **options: model.apply(variables, X, mutable=["losses"], **options))
    with pytest.raises(ValueError, match=r"penalty L2\(l2=0.5\) of the module \w+/?\w+ would count padding"):
        apply(seq_lengths=LENGTHS)
    y, state = apply()
    total = sum(leaf.sum() for leaf in jax.tree.leaves(state))
    np.testing.assert_allclose(total, 0.5 * np.square(np.asarray(y, np.float64)).sum() / 2, rtol=1e-6)
    assert model.apply(variables, X, seq_lengths=LENGTHS).shape == y.shape  # asks for none, and may


def test_plain_apply_of_an_rnn_that_penalizes_its_own_output() -> None:
    class Penalized(jaxreg.linen.Regularized, nn.RNN):
        pass

    def of_valid_steps(y: Any) -> Any:
        return jaxreg.activity.penalty(SQUARES, y, mask=jnp.arange(y.shape[1]) < LENGTHS[:, None])

    for regularizer in (SQUARES, WholeOutput(of_valid_steps)):
        model = Penalized(jaxreg.linen.SimpleCell(2), activity_regularizer=regularizer)
        variables = model.init(jax.random.key(0), X)
        if regularizer is SQUARES:
            with pytest.raises(ValueError, match="would count padding"):
                model.apply(variables, X, seq_lengths=LENGTHS, mutable=["losses"])
    y, state = model.apply(variables, X, seq_lengths=LENGTHS, mutable=["losses"])
    kept = [np.asarray(row, np.float64)[:n] for row, n in zip(y, LENGTHS, strict=True)]
    np.testing.assert_allclose(state["losses"]["activity"], 0.5 * sum((row**2).sum() for row in kept) / 2, rtol=1e-6)


@BOTH
def test_both_directions(make: Any) -> None:
    for call in (make([("", SQUARES)], both=True), make(both=True, activity_regularizer=SQUARES)):
        with pytest.raises(ValueError, match="would count padding"):
            call(seq_lengths=LENGTHS)


@BOTH
def test_the_whole_output_masks_as_it_likes(make: Any) -> None:
    def of_valid_steps(y: Any) -> Any:
        return jaxreg.activity.penalty(SQUARES, y, mask=jnp.arange(y.shape[1]) < LENGTHS[:, None])

    call = make([("", 2 * WholeOutput(of_valid_steps))])
    y, losses = call(seq_lengths=LENGTHS)
    expected = sum(np.square(np.asarray(row, np.float64)[:n]).sum() for row, n in zip(y, LENGTHS, strict=True)) / 2
    np.testing.assert_allclose(losses["activity"], expected, rtol=1e-6)
    with pytest.raises(ValueError, match="would count padding"):  # a cell sees no lengths
        make(activity_regularizer=WholeOutput(of_valid_steps))(seq_lengths=LENGTHS)


@BOTH
def test_weights_are_penalized_all_the_same(make: Any) -> None:
    _, losses = make(recurrent_regularizer=SQUARES)(seq_lengths=LENGTHS)
    _, expected = make(recurrent_regularizer=SQUARES)()
    assert losses.keys() == expected.keys() and len(losses) == 1
