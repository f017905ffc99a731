"""Small tables of codes that look like those of a sparse autoencoder."""

import numpy as np
import pytest


def make_codes(n, c=40, k=3, seed=0, active=8):
    """Sparse non-negative codes (n, c) whose class decides which concepts fire."""
    world = np.random.default_rng(99)
    chances = world.dirichlet(np.full(c, 0.3), size=k) * 0.7 + 0.3 / c
    sizes = world.uniform(0.2, 5.0, size=c)
    draw = np.random.default_rng(seed)
    labels = np.arange(n) % k
    codes = np.zeros((n, c))
    for row, label in enumerate(labels):
        fire = draw.choice(c, size=active, replace=False, p=chances[label])
        codes[row, fire] = draw.gamma(2.0, 0.5, size=active) * sizes[fire]
    return codes.astype(np.float32), labels


@pytest.fixture(scope="session")
def world():
    """Train, validation and test splits by name: codes and labels."""
    parts = {"train": (240, 1), "validation": (60, 2), "test": (90, 3)}
    made = {name: make_codes(n, seed=seed) for name, (n, seed) in parts.items()}
    codes = {name: pair[0] for name, pair in made.items()}
    labels = {name: pair[1] for name, pair in made.items()}
    return codes, labels, ("ant", "bee", "cat")
