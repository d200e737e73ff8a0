"""The rewrite rules, one family per module."""
