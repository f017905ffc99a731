"""Make an image-text encoder for one's own domain: contrastive losses and a small training loop."""
