"""Regularizers on Flax NNX modules: a mixin, the ready layers, and the losses of one call."""

from jaxreg._flax import serialization as serialization  # Flax's serialization learns of our classes
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
