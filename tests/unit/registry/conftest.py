from tests.postgres import database, postgres_server, postgres_url

__all__ = ["database", "postgres_server", "postgres_url"]
