"""Nothing yet: what all steps follow."""

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Do it."""


def downgrade() -> None:
    """Undo it."""
