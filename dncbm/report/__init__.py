"""One self-contained HTML report of a finished model."""
