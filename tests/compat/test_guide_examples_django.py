"""The Tasks guide's examples with models: articles that tasks expand, comments that may be spam."""

import functools

import djangosite  # noqa: F401 # configures Django, before its models are imported
import pytest
from celery import Celery
from celery.utils.log import get_task_logger
from django import forms
from django.db import connection, models, transaction
from django.http import HttpResponseRedirect
from django.test import RequestFactory
from sides import Worker


class Article(models.Model):
    title = models.CharField(max_length=80)
    body = models.TextField()

    class Meta:
        app_label = "blog"


class Comment(models.Model):
    name = models.CharField("name", max_length=64)
    email_address = models.EmailField("email address")
    homepage = models.URLField("home page", blank=True)
    comment = models.TextField("comment")
    pub_date = models.DateTimeField("Published date", editable=False, auto_now_add=True)
    is_spam = models.BooleanField("spam?", default=False, editable=False)

    class Meta:
        app_label = "blog"
        verbose_name = "comment"
        verbose_name_plural = "comments"


class CommentForm(forms.ModelForm):
    class Meta:
        model = Comment
        fields = ("name", "email_address", "comment")


@pytest.fixture
def site(monkeypatch):
    """An application that knows it is in a Django project, and the tables of the blog."""
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "configured.below")
    made = Celery("site", backend="cache+memory://")
    made.config_from_object("django.conf:settings", namespace="CELERY")
    made.conf.update(
        broker_transport_options={"polling_interval": 0.005}, worker_hijack_root_logger=False
    )
    made.set_default()
    with connection.schema_editor() as editor:
        for model in (Article, Comment):
            editor.create_model(model)
    yield made
    with connection.schema_editor() as editor:
        for model in (Article, Comment):
            editor.delete_model(model)
    connection.close()
    made.close()


@pytest.fixture
def worker(site):
    made = Worker(site)
    yield made
    made.stop()


@pytest.fixture
def expand_abbreviations(site):
    @site.task
    def expand_abbreviations(article_id):
        article = Article.objects.get(id=article_id)
        article.body = article.body.replace("MyCorp", "My Corporation")
        article.save()

    return expand_abbreviations


def test_113_guide_articles_by_id(worker, expand_abbreviations):
    article = Article.objects.create(title="News", body="MyCorp grows")
    with pytest.raises(Exception, match="Article"):
        # A model is nothing that JSON can carry.
        expand_abbreviations.delay(article)
    result = worker.finish(expand_abbreviations.delay(article.id))
    assert result.state == "SUCCESS", result.traceback
    article.refresh_from_db()
    assert article.body == "My Corporation grows"


def create_too_early(task, article):
    task.delay(article.pk)


def create_on_commit(task, article):
    task.delay_on_commit(article.pk)


def create_by_hand(task, article):
    transaction.on_commit(functools.partial(task.delay, article.pk))


@pytest.mark.parametrize(
    ("launch", "inside"), [(create_too_early, 1), (create_on_commit, 0), (create_by_hand, 0)]
)
def test_114_guide_transactions(worker, expand_abbreviations, sent, launch, inside):
    counts = []

    @transaction.atomic
    def create_article(request):
        article = Article.objects.create(body="MyCorp")
        launch(expand_abbreviations, article)
        counts.append(len(sent))
        return HttpResponseRedirect("/articles/")

    assert create_article(RequestFactory().post("/articles/")).url == "/articles/"
    assert (counts, len(sent)) == ([inside], 1)
    worker.finish(expand_abbreviations.AsyncResult(sent[0].headers["id"]))
    assert Article.objects.get().body == "My Corporation"


class Akismet:
    """Knows spam by its words."""

    def __init__(self, key, url):
        self.key = key

    def verify_key(self):
        return bool(self.key)

    def comment_check(self, user_ip, comment_content, comment_author, comment_author_email):
        return "cheap" in comment_content and user_ip == "192.0.2.1"


@pytest.mark.parametrize(("text", "is_spam"), [("nice", False), ("cheap watches", True)])
def test_026_guide_spam_filter(site, worker, caplog, sent, text, is_spam):
    @site.task
    def spam_filter(comment_id, remote_addr=None):
        # `spam_filter.get_logger()` of the guide is gone from 5.7.
        logger = get_task_logger(__name__)
        logger.info("Running spam filter for comment %s", comment_id)

        comment = Comment.objects.get(pk=comment_id)
        akismet = Akismet("key", "http://example.org")
        assert akismet.verify_key()

        is_spam = akismet.comment_check(
            user_ip=remote_addr,
            comment_content=comment.comment,
            comment_author=comment.name,
            comment_author_email=comment.email_address,
        )
        if is_spam:
            comment.is_spam = True
            comment.save()

        return is_spam

    def add_comment(request):
        remote_addr = request.META.get("REMOTE_ADDR")
        form = CommentForm(request.POST, request.FILES)
        assert form.is_valid(), form.errors
        comment = form.save()
        # Check spam asynchronously.
        spam_filter.delay(comment_id=comment.id, remote_addr=remote_addr)
        return HttpResponseRedirect("/posts/1/")

    fields = {"name": "ann", "email_address": "ann@example.org", "comment": text}
    add_comment(RequestFactory(REMOTE_ADDR="192.0.2.1").post("/posts/1/comments/", fields))
    with caplog.at_level("INFO"):
        result = worker.finish(spam_filter.AsyncResult(sent[0].headers["id"]))
    assert result.get() is is_spam, result.traceback
    assert f"Running spam filter for comment {Comment.objects.get().id}" in caplog.messages
    assert Comment.objects.get().is_spam is is_spam
