"""Live statistics of concept codes."""

import sqlalchemy as sa
from alembic import op

from dncbm.database.engine import Time

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Do it."""
    op.create_table(
        "drift_statistics",
        sa.Column("fingerprint", sa.String(100), primary_key=True),
        sa.Column("concepts", sa.Integer(), nullable=False),
        sa.Column("bins", sa.Integer(), nullable=False),
        sa.Column("images", sa.BigInteger(), nullable=False),
        sa.Column("active", sa.LargeBinary(), nullable=False),
        sa.Column("total", sa.LargeBinary(), nullable=False),
        sa.Column("squares", sa.LargeBinary(), nullable=False),
        sa.Column("histogram", sa.LargeBinary(), nullable=False),
        sa.Column("since", Time(), nullable=False),
        sa.Column("updated", Time(), nullable=False),
    )


def downgrade() -> None:
    """Undo it."""
    op.drop_table("drift_statistics")
