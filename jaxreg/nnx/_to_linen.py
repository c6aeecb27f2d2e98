"""NNX modules in a Linen model, by `nnx.bridge.ToLinen`: `jaxreg.linen` asks here for what they declare."""

from typing import Any

import flax.linen as nn
from flax import nnx

from jaxreg._core.regularizer import Regularizer
from jaxreg._flax.declared import ACTIVITY
from jaxreg.linen import _bridge
from jaxreg.nnx._declarations import Declarations
from jaxreg.nnx._weights import penalized


def _declared(module: nn.Module) -> tuple[dict[str, Regularizer], dict[str, Regularizer]]:
    """The regularizers inside a `ToLinen`: of parameters, and of outputs, by path."""
    bridge: Any = module

    def make() -> Any:
        rngs = {} if bridge.skip_rng else {"rngs": nnx.Rngs(0)}
        return bridge.nnx_class(*bridge.args, **bridge.kwargs, **rngs)

    declarations = Declarations(nnx.eval_shape(make))
    weights = {path: one.regularizer for path, one in penalized(declarations).items()}
    return weights, {path: found[ACTIVITY] for path, _, found in declarations.modules if ACTIVITY in found}


_bridge.read_by(_declared)
