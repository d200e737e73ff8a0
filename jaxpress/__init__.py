"""Capture, rewrite and render JAX functions as graphs."""
