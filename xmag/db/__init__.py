"""Postgres: tables, the job state machine, releases and results. The only room that knows SQLAlchemy."""
