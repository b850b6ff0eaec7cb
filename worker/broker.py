"""The Celery app: a doorbell that carries a job's id and nothing else."""

from celery import Celery

from xmag.config import Settings

TASK = "xmag.run_job"
QUEUE = "xmag"


def celery_app(settings: Settings, *, socket_seconds: float) -> Celery:
    """An app on the Redis of the settings; a silent broker is given up after ``socket_seconds``.

    Redelivery, results, retries and priorities stay off: Postgres is the queue, and a lost bell costs
    one poll of an idle worker.
    """
    app = Celery("xmag", broker=settings.redis_url.get_secret_value(), set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        broker_connection_max_retries=None,
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            "socket_timeout": socket_seconds,
            "socket_connect_timeout": socket_seconds,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
        enable_utc=True,
        task_acks_late=False,
        task_default_queue=QUEUE,
        task_ignore_result=True,
        task_serializer="json",
        # silences a long warning; no bell is acknowledged late
        worker_cancel_long_running_tasks_on_connection_loss=True,
        worker_consumer="worker.consumer:PatientConsumer",
        worker_disable_prefetch=True,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_prefetch_multiplier=1,
    )
    return app
