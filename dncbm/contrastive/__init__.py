"""Make an image-text encoder for one's own domain: losses for `dncbm.training.loop`."""
