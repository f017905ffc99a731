"""Architectures of B-cos v2, by name."""
