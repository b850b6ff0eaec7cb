"""The GPU worker and the dispatcher: Celery lives here alone."""
