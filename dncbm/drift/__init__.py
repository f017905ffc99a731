"""Concepts of live traffic against those of the training data."""
