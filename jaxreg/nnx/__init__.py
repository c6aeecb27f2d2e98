"""Regularizers on Flax NNX modules: a mixin, ready layers (`_layers`, `_recurrent`), and the penalties of one call.

What happens in one call of `with_losses(model)(x)`:

1. `_declarations` walks over the model once: its modules, its parameters, which regularizers the modules were given
   (the mixin in `_regularized` stores them; on other modules they are plain attributes), and the shape that each
   parameter has in one layer. What the layers of Flax do not say themselves stands in `_flax_layers`.
2. `_weights` finds the regularizer of each parameter, `Stacked` where `nnx.vmap` has made a stack of layers. The weight
   penalties are computed in one compiled program, before the model runs.
3. `_twins` gives the call modules of its own, which no other thread sees, with the Variables of the model. `_recording`
   gives a total, an `ActivityLoss` that starts at 0, to each of them whose output is penalized.
4. While the model runs, `_observe` looks at each `__call__`, and `_outputs` adds the penalty of the output to the
   total of the module. `_collect` sums over the calls that an `nnx.vmap` inside the model runs at once.
5. `_recording` raises if a transform has dropped a total, and reads the totals. What the call changed on its modules
   (not on Variables, which are shared) is done to the model.
6. `_with_losses` returns `(y, losses)`.

Of Linen modules inside a `nnx.bridge.ToNNX`, `_to_nnx` tells what they declared when they ran; `_to_linen` tells
`jaxreg.linen` of NNX modules inside a `ToLinen`.
"""

try:
    import flax as _flax  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"`import jaxreg.nnx` needs Flax: `pip install 'jaxreg[flax]'`. Importing flax failed: {error}"
    ) from error

from jaxreg._flax import serialization as serialization  # Flax's serialization learns of our classes
from jaxreg.nnx import _to_linen as _to_linen  # Linen learns of NNX modules in its models
from jaxreg.nnx._layers import BatchNorm as BatchNorm
from jaxreg.nnx._layers import Conv as Conv
from jaxreg.nnx._layers import ConvTranspose as ConvTranspose
from jaxreg.nnx._layers import Einsum as Einsum
from jaxreg.nnx._layers import Embed as Embed
from jaxreg.nnx._layers import GroupNorm as GroupNorm
from jaxreg.nnx._layers import InstanceNorm as InstanceNorm
from jaxreg.nnx._layers import LayerNorm as LayerNorm
from jaxreg.nnx._layers import Linear as Linear
from jaxreg.nnx._layers import LinearGeneral as LinearGeneral
from jaxreg.nnx._layers import LoRA as LoRA
from jaxreg.nnx._layers import LoRALinear as LoRALinear
from jaxreg.nnx._layers import MultiHeadAttention as MultiHeadAttention
from jaxreg.nnx._layers import PReLU as PReLU
from jaxreg.nnx._layers import RMSNorm as RMSNorm
from jaxreg.nnx._outputs import ActivityLoss as ActivityLoss
from jaxreg.nnx._recurrent import GRUCell as GRUCell
from jaxreg.nnx._recurrent import LSTMCell as LSTMCell
from jaxreg.nnx._recurrent import OptimizedLSTMCell as OptimizedLSTMCell
from jaxreg.nnx._recurrent import SimpleCell as SimpleCell
from jaxreg.nnx._regularized import Regularized as Regularized
from jaxreg.nnx._with_losses import regularizer as regularizer
from jaxreg.nnx._with_losses import with_losses as with_losses
