"""Kernels: the ways to compute a named op."""
