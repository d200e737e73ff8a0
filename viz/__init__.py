"""A Graph becomes a picture, a table or JSON."""
