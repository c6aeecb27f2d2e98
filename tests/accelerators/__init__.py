"""What jaxreg costs on TPUs and GPUs that are not there: their compilers say; nothing is run. README.md says more."""

import os

# Before anything imports JAX. Without them libtpu asks the network which TPU this is, and one process keeps out others.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
