"""Three steps: find the links of a page, look at each, write the report."""

import urllib.error
import urllib.request
from html.parser import HTMLParser
from urllib.parse import urljoin

from celery import shared_task
from celery.utils.log import get_task_logger
from flask import current_app

logger = get_task_logger(__name__)


class LinkFinder(HTMLParser):
    def __init__(self):
        super().__init__()
        self.links = []

    def handle_starttag(self, tag, attrs):
        if tag == "a":
            self.links += [value for name, value in attrs if name == "href" and value]


def fetch(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.status, answer.read().decode("utf-8", "replace")


@shared_task(autoretry_for=(urllib.error.URLError,), retry_backoff=True, max_retries=3)
def find_links(page):
    _, text = fetch(page)
    finder = LinkFinder()
    finder.feed(text)
    return [urljoin(page, link) for link in finder.links]


@shared_task(bind=True, max_retries=None)
def check_links(self, links, found=None):
    """What each link answers; the ones that are busy (503) are asked again later."""
    found = dict(found or {})
    busy = []
    for link in links:
        try:
            found[link], _ = fetch(link)
        except urllib.error.HTTPError as exc:
            found[link] = exc.code
            if exc.code == 503:
                busy.append(link)
    if busy and self.request.retries < current_app.config["LINKCHECK_TRIES"]:
        raise self.retry(args=(busy, found), countdown=0.2)
    return found


@shared_task
def report(found):
    broken = sorted(link for link, status in found.items() if status >= 400)
    logger.info("%d links, %d broken", len(found), len(broken))
    return {"links": len(found), "broken": broken}
