"""dncbm: image classifiers whose every decision is a sum of named concepts."""
