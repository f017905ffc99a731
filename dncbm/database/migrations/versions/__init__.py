"""Steps; each names the one before it."""
