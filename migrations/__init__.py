"""The schema's history; run by `xmag.db.migrate`."""
