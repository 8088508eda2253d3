"""Django's settings, and Celery's among them."""

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
SECRET_KEY = "only an example"
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "mysite.urls"
INSTALLED_APPS = ["django.contrib.sites", "blog"]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SITE_ID = 1
USE_TZ = True
TIME_ZONE = "Europe/Oslo"

if os.environ.get("BLOG_POSTGRES"):
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": "127.0.0.1",
            "NAME": os.environ["BLOG_POSTGRES"],
            "USER": os.environ.get("BLOG_POSTGRES_USER", "postgres"),
        }
    }
else:
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ.get("BLOG_SQLITE", BASE_DIR / "blog.sqlite3"),
            "OPTIONS": {"timeout": 30},
        }
    }

AKISMET_URL = os.environ.get("BLOG_AKISMET", "https://rest.akismet.com")
AKISMET_KEY = os.environ.get("BLOG_AKISMET_KEY", "")

CELERY_BROKER_URL = os.environ.get("BLOG_BROKER", "redis://localhost")
