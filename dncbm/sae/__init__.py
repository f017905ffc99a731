"""Sparse autoencoders over embeddings: models, losses, training, metrics and storage."""
