"""The registry: artifacts, models, aliases."""

import sqlalchemy as sa
from alembic import op

from dncbm.database.engine import Time

revision = "0002"
down_revision = "0001"

_SHA = sa.String(64)


def upgrade() -> None:
    """Do it."""
    _artifacts()
    _models()
    for table, column in _INDEXES:
        op.create_index(f"ix_{table}_{column}", table, [column])


def _artifacts() -> None:
    op.create_table(
        "artifacts",
        sa.Column("fingerprint", _SHA, primary_key=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("created", Time()),
        sa.Column("dncbm_version", sa.String(64), nullable=False),
        sa.Column("seed", sa.BigInteger()),
        sa.Column("encoder", sa.Text()),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("registered", Time(), nullable=False),
    )
    op.create_table(
        "artifact_inputs",
        sa.Column("artifact", _SHA, sa.ForeignKey("artifacts.fingerprint"), primary_key=True),
        sa.Column("role", sa.String(64), primary_key=True),
        sa.Column("fingerprint", _SHA, nullable=False),
    )
    op.create_table(
        "artifact_places",
        sa.Column("path", sa.Text(), primary_key=True),
        sa.Column("fingerprint", _SHA, sa.ForeignKey("artifacts.fingerprint"), nullable=False),
    )


def _models() -> None:
    op.create_table(
        "models",
        sa.Column("id", sa.String(255), primary_key=True),
        sa.Column("path", sa.Text(), nullable=False, unique=True),
        sa.Column("cbm", _SHA, sa.ForeignKey("artifacts.fingerprint"), nullable=False),
        sa.Column("created", Time()),
        sa.Column("registered", Time(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
    )
    op.create_table(
        "aliases",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("model", sa.String(255), sa.ForeignKey("models.id"), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("time", Time(), nullable=False),
    )
    op.create_table(
        "alias_changes",
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("model", sa.String(255)),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("time", Time(), nullable=False),
    )


_INDEXES = (
    ("artifacts", "kind"),
    ("artifact_inputs", "fingerprint"),
    ("artifact_places", "fingerprint"),
    ("models", "cbm"),
    ("aliases", "model"),
    ("alias_changes", "name"),
)


def downgrade() -> None:
    """Undo it."""
    for table in ("alias_changes", "aliases", "models"):
        op.drop_table(table)
    for table in ("artifact_places", "artifact_inputs", "artifacts"):
        op.drop_table(table)
