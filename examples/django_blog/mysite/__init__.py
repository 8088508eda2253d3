"""The project. Its application is loaded with it, so that shared tasks find it."""

from .celery import app as celery_app

__all__ = ("celery_app",)
