"""Edits of concept bottlenecks: proposed, measured, activated, reverted, and never lost."""
