"""Train a sharded network on any number of processes, with a group lasso, and resume from the last checkpoint.

On a cluster (SLURM, TPU pods, Open MPI) every process runs the same line, and JAX finds the others by itself:

    srun python -m tests.cluster --checkpoints /shared/run

By hand, one line a process, with the address of the first:

    python -m tests.cluster --checkpoints /shared/run --coordinator 10.0.0.1:1234 --processes 2 --process 0
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxreg

FEATURES, HIDDEN, BATCH, LEARNING_RATE = 16, 32, 64, 0.01
RULES = jaxreg.TreeRegularizer(
    {"input": jaxreg.Group(jaxreg.L1(1.0), axis=1), "output": jaxreg.L1(0.1), "bias": None}  # a group an input feature
)
SPECS = {"input": P("data", None), "output": P("data", None), "bias": P()}  # a part of every matrix on every device


def batch(step: int) -> tuple[np.ndarray, np.ndarray]:
    """Half of the features say nothing about the target."""
    rng = np.random.default_rng(step)
    x = rng.normal(size=(BATCH, FEATURES)).astype(np.float32)
    return x, np.sin(x[:, : FEATURES // 2]).sum(1, keepdims=True)


def initial_params() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"input": (FEATURES, HIDDEN), "output": (HIDDEN, 1), "bias": (HIDDEN,)}
    return {name: rng.normal(scale=0.3, size=shape).astype(np.float32) for name, shape in shapes.items()}


def loss(params: dict[str, jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.mean((jnp.tanh(x @ params["input"] + params["bias"]) @ params["output"] - y) ** 2)


def train(checkpoints: str, steps: int, save_every: int) -> dict[str, jax.Array]:
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    shardings = {name: NamedSharding(mesh, spec) for name, spec in SPECS.items()}

    def place(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    tx = jaxreg.proximal_adam(LEARNING_RATE, RULES)

    @jax.jit
    def train_step(state, x, y):
        params, inner = state
        value, gradients = jax.value_and_grad(loss)(params, x, y)
        updates, inner = tx.update(gradients, inner, params)
        return (optax.apply_updates(params, updates), inner), value

    params = jax.tree.map(place, initial_params(), shardings)
    options = ocp.CheckpointManagerOptions(save_interval_steps=save_every, max_to_keep=2)
    with jax.set_mesh(mesh), ocp.CheckpointManager(checkpoints, options=options) as manager:
        state = (params, tx.init(params))  # not under `jit`, which on Auto axes would put all moments on all devices
        first = manager.latest_step() or 0
        if first:
            state = manager.restore(first, args=ocp.args.StandardRestore(state))
        print(f"process {jax.process_index()} of {jax.process_count()}: from step {first}", flush=True)
        for step in range(first, steps):
            x, y = (place(array, NamedSharding(mesh, P("data"))) for array in batch(step))
            state, value = train_step(state, x, y)
            manager.save(step + 1, args=ocp.args.StandardSave(state), force=step + 1 == steps)
            print(f"step {step + 1}: loss {value:.4f}", flush=True)
    return state[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", required=True, help="a folder that all processes see")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--save-every", type=int, default=10)
    parser.add_argument("--coordinator", help="host:port of the first process; default: found by JAX")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--process", type=int)
    args = parser.parse_args()
    if args.processes != 1:
        jax.distributed.initialize(args.coordinator, args.processes, args.process)
    params = train(args.checkpoints, args.steps, args.save_every)
    silent = int((jnp.linalg.norm(params["input"], axis=1) == 0).sum())
    print(f"process {jax.process_index()}: {silent} of {FEATURES} features are exactly zero", flush=True)


if __name__ == "__main__":
    main()
