"""The penalty of what a module returns."""

import functools
import numbers
from collections.abc import Awaitable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from jaxreg import activity
from jaxreg._core import checks, numerics
from jaxreg._core.regularizer import Function, Regularizer, Scaled, Sum
from jaxreg._flax.declared import named, shown
from jaxreg.activity import WholeOutput, _batch


def output_penalty(regularizer: Regularizer, output: Any, batch_axis: int | None, module: str) -> jax.Array:
    """Return Σ over the floating leaves of the output of the leaf's penalty, divided by the length of its batch axis.

    `batch_axis=None` divides by nothing: the module has seen one example. `module` is its path, for messages.
    `WholeOutput` is of the whole output, and what is a mean over the batch already is not divided again.
    """
    everything = jax.tree.leaves(output, is_leaf=_makes_arrays_later)
    leaves = [leaf for leaf in everything if hasattr(leaf, "dtype")]
    floating = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    if not is_whole(regularizer):
        _check_arrays(regularizer, everything, module)
    total = jnp.zeros((), jnp.float32)
    for factor, term in _terms(regularizer):
        if isinstance(term, WholeOutput):
            value: Any = _scalar(term, term.function(output))
        elif _divides_itself(term):
            value = sum((_scalar(term, term.function(leaf)) for leaf in floating), start=0.0)  # type: ignore[attr-defined]
        else:
            value = sum((_of_leaf(term, leaf, batch_axis, module) for leaf in floating), start=0.0)
        total = total + (value if factor is None else numerics.multiple(factor, jnp.asarray(value)))
    return total


def _makes_arrays_later(value: Any) -> bool:
    return isinstance(value, (Iterator, Awaitable))


def _check_arrays(regularizer: Regularizer, leaves: list[Any], module: str) -> None:
    """Raise if the output hides its arrays: a generator, which makes them later, or an object that is no pytree."""
    others = [leaf for leaf in leaves if not hasattr(leaf, "dtype")]
    hidden = [leaf for leaf in others if _makes_arrays_later(leaf)]
    if len(others) == len(leaves):
        hidden += [leaf for leaf in others if not isinstance(leaf, (numbers.Number, str, bytes))]
    if hidden:
        raise TypeError(
            f"`with_losses`: the activity penalty {shown(regularizer)} of the module {named(module)} is of the arrays "
            f"that it returns, and there are none to be seen in its output, a `{type(hidden[0]).__name__}`. Return the "
            "arrays themselves, in a list, a dict or another pytree."
        )


def check_batch_axis(value: Any) -> int | None:
    """Return what `with_losses` was given as `batch_axis`."""
    if value is not None and (isinstance(value, bool) or not hasattr(value, "__index__")):
        raise TypeError(
            f"`with_losses(batch_axis=...)` must be the number of an axis, or None where the modules see one example, "
            f"got {checks.short(value)}."
        )
    return None if value is None else value.__index__()


def counts_padding(regularizer: Regularizer, module: str, rnn: Any) -> ValueError:
    """The error for a penalty of outputs of a recurrent network that is given `seq_lengths`: it runs on the padding."""
    return ValueError(
        f"The activity penalty {shown(regularizer)} of the module {named(module)} would count padding, "
        f"for `{type(rnn).__name__}` runs to the end of the array, whatever its `seq_lengths`. Take the penalty off "
        "the module, and add to the loss `jaxreg.activity.penalty(reg, y, mask=jnp.arange(y.shape[1]) < "
        "seq_lengths[:, None])`, with the outputs y of shape (batch, time, features)."
    )


def is_whole(regularizer: Regularizer) -> bool:
    """Whether it is given the output whole, and can mask as it likes."""
    return all(isinstance(term, WholeOutput) for _, term in _terms(regularizer))


def _terms(regularizer: Regularizer, factor: Any = None) -> Iterator[tuple[Any, Regularizer]]:
    """The terms of a sum with their factors; a sum of penalties that are all divided alike stays whole."""
    if isinstance(regularizer, Sum) and any(map(_is_special, regularizer.terms)):
        for term in regularizer.terms:
            yield from _terms(term, factor)
    elif isinstance(regularizer, Scaled) and _is_special(regularizer.penalty):
        yield from _terms(regularizer.penalty, regularizer.factor if factor is None else factor * regularizer.factor)
    else:
        yield factor, regularizer


def _is_special(regularizer: Regularizer) -> bool:
    if isinstance(regularizer, Sum):
        return any(map(_is_special, regularizer.terms))
    if isinstance(regularizer, Scaled):
        return _is_special(regularizer.penalty)
    return isinstance(regularizer, (WholeOutput, Function)) or type(regularizer).__module__ != "jaxreg"


def _divides_itself(term: Regularizer) -> bool:
    """Whether it is a function of `jaxreg.activity`, or `functools.partial` of one."""
    function = getattr(term, "function", None)
    while isinstance(function, functools.partial):
        function = function.func
    return isinstance(term, Function) and _batch.is_of_batch(function)


def _of_leaf(term: Regularizer, leaf: Any, batch_axis: int | None, module: str) -> jax.Array:
    _check_not_divided_twice(term, leaf, module)
    if batch_axis is None:
        return term(leaf) if leaf.size else jnp.zeros((), jnp.float32)
    if leaf.ndim and not -leaf.ndim <= batch_axis < leaf.ndim:
        raise ValueError(
            f"`with_losses(batch_axis={batch_axis})`: the module {named(module)} returns an array of shape "
            f"{leaf.shape}, which has no axis {batch_axis} to divide its activity penalty by. Name an axis that every "
            "penalized output has, or give `batch_axis=None` and divide by the batch yourself."
        )
    return activity.penalty(term, leaf, batch_axis=batch_axis)


def _check_not_divided_twice(term: Regularizer, leaf: Any, module: str) -> None:
    """Raise if code of the user's calls a function of `jaxreg.activity`, whose result is divided by the batch."""
    if isinstance(term, Function):
        function: Any = term.function
    elif type(term).__module__ != "jaxreg":
        function = functools.partial(getattr(type(term).__call__, "__wrapped__", type(term).__call__), term)
    else:
        return
    if not leaf.size:
        return

    def refuse(name: str) -> ValueError:
        return ValueError(
            f"`activity_regularizer={shown(term)}` of the module {named(module)} calls `activity.{name}`, which is "
            "divided by the batch already, and would be divided once more. Give what is to be taken as it is as "
            "`jaxreg.activity.WholeOutput(function)`, a term of its own in a sum."
        )

    with _batch.refusing(refuse):
        jax.eval_shape(lambda x: function(x), numerics.promote(leaf))


def _scalar(term: Any, value: Any) -> jax.Array:
    if jnp.shape(value) != () or jnp.iscomplexobj(value):
        got = f"shape {jnp.shape(value)}" if jnp.shape(value) else f"dtype {jnp.result_type(value)}"
        raise ValueError(f"`{shown(term)}` as `activity_regularizer` must return a real scalar, got {got}.")
    return numerics.promote(jnp.asarray(value))
