"""The spam filter: a service somewhere else."""

import urllib.parse
import urllib.request

from django.conf import settings


class Akismet:
    def __init__(self, key, blog):
        self.key = key
        self.blog = blog

    def verify_key(self):
        return self._ask("verify-key") == "valid"

    def comment_check(self, **comment):
        return self._ask("comment-check", **comment) == "true"

    def _ask(self, question, **fields):
        """Ask the service; OSError (URLError) when it does not answer, or not well."""
        fields.update(key=self.key, api_key=self.key, blog=self.blog)
        url = f"{settings.AKISMET_URL}/1.1/{question}"
        data = urllib.parse.urlencode(fields).encode()
        with urllib.request.urlopen(url, data, timeout=30) as answer:
            return answer.read().decode()
