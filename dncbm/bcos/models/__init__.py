"""Architectures of B-cos v2 by name, their heads and their weights."""
