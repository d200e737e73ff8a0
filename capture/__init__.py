"""A function becomes a Graph, a Graph becomes a function."""
