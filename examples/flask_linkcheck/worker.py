"""Where the worker starts: `celery -A worker worker`."""

from linkcheck import create_app

celery = create_app().extensions["celery"]
