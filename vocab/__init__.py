"""Word lists that ship with dncbm; README.md states source, licence, count and SHA-256."""
