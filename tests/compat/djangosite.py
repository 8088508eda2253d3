"""A Django project in this process, for the checks that want one: it can be configured only once.

Its database is a file, so that the worker's thread and the test see the same one.
"""

from __future__ import annotations

import atexit
import tempfile

import django
from django.conf import settings

_FOLDER = tempfile.TemporaryDirectory()
atexit.register(_FOLDER.cleanup)
settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": f"{_FOLDER.name}/site.db",
        }
    },
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    LOGGING_CONFIG=None,
    ALLOWED_HOSTS=["*"],
    USE_TZ=True,
    CELERY_BROKER_URL="memory://",
)
django.setup()
