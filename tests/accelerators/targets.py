"""The devices that programs are compiled for: one and 1 024 TPUs, one and eight GPUs."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# What NVIDIA says of its H100 SXM; XLA's compiler asks no device for it then.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 84978434048
  cuda_compute_capability { major: 9 minor: 0 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


@dataclasses.dataclass(frozen=True)
class Target:
    """`count` devices of a topology, all on one axis of a mesh."""

    platform: str  # "tpu" or "cuda"
    topology: str
    count: int

    @property
    def mesh(self) -> Mesh:
        return _mesh(self)

    def array(self, shape: tuple[int, ...], divided: int | None = None) -> jax.ShapeDtypeStruct:
        """A float32 array that is not there, whole on every device or with one axis divided over all."""
        spec = PartitionSpec() if divided is None or self.count == 1 else PartitionSpec(*[None] * divided, "d")
        return jax.ShapeDtypeStruct(shape, np.float32, sharding=NamedSharding(self.mesh, spec))


TARGETS = {
    "v5e": Target("tpu", "v5e:2x2", 1),
    "v5p:8x8x16": Target("tpu", "v5p:8x8x16", 1024),
    "H100": Target("cuda", "1x1x1", 1),
    "8 H100": Target("cuda", "1x1x8", 8),
}


@functools.cache
def _mesh(target: Target) -> Mesh:
    options: dict[str, Any] = {"topology_name": target.topology}
    if target.platform == "cuda":
        options = {"topology_name": "h100", "target_config": H100, "topology": target.topology}
    devices = topologies.get_topology_desc(platform=target.platform, **options).devices
    return Mesh(np.array(devices).reshape(-1)[: target.count], ("d",))
