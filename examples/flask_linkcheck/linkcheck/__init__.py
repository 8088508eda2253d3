"""A web application that checks the links of a page in the background."""

import os

from flask import Flask

from linkcheck.celery import make_celery


def create_app() -> Flask:
    app = Flask(__name__)
    app.config["CELERY"] = {
        "broker_url": os.environ.get("LINKCHECK_BROKER", "redis://localhost:6379/0"),
        "result_backend": os.environ.get("LINKCHECK_RESULTS", "redis://localhost:6379/0"),
        "task_track_started": True,
        "result_expires": 3600,
    }
    app.config["LINKCHECK_TRIES"] = 5
    make_celery(app)

    from linkcheck.views import pages

    app.register_blueprint(pages)
    return app
