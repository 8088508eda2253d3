"""Writes docs/reference/settings.md from the table of settings: `make docs`."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from taskq.app.defaults import GUIDE_NAMES, NAMESPACES, OLD_NAME_OF, OPTIONS
from taskq.app.option import Option

TARGET = Path(__file__).parent / "reference" / "settings.md"

INTRODUCTION = """\
# Settings

Written by `docs/build_reference.py` from the table in `taskq/app/defaults.py`; do not edit.

A setting is read as `app.conf.name` and set there, in the object, module or mapping that
`app.config_from_object()` is given, or on the worker's command line as `namespace.name=value`.
Each can be spelt by its new or its old name; one source uses one style. With
`config_from_object(..., namespace="CELERY")` names are spelt `CELERY_` and the new name in upper
case. Text that names a number or a truth value (`true`, `yes`, `on`, `1` and their opposites) is
read as one. A wrong value is an `ImproperlyConfigured` that names the setting; unknown settings
are kept.

The environment variables `TASKQ_BROKER_URL`, `TASKQ_BROKER_READ_URL`, `TASKQ_BROKER_WRITE_URL` and
`TASKQ_RESULT_BACKEND`, or the same with `CELERY_`, are preferred to the settings of those names.
`taskq.App` has `sqlite:///taskq.db` as broker and result backend unless they are set.
"""

# Parts of the reference, in the order people need them; a part may gather several namespaces.
PARTS: dict[str, tuple[str, ...]] = {
    "Application": (),
    "Tasks": ("task",),
    "Broker": ("broker",),
    "Worker": ("worker",),
    "Results": ("result",),
    "Beat": ("beat",),
    "Events": ("event", "events"),
    "Remote control": ("control",),
    "Security": ("security",),
    "Redis results": ("redis",),
    "Database results": ("database",),
    "Cache results": ("cache",),
    "MongoDB results": ("mongodb",),
    "Cassandra results": ("cassandra",),
    "Elasticsearch results": ("elasticsearch",),
    "Couchbase results": ("couchbase",),
    "ArangoDB results": ("arangodb",),
    "S3 results": ("s3",),
    "DynamoDB results": ("dynamodb",),
    "Azure Blob Storage results": ("azureblockblob",),
    "Google Cloud Storage results": ("gcs", "firestore"),
    "Cosmos DB results": ("cosmosdbsql",),
}


def build() -> str:
    """The page as text."""
    pages = [INTRODUCTION]
    for title, spaces in PARTS.items():
        rows = "\n".join(_row(name, option) for name, option in _options_of(spaces))
        pages.append(
            f"## {title}\n\n"
            "| setting | old name | value | default | since | meaning |\n"
            "|---|---|---|---|---|---|\n"
            f"{rows}\n"
        )
    return "\n".join(pages)


def _options_of(spaces: tuple[str, ...]) -> list[tuple[str, Option]]:
    if not spaces:
        return [(name, row) for name, row in NAMESPACES.items() if isinstance(row, Option)]
    return [
        (f"{space}_{key}", row)
        for space in spaces
        for key, row in sorted(NAMESPACES[space].items())
    ]


def _row(name: str, option: Option) -> str:
    also = [alias for alias, new in GUIDE_NAMES.items() if new == name]
    old = ", ".join(f"`{alias}`" for alias in (OLD_NAME_OF.get(name), *also) if alias)
    meaning = option.meaning
    if option.alt:
        meaning += f" On its way out: use {option.alt}."
    cells = (f"`{name}`", old, option.expected, _default(option.default), option.since, meaning)
    return "| " + " | ".join((cell or "").replace("|", "\\|") for cell in cells) + " |"


def _default(value: Any) -> str:
    if isinstance(value, timedelta):
        return f"{value.days} day" if value == timedelta(days=1) else str(value)
    return f"`{value!r}`"


def main() -> None:
    missing = OPTIONS.keys() - {
        name for spaces in PARTS.values() for name, _ in _options_of(spaces)
    }
    if missing:
        raise SystemExit(f"settings in no part of the reference: {', '.join(sorted(missing))}")
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(build(), encoding="utf-8")


if __name__ == "__main__":
    main()
