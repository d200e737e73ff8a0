"""Neural network operations as named JAX primitives."""
