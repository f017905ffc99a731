"""Image-text encoders and the embeddings that they give to whole sources."""
