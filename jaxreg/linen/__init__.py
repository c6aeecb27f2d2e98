"""Regularizers on Flax Linen modules: a mixin, the ready layers, and the losses of one call."""

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
