"""Metadata in a database: SQLite by default, Postgres where one is configured."""

from dncbm.database.engine import Base, Database, Time, now

__all__ = ["Base", "Database", "Time", "now"]
