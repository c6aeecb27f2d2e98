"""ActivityLoss: the Variable that adds up the penalties of a module's outputs during one call of the model."""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn, Protocol

import flax.errors
import jax
import jax.numpy as jnp
from flax import nnx

from jaxreg._flax.declared import ACTIVITY, named, public_address
from jaxreg._flax.outputs import counts_padding, is_whole, output_penalty
from jaxreg.linen._declarations import called_by_nnx
from jaxreg.nnx._collect import collect
from jaxreg.nnx._declarations import regularizer_of
from jaxreg.nnx._twins import NODES

ATTRIBUTE = "_activity_loss"
PADDED = (nnx.RNN, nnx.Bidirectional)


@nnx.register_variable_name("jaxreg_activity_loss")  # as `ToNNX` hands it to Linen
@public_address
class ActivityLoss(nnx.Variable[jax.Array]):
    """The total of the penalties of a module's outputs, while `with_losses` runs.

    The Variable is there only during the call. It holds one number, or one for each layer of a stack of layers. Where
    `nnx.StateAxes` lists the Variables of a module one by one, list it too.

    Example:
        >>> from flax import nnx
        >>> import jaxreg.nnx
        >>> nnx.StateAxes({jaxreg.nnx.ActivityLoss: nnx.Carry, ...: None}).axes[1] is None
        True
    """


class _Recording(Protocol):
    def twin_of(self, module: Any) -> Any: ...
    def before_running(self, module: nnx.Module) -> None: ...
    def before_adding(self, loss: Any) -> None: ...


class _Local(threading.local):
    def __init__(self) -> None:
        self.recordings: list[_Recording] = []  # of the calls of `with_losses` in this thread, the innermost last
        self.padded: nnx.Module | None = None  # the RNN that runs with `seq_lengths`


local = _Local()


@contextlib.contextmanager
def noted(module: nnx.Module, arguments: Mapping[str, Any]) -> Iterator[None]:
    """Note what penalties of outputs inside need to know: that an RNN runs on padding, that Linen is called by NNX."""
    linen_inside = bool(local.recordings) and isinstance(module, nnx.bridge.ToNNX)
    outer = local.padded
    if isinstance(module, PADDED) and arguments.get("seq_lengths") is not None:
        local.padded = module
    try:
        with called_by_nnx() if linen_inside else contextlib.nullcontext():
            yield
    finally:
        local.padded = outer


def attach(module: nnx.Module, loss: ActivityLoss) -> None:
    # Not by setattr, which NNX refuses for a model that an inner trace closes over.
    object.__setattr__(module, ATTRIBUTE, loss)
    if hasattr(module, NODES):
        object.__setattr__(module, NODES, getattr(module, NODES).update({ATTRIBUTE: True}))


def add(module: nnx.Module, output: Any) -> None:
    """Add the penalty of an output to the total of the module."""
    loss = vars(module)[ATTRIBUTE]
    if local.recordings:
        local.recordings[-1].before_adding(loss)
    if isinstance(module, nnx.RNNCellBase):
        _, output = output  # the carry is the state, and often the output once more
    batch_axis, path = loss.get_metadata("batch_axis"), loss.get_metadata("path")
    regularizers = (regularizer_of(module, ACTIVITY), loss.get_metadata("rule"))
    for one in regularizers:
        if one is not None and local.padded is not None and not (local.padded is module and is_whole(one)):
            raise counts_padding(one, path, local.padded)
    penalty = sum(output_penalty(one, output, batch_axis, path) for one in regularizers if one is not None)
    total = loss.get_raw_value()
    penalty = collect(jnp.asarray(penalty, total.dtype), total.ravel()[0])
    try:
        # Of a stack that no transform took apart only the sum counts: add to its first entry.
        loss.set_value(total + penalty if total.ndim == 0 else total.ravel().at[0].add(penalty).reshape(total.shape))
    except flax.errors.TraceContextError:
        raise_lost(path)


def raise_lost(path: str) -> NoReturn:
    raise ValueError(
        f"`with_losses`: the activity penalty of the module {named(path)} would be lost, because a transform "
        "around it does not hand changes of the module back. Give the module to an NNX transform as an argument "
        "(`nnx.jit(lambda m, x: m(x))(self.layer, x)`, not `jax.jit`, nor a closure); in `nnx.scan` do not broadcast "
        "it whole: `in_axes=(nnx.StateAxes({jaxreg.nnx.ActivityLoss: nnx.Carry, ...: None}), ...)`."
    )
