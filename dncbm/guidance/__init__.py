"""Training that is told where to look: losses on attributions beside the classification."""
