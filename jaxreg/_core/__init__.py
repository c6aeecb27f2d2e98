"""What a regularizer is; needs JAX and NumPy only."""
