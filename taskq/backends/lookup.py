"""From the setting result_backend to a class: short names, URLs, class paths and entry points.

Celery's address of this module is `celery.app.backends`.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from typing import Any

from taskq._state import current_app
from taskq.exceptions import ImproperlyConfigured, UnknownBackend
from taskq.utils.imports import home_module, load_extension_class_names, symbol_by_name

__all__ = ("BACKEND_ALIASES", "UNKNOWN_BACKEND", "by_name", "by_url")

UNKNOWN_BACKEND = """
Unknown result backend: {0!r}.  Did you spell that correctly? ({1!r})
"""

E_NOT_HERE = (
    "The result backend {name!r} is a backend of Celery that this version of taskq does not have. "
    "Backends here: {here}."
)

#: Short name, or scheme of a URL -> class. Spelled as everybody's settings spell them.
BACKEND_ALIASES: dict[str, str] = {
    "sqlite": "celery.backends.sqlite:SQLiteBackend",
    "memory": "celery.backends.memory:MemoryBackend",
    "cache+memory": "celery.backends.memory:MemoryBackend",
    "disabled": "celery.backends.base:DisabledBackend",
    "rpc": "celery.backends.rpc:RPCBackend",
    "cache": "celery.backends.cache:CacheBackend",
    "redis": "celery.backends.redis:RedisBackend",
    "rediss": "celery.backends.redis:RedisBackend",
    "socket": "celery.backends.redis:RedisBackend",
    "sentinel": "celery.backends.redis:SentinelBackend",
    "mongodb": "celery.backends.mongodb:MongoBackend",
    "db": "celery.backends.database:DatabaseBackend",
    "database": "celery.backends.database:DatabaseBackend",
    "elasticsearch": "celery.backends.elasticsearch:ElasticsearchBackend",
    "cassandra": "celery.backends.cassandra:CassandraBackend",
    "couchbase": "celery.backends.couchbase:CouchbaseBackend",
    "couchdb": "celery.backends.couchdb:CouchBackend",
    "cosmosdbsql": "celery.backends.cosmosdbsql:CosmosDBSQLBackend",
    "riak": "celery.backends.riak:RiakBackend",
    "file": "celery.backends.filesystem:FilesystemBackend",
    "consul": "celery.backends.consul:ConsulBackend",
    "dynamodb": "celery.backends.dynamodb:DynamoDBBackend",
    "azureblockblob": "celery.backends.azureblockblob:AzureBlockBlobBackend",
    "arangodb": "celery.backends.arangodb:ArangoDbBackend",
    "s3": "celery.backends.s3:S3Backend",
    "gs": "celery.backends.gcs:GCSBackend",
}

# Found once per process: reading the metadata of every installed package is slow.
_extensions: dict[str, dict[str, str]] = {}


def by_name(
    backend: Any = None,
    loader: Any = None,
    extension_namespace: str = "celery.result_backends",
) -> Any:
    """The backend class of that short name or class path; a class is given back as it is.

    Known names are BACKEND_ALIASES, the loader's override_backends, and entry points of the group
    `extension_namespace` (and of taskq.result_backends). Raises UnknownBackend naming the closest
    one, ImproperlyConfigured for a path that leads nowhere or a backend this version has not.
    """
    if not backend:
        # None was named: nothing has to be looked for in the installed packages.
        return symbol_by_name(BACKEND_ALIASES["disabled"])
    if not isinstance(backend, str):
        return backend
    aliases = _known_names(loader, extension_namespace)
    path = aliases.get(backend, backend)
    if _module(path) in map(_module, BACKEND_ALIASES.values()) and not _is_here(path):
        raise ImproperlyConfigured(E_NOT_HERE.format(name=backend, here=", ".join(_names_here())))
    return _load(backend, path, aliases)


def by_url(backend: Any = None, loader: Any = None) -> tuple[Any, str | None]:
    """(backend class, URL for it): `redis://host` is for redis, `db+sqlite:///x` for db."""
    url = None
    if isinstance(backend, str) and "://" in backend:
        url = backend
        scheme = url.partition("://")[0]
        backend = scheme
        if "+" in scheme:
            first, _, url = url.partition("+")
            backend = scheme if scheme in BACKEND_ALIASES else first
    return by_name(backend, loader), url


def _known_names(loader: Any, namespace: str) -> dict[str, str]:
    loader = loader or current_app.loader
    if namespace not in _extensions:
        _extensions[namespace] = dict(load_extension_class_names(namespace))
    return {
        **BACKEND_ALIASES,
        **(getattr(loader, "override_backends", None) or {}),
        **_extensions[namespace],
    }


def _load(backend: str, path: str, aliases: dict[str, str]) -> Any:
    try:
        cls = symbol_by_name(path)
    except ModuleNotFoundError as exc:
        if not _is_way_to(exc.name, path):
            raise  # found, but something that it imports is not
        if path == backend and not any(sign in path for sign in ".:"):
            raise UnknownBackend(backend, aliases) from None
        raise _unknown(backend, exc) from exc
    except (AttributeError, ValueError) as exc:
        raise _unknown(backend, exc) from exc
    if isinstance(cls, types.ModuleType):
        raise _unknown(backend, "is a Python module, not a backend class.")
    return cls


def _unknown(backend: str, why: Any) -> ImproperlyConfigured:
    return ImproperlyConfigured(UNKNOWN_BACKEND.strip().format(backend, str(why)))


def _is_way_to(missing: str | None, path: str) -> bool:
    """Is the module that was not found the one the path names, or a package on its way?"""
    target = home_module(path).replace(":", ".")
    return missing is not None and f"{target}.".startswith(f"{missing}.")


def _module(path: str) -> str:
    return home_module(path.rpartition(":" if ":" in path else ".")[0])


def _is_here(path: str) -> bool:
    module = _module(path)
    return module in sys.modules or importlib.util.find_spec(module) is not None


def _names_here() -> list[str]:
    return [name for name, path in BACKEND_ALIASES.items() if _is_here(path)]
