"""Behaviour 114: calls that wait for the commit, in a Django project."""

import djangosite  # noqa: F401 # configures Django
from celery import Celery
from django.db import connection, transaction


def test_114_on_commit(app, sent, monkeypatch):
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "configured.below")
    site = Celery("site")
    site.config_from_object("django.conf:settings", namespace="CELERY")

    @site.task
    def index(number, how=""): ...

    with transaction.atomic():
        assert index.delay_on_commit(1, how="well") is None
        assert index.apply_async_on_commit((2,), countdown=1) is None
        assert sent == []
    assert [(each.args, each.kwargs) for each in sent] == [((1,), {"how": "well"}), ((2,), {})]

    try:
        with transaction.atomic():
            index.delay_on_commit(3)
            index.apply_async_on_commit((3,))
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert len(sent) == 2

    index.delay_on_commit(4)
    assert sent[2].args == (4,)
    connection.close()
    site.close()
