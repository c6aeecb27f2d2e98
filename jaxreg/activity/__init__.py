"""Penalties of activations and outputs: plain functions of arrays, to be weighted and added to a loss.

    loss = task_loss + 1e-4 * activity.z_loss(logits, mask) + 0.1 * activity.penalty(jaxreg.L1(0.01), h, mask)

What holds for all of them:

No coefficient. Each function is the formula of its docstring; the strength is a factor in the loss, and may be traced.

In Flax modules. As `activity_regularizer=`, or in a rule of `with_losses(activity=...)`, each is taken as it is and not
divided by the batch once more: `0.1 * jaxreg.Function(functools.partial(activity.kl_sparsity, rho=0.1))`. A function of
your own that calls one of them, with a mask say, goes there as `WholeOutput(function)`.

Masks. `mask` is an array of bool, or of 0 and 1, over the leading axes: its first axis is the first of the array, so
(batch, time) is the padding mask of (batch, time, features). An axis of length 1 stands for all of that axis. Entries
that are masked out (0, False) do not count, neither in sums nor in the numbers that sums are divided by: the penalty is
that of the array without them, whatever they hold, nan included, and their gradient is 0. With nothing left it is 0.

Many devices. Inside `jax.shard_map`, `jax.pmap` or `jax.vmap(..., axis_name=...)` an array is one part of the batch.
`axis_name` names the mapped axis (or a tuple of them), and every device returns the penalty of the whole batch, parts
with unequal masks included. Under plain `jax.jit` with sharded arrays there is nothing to name. A gradient taken inside
`shard_map` is that of the penalty; inside `pmap` and `vmap` it is, as for every `psum`, that of the sum over the
devices, so `pmean` the gradients of the parameters, as a data-parallel step does.

Numbers. float16, bfloat16, float8, integers and bool are promoted to float32 before anything else; the penalty is a
float32 scalar (float64 if the array is) and gradients have the dtype of the array. Empty arrays give 0. Gradients are
finite at every finite array. nan in, nan out, unless it is masked.
"""

from jaxreg.activity._covariance import covariance as covariance
from jaxreg.activity._covariance import decorrelation as decorrelation
from jaxreg.activity._covariance import variance as variance
from jaxreg.activity._distribution import entropy as entropy
from jaxreg.activity._distribution import kl_sparsity as kl_sparsity
from jaxreg.activity._distribution import z_loss as z_loss
from jaxreg.activity._size import activation_l2 as activation_l2
from jaxreg.activity._size import penalty as penalty
from jaxreg.activity._size import temporal_l2 as temporal_l2
from jaxreg.activity._sketch import sigreg as sigreg
from jaxreg.activity._whole import WholeOutput as WholeOutput
