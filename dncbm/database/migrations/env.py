"""What Alembic runs: the steps that are missing, on the connection of `Database`."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
