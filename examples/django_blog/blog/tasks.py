"""What the blog does in the background."""

from celery import shared_task
from celery.utils.log import get_task_logger
from django.conf import settings
from django.contrib.sites.models import Site
from django.core.exceptions import ImproperlyConfigured

from blog.akismet import Akismet
from blog.models import Comment

logger = get_task_logger(__name__)


@shared_task(autoretry_for=(OSError,), retry_backoff=1, max_retries=5)
def spam_filter(comment_id, remote_addr=None):
    logger.info("Running spam filter for comment %s", comment_id)

    comment = Comment.objects.get(pk=comment_id)
    current_domain = Site.objects.get_current().domain
    akismet = Akismet(settings.AKISMET_KEY, f"http://{current_domain}")
    if not akismet.verify_key():
        raise ImproperlyConfigured("Invalid AKISMET_KEY")

    comment.is_spam = akismet.comment_check(
        user_ip=remote_addr,
        comment_content=comment.comment,
        comment_author=comment.name,
        comment_author_email=comment.email_address,
    )
    comment.save(update_fields=["is_spam"])
    return comment.is_spam
