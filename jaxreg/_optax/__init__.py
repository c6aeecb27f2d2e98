"""Links of an optax chain."""
