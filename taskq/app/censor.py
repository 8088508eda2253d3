"""Masking of secrets in whatever shows settings: banners, reports, errors, control replies.

Beside the journey: `settings.py` asks it before it shows a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["HIDDEN_SETTINGS", "MASK", "filter_hidden_settings", "sanitize_url"]

MASK = "*" * 8

HIDDEN_SETTINGS = re.compile(
    "API|TOKEN|KEY|SECRET|PASS|PROFANITIES_LIST|SIGNATURE|DATABASE|BEAT_DBURI", re.IGNORECASE
)

# Texts: `re` keeps them compiled once they are used, and most processes never show a setting.
# In a list of URLs each begins with its scheme; a `;` inside one begins nothing.
_URL_BREAK = r"([;,\s]+)(?=[\w+.-]+://)"
_PASSWORD = r"(?<=://)([^:/?#@]*):([^/?#]*)@"
# A password with a bare slash in it ends the host for a parser, not for a reader of the log.
_WILD_PASSWORD = r"(?<=://)([^:/?#@]*):(?!\d+[/?#])(.*)@"
_QUERY_SECRET = r"(?i)([?&][^=&#]*(?:pass|secret|token|key)[^=&#]*=)[^&#;]+"
_CONNECTION_SECRET = r"(?i)((?:AccountKey|SharedAccessSignature)=)[^;]+"


def filter_hidden_settings(conf: Mapping[Any, Any]) -> dict[Any, Any]:
    """A copy of `conf` that may be shown: values of secret keys and passwords in URLs masked."""
    return {key: _censor(key, value) for key, value in conf.items()}


def _censor(key: Any, value: Any) -> Any:
    if isinstance(value, Mapping):
        return filter_hidden_settings(value)
    if isinstance(key, str) and HIDDEN_SETTINGS.search(key):
        return MASK
    return _censor_value(value)


def _censor_value(value: Any) -> Any:
    if isinstance(value, str):
        return sanitize_url(value)
    if isinstance(value, Mapping):
        return filter_hidden_settings(value)
    if type(value) in (list, tuple):
        return type(value)(map(_censor_value, value))
    return value


def sanitize_url(url: Any, mask: str = MASK) -> Any:
    """`url` with its passwords masked: one URL, or several with `;` between them.

    What is not text is given back as it is.
    """
    if not isinstance(url, str) or "://" not in url:
        return url
    return "".join(
        _sanitize_one(part, mask) if "://" in part else part for part in re.split(_URL_BREAK, url)
    )


def _sanitize_one(url: str, mask: str) -> str:
    hidden, count = re.subn(_PASSWORD, lambda found: f"{found[1]}:{mask}@", url)
    if not count:
        hidden = re.sub(_WILD_PASSWORD, lambda found: f"{found[1]}:{mask}@", url)
    for pattern in (_QUERY_SECRET, _CONNECTION_SECRET):
        hidden = re.sub(pattern, lambda found: found[1] + mask, hidden)
    return hidden
