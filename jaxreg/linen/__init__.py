"""Regularizers on Flax Linen modules: a mixin, ready layers (`_layers`, `_recurrent`), and the penalties of one call.

What happens in one call of `with_losses(model)(variables, x)`:

1. `_with_losses` takes the arguments of `model.apply`, and `_trace` calls it with two more mutable collections: one for
   penalties of outputs, and one for notes, which tell what `nn.jit` does not run again.
2. While the model runs, the mixin in `_regularized` looks at each module after its `__call__`. Which of its parameters
   has which regularizer goes to `_declarations`; nothing is computed from parameters yet.
3. `_outputs` adds the penalty of a module's output to the collection `losses`; its interceptor does the same for
   modules that a rule of `activity=` is for.
4. `_trace` reads the notes, and asks `_declarations` for modules that ran in an earlier call and not in this one.
5. `_weights` finds the regularizer of each parameter as it is stored, `Stacked` where a lifted transform has stacked
   layers, and computes all weight penalties in one compiled program.
6. `_with_losses` sums what stands in the collection `losses` by path, and returns `(y, losses)`.

What a plain `model.apply(variables, x, mutable=["losses"])` cannot tell, `_plain` refuses. What NNX modules inside a
`nnx.bridge.ToLinen` declare, `_bridge` asks of `jaxreg.nnx`.
"""

try:
    import flax as _flax  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"`import jaxreg.linen` needs Flax: `pip install 'jaxreg[flax]'`. Importing flax failed: {error}"
    ) from error

from jaxreg._flax import serialization as serialization  # Flax's serialization learns of our classes
from jaxreg.linen._layers import BatchNorm as BatchNorm
from jaxreg.linen._layers import Conv as Conv
from jaxreg.linen._layers import ConvLocal as ConvLocal
from jaxreg.linen._layers import ConvTranspose as ConvTranspose
from jaxreg.linen._layers import Dense as Dense
from jaxreg.linen._layers import DenseGeneral as DenseGeneral
from jaxreg.linen._layers import Einsum as Einsum
from jaxreg.linen._layers import Embed as Embed
from jaxreg.linen._layers import GroupNorm as GroupNorm
from jaxreg.linen._layers import InstanceNorm as InstanceNorm
from jaxreg.linen._layers import LayerNorm as LayerNorm
from jaxreg.linen._layers import MultiHeadAttention as MultiHeadAttention
from jaxreg.linen._layers import MultiHeadDotProductAttention as MultiHeadDotProductAttention
from jaxreg.linen._layers import PReLU as PReLU
from jaxreg.linen._layers import RMSNorm as RMSNorm
from jaxreg.linen._layers import SelfAttention as SelfAttention
from jaxreg.linen._layers import WeightNorm as WeightNorm
from jaxreg.linen._recurrent import ConvLSTMCell as ConvLSTMCell
from jaxreg.linen._recurrent import GRUCell as GRUCell
from jaxreg.linen._recurrent import LSTMCell as LSTMCell
from jaxreg.linen._recurrent import MGUCell as MGUCell
from jaxreg.linen._recurrent import OptimizedLSTMCell as OptimizedLSTMCell
from jaxreg.linen._recurrent import SimpleCell as SimpleCell
from jaxreg.linen._regularized import Regularized as Regularized
from jaxreg.linen._with_losses import regularizer as regularizer
from jaxreg.linen._with_losses import with_losses as with_losses
