"""Edits of models, which of them is active, and the audit log with its guards."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_GUARDED = "audit_log"


def upgrade() -> None:
    """Do it."""
    op.create_table(
        "edits",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("parent", sa.Integer(), sa.ForeignKey("edits.id"), nullable=True),
        sa.Column("operations", sa.JSON(), nullable=False),
        sa.Column("author", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("evaluation", sa.JSON(), nullable=True),
    )
    op.create_index("edits_of_model", "edits", ["model", "fingerprint"])
    op.create_index(
        "one_active_edit",
        "edits",
        ["model", "fingerprint"],
        unique=True,
        sqlite_where=sa.text("status = 'active'"),
        postgresql_where=sa.text("status = 'active'"),
    )
    op.create_table(
        "edit_heads",
        sa.Column("model", sa.String(200), primary_key=True),
        sa.Column("fingerprint", sa.String(64), primary_key=True),
        sa.Column("active", sa.Integer(), sa.ForeignKey("edits.id"), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
    )
    _audit()


def _audit() -> None:
    op.create_table(
        "audit_log",
        sa.Column("n", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("time", sa.String(40), nullable=False),
        sa.Column("author", sa.String(200), nullable=False),
        sa.Column("action", sa.String(100), nullable=False),
        sa.Column("subject", sa.String(500), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("previous", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )
    end = op.create_table(
        "audit_end",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("entries", sa.Integer(), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )
    op.bulk_insert(end, [{"id": 1, "entries": 0, "hash": "0" * 64}])
    guards = _SQLITE if op.get_bind().dialect.name == "sqlite" else _POSTGRES
    for statement in guards:
        op.execute(statement)


_SQLITE = [
    f"""CREATE TRIGGER audit_no_{verb.lower()} BEFORE {verb} ON {_GUARDED}
    BEGIN SELECT RAISE(ABORT, 'the audit log can only grow'); END"""
    for verb in ("UPDATE", "DELETE")
]
_POSTGRES = [
    """CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'the audit log can only grow'; END $$""",
    f"""CREATE TRIGGER audit_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {_GUARDED}
    FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse()""",
]


def downgrade() -> None:
    """Undo it."""
    if op.get_bind().dialect.name != "sqlite":
        op.execute(f"DROP TRIGGER audit_no_change ON {_GUARDED}")
        op.execute("DROP FUNCTION audit_refuse()")
    for table in ("audit_end", "audit_log", "edit_heads", "edits"):
        op.drop_table(table)
