"""The gateway: REST in front of Postgres. Never imports torch."""
