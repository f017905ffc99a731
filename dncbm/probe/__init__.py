"""The bottleneck's head: linear probes over codes, dense and with few concepts per class."""
