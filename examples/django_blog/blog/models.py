"""What the blog keeps."""

from django.db import models
from django.urls import reverse


class Entry(models.Model):
    slug = models.SlugField(unique=True)
    title = models.CharField(max_length=200)
    allows_comments = models.BooleanField(default=True)

    def get_absolute_url(self):
        return reverse("entry", args=[self.slug])


class Comment(models.Model):
    entry = models.ForeignKey(Entry, models.CASCADE)
    name = models.CharField("name", max_length=64)
    email_address = models.EmailField("email address")
    homepage = models.URLField("home page", blank=True)
    comment = models.TextField("comment")
    pub_date = models.DateTimeField("published date", editable=False, auto_now_add=True)
    is_spam = models.BooleanField("spam?", null=True, default=None, editable=False)
