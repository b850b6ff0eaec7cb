"""Offline training: needs no database, queue or network."""
