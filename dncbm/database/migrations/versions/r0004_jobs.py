"""Progress and logs of jobs."""

import sqlalchemy as sa
from alembic import op

from dncbm.database import Time

revision = "0004"
down_revision = "0003"

_BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "job_stage",
        sa.Column("job", sa.String(100), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("started", Time, nullable=False),
        sa.Column("finished", Time),
        sa.Column("done", _BIG),
        sa.Column("total", _BIG),
        sa.Column("rate", sa.Float),
    )
    op.create_table(
        "job_log",
        sa.Column("id", _BIG, primary_key=True),
        sa.Column("job", sa.String(100), nullable=False),
        sa.Column("time", Time, nullable=False),
        sa.Column("level", sa.String(20), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
    )
    op.create_index("ix_job_log_job_id", "job_log", ["job", "id"])


def downgrade() -> None:
    """Remove them."""
    op.drop_table("job_log")
    op.drop_table("job_stage")
