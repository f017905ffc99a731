"""How long steps report what they have done, without knowing who listens."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called as `progress(stage, done, total)`; rate and ETA are the listener's affair."""


def no_progress(stage: str, done: int, total: int) -> None:
    """The listener that does nothing."""
