"""The record of artifacts, models and aliases, with their lineage."""
