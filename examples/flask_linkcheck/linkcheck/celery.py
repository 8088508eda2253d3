"""The task queue of the application: every task runs inside Flask's application context."""

from celery import Celery, Task
from celery.signals import task_retry
from celery.utils.log import get_task_logger
from flask import Flask

logger = get_task_logger(__name__)


def make_celery(flask_app: Flask) -> Celery:
    class ContextTask(Task):
        def __call__(self, *args, **kwargs):
            with flask_app.app_context():
                return self.run(*args, **kwargs)

    celery_app = Celery(flask_app.name, task_cls=ContextTask)
    celery_app.config_from_object(flask_app.config["CELERY"])
    celery_app.set_default()
    celery_app.autodiscover_tasks(["linkcheck"])
    flask_app.extensions["celery"] = celery_app
    return celery_app


@task_retry.connect
def note_retry(request=None, reason=None, **kwargs):
    logger.info("%s will look again: %s", request.id, reason)
