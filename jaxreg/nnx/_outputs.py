"""ActivityLoss: the Variable that adds up the penalties of a module's outputs during one call of the model."""

import threading
from typing import Any, NoReturn, Protocol

import flax.errors
import jax
import jax.numpy as jnp
from flax import nnx

from jaxreg._flax.outputs import output_penalty
from jaxreg.nnx import _weights
from jaxreg.nnx._collect import collect

ATTRIBUTE = "_activity_loss"
_NODES = "_pytree__nodes"  # where NNX notes which attributes are data


class ActivityLoss(nnx.Variable[jax.Array]):
    """The penalty of a module's outputs, while `with_losses` runs: name it in `nnx.StateAxes` if need be.

    The Variable is there only during the call. It holds one number, or one a layer of a stack of layers.

    Example:
        >>> from flax import nnx
        >>> import jaxreg.nnx
        >>> nnx.StateAxes({jaxreg.nnx.ActivityLoss: nnx.Carry, ...: None}).axes[1] is None
        True
    """


class _Run(Protocol):
    def note(self, loss: Any) -> None: ...


class _Local(threading.local):
    def __init__(self) -> None:
        self.runs: list[_Run] = []  # the calls of `with_losses` in this thread, the innermost last


local = _Local()


def attach(module: nnx.Module, loss: ActivityLoss) -> None:
    # Not by setattr, which NNX refuses for a model that an inner trace closes over.
    object.__setattr__(module, ATTRIBUTE, loss)
    if hasattr(module, _NODES):
        object.__setattr__(module, _NODES, getattr(module, _NODES).update({ATTRIBUTE: True}))


def add(module: nnx.Module, output: Any) -> None:
    loss = vars(module)[ATTRIBUTE]
    if local.runs:
        local.runs[-1].note(loss)
    if isinstance(module, nnx.RNNCellBase):
        _, output = output  # the carry is the state, and often the output once more
    both = (_weights.regularizers(module).get(_weights.ACTIVITY), loss.get_metadata("rule"))
    value = sum(output_penalty(regularizer, output) for regularizer in both if regularizer is not None)
    before = loss.get_raw_value()
    value = jnp.asarray(value, before.dtype)
    value = collect(value, before.ravel()[0])
    try:
        # A stack that a transform did not take apart: its sum is what counts.
        loss.set_value(before + value if before.ndim == 0 else before.ravel().at[0].add(value).reshape(before.shape))
    except flax.errors.TraceContextError:
        raise_lost(loss.get_metadata("path"))


def raise_lost(path: str) -> NoReturn:
    raise ValueError(
        f"`with_losses`: the activity penalty of the module {path or '(root)'} would be lost, because a transform "
        "around it does not hand changes of the module back. Give the module to an NNX transform as an argument "
        "(`nnx.jit(lambda m, x: m(x))(self.layer, x)`, not `jax.jit`, nor a closure); in `nnx.scan` do not broadcast "
        "it whole: `in_axes=(nnx.StateAxes({jaxreg.nnx.ActivityLoss: nnx.Carry, ...: None}), ...)`."
    )
