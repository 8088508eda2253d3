"""Entries and comments."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    operations = [
        migrations.CreateModel(
            name="Entry",
            fields=[
                ("id", models.BigAutoField(primary_key=True)),
                ("slug", models.SlugField(unique=True)),
                ("title", models.CharField(max_length=200)),
                ("allows_comments", models.BooleanField(default=True)),
            ],
        ),
        migrations.CreateModel(
            name="Comment",
            fields=[
                ("id", models.BigAutoField(primary_key=True)),
                ("entry", models.ForeignKey("Entry", django.db.models.deletion.CASCADE)),
                ("name", models.CharField("name", max_length=64)),
                ("email_address", models.EmailField("email address")),
                ("homepage", models.URLField("home page", blank=True)),
                ("comment", models.TextField("comment")),
                ("pub_date", models.DateTimeField("published date", auto_now_add=True)),
                ("is_spam", models.BooleanField("spam?", null=True, default=None)),
            ],
        ),
    ]
