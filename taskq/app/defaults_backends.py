"""The settings of results and their backends: rows of the table in `defaults.py`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from taskq.app.option import (
    Namespace,
    Option,
    anything,
    flag,
    lifetime,
    mapping,
    number,
    path,
    target,
    text,
    texts,
    whole,
)

__all__ = ["BACKENDS", "RESULT"]

RESULT: dict[str, Any] = Namespace(
    __old__={"celery_result_{0}"},
    backend=target(None, "Where results are stored: a URL, an alias or a class; None is nowhere."),
    cache_max=whole(
        -1,
        "Results a client remembers; -1 is none, 0 or None is all.",
        old={"celery_max_cached_results"},
    ),
    compression=Option(None, type="str", reads="string", meaning="Compression of stored results."),
    exchange=text("celeryresults", "Exchange of results, of old; nothing is sent to it."),
    exchange_type=text("direct", "Type of that exchange."),
    expires=lifetime(
        timedelta(days=1),
        "How long results are kept: seconds or a timedelta; None or 0 is for ever.",
        old={"celery_task_result_expires"},
    ),
    chord_expires=lifetime(
        None,
        "How long the counts of open chords are kept; None takes `result_expires`, 0 is for ever.",
        since="5.7",
    ),
    failure_expires=lifetime(
        None, "How long failures are kept, where the backend can; None as all.", since="5.7"
    ),
    persistent=flag(None, "Results sent as messages survive a restart of the broker."),
    extended=flag(
        False, "Store name, arguments, worker, queue and retries with each result.", since="4.3"
    ),
    serializer=text("json", "Serializer of stored results."),
    backend_transport_options=mapping({}, "Options for the backend's connection."),
    chord_retry_interval=number(1.0, "Seconds between looks whether a chord's header is done."),
    chord_join_timeout=number(
        3.0, "Seconds to wait for each result of a chord's header.", since="4.4"
    ),
    backend_max_sleep_between_retries_ms=whole(
        10000, "Longest pause, in ms, before a backend is tried again.", since="4.4"
    ),
    backend_max_retries=number(float("inf"), "How often a backend is tried again.", since="4.4"),
    backend_base_sleep_between_retries_ms=whole(
        10, "First pause, in ms, before a backend is tried again; it doubles.", since="4.4"
    ),
    backend_always_retry=flag(
        False, "Try a backend again after errors that may pass.", since="4.4"
    ),
    backend_thread_safe=flag(
        False, "All threads share one backend object.", declared=False, since="5.3"
    ),
)

CACHE: dict[str, Any] = Namespace(
    __old__={"celery_cache_{0}"},
    backend=text(None, "URL of the cache when `result_backend` is just `cache`."),
    backend_options=mapping({}, "Options for the cache's client."),
)

CASSANDRA: dict[str, Any] = Namespace(
    entry_ttl=number(None, "Seconds rows live."),
    keyspace=text(None, "Keyspace."),
    port=text(None, "Port; 9042 when None.", also=(int,)),
    read_consistency=text(None, "Consistency of reads; LOCAL_QUORUM when None."),
    servers=texts(None, "Hosts."),
    bundle_path=path(None, "Path of the bundle to connect with; see the next."),
    secure_bundle_path=path(None, "Path of the bundle the backend reads.", declared=False),
    table=text(None, "Table of results."),
    write_consistency=text(None, "Consistency of writes; LOCAL_QUORUM when None."),
    auth_provider=text(None, "Class in cassandra.auth to log in with."),
    auth_kwargs=text(None, "Its arguments.", also=(dict,)),
    options=mapping({}, "Arguments for the cluster."),
)

S3: dict[str, Any] = Namespace(
    access_key_id=text(None, "Id of the access key."),
    secret_access_key=text(None, "The access key."),
    bucket=text(None, "Bucket of results."),
    base_path=text(None, "First part of their keys."),
    endpoint_url=text(None, "URL of a compatible service."),
    region=text(None, "Region."),
)

AZUREBLOCKBLOB: dict[str, Any] = Namespace(
    container_name=text("celery", "Container of results."),
    retry_initial_backoff_sec=whole(2, "Seconds before the second attempt."),
    retry_increment_base=whole(2, "Seconds added, more each time, before further attempts."),
    retry_max_attempts=whole(3, "Attempts."),
    base_path=text("", "First part of the blobs' names.", since="5.1"),
    connection_timeout=whole(20, "Seconds to connect."),
    read_timeout=whole(120, "Seconds to read."),
)

GCS: dict[str, Any] = Namespace(
    bucket=text(None, "Bucket of results.", since="5.4"),
    project=text(None, "Project.", since="5.4"),
    base_path=text("", "First part of the blobs' names.", since="5.4"),
    ttl=number(0, "Seconds results live; 0 is for ever.", since="5.4"),
    threadpool_maxsize=whole(10, "Threads for work on many blobs.", declared=False, since="5.4"),
)

COSMOSDBSQL: dict[str, Any] = Namespace(
    database_name=text("celerydb", "Database."),
    collection_name=text("celerycol", "Collection of results."),
    consistency_level=text("Session", "Consistency."),
    max_retry_attempts=whole(9, "Attempts."),
    max_retry_wait_time=whole(30, "Seconds all attempts may take."),
)

REDIS: dict[str, Any] = Namespace(
    __old__={"celery_redis_{0}"},
    backend_use_ssl=mapping(None, "TLS options of the connection.", also=(bool,)),
    backend_credential_provider=Option(
        None,
        type="string",
        also=(object,),
        declared=False,
        since="5.6",
        meaning="Class path, or object, that gives user and password.",
    ),
    backend_health_check_interval=whole(
        None, "Seconds after which an idle connection is checked.", declared=False, since="5.1"
    ),
    client_name=text(None, "Name of result connections.", declared=False, since="5.6"),
    db=whole(None, "Number of the database, without a URL."),
    host=text(None, "Host, without a URL; localhost when None."),
    max_connections=whole(None, "Most connections at a time."),
    username=text(None, "User.", since="5.1"),
    password=text(None, "Password.", also=(bytes,)),
    port=whole(None, "Port, without a URL; 6379 when None."),
    socket_timeout=number(120.0, "Seconds to read or write."),
    socket_connect_timeout=number(None, "Seconds to connect.", since="4.0.1"),
    retry_on_timeout=flag(False, "Repeat a command that timed out.", since="4.4.1"),
    socket_keepalive=flag(False, "Keep connections alive by TCP.", since="4.4.1"),
)

ELASTICSEARCH: dict[str, Any] = Namespace(
    __old__={"celery_elasticsearch_{0}"},
    retry_on_timeout=flag(None, "Ask another node after a timeout."),
    max_retries=whole(None, "Attempts."),
    timeout=number(None, "Seconds to wait for an answer."),
    save_meta_as_text=flag(True, "Store results as text, not as JSON.", since="4.4.4"),
)

DATABASE: dict[str, Any] = Namespace(
    url=text(
        None,
        "URL of the database when `result_backend` is just `database`.",
        old={"celery_result_dburi"},
    ),
    engine_options=mapping(
        {"pool_pre_ping": True, "pool_recycle": 3600},
        "Arguments of SQLAlchemy's create_engine.",
        old={"celery_result_engine_options"},
    ),
    engine_callback=anything(
        None, "Function, or its path, that gets each new engine.", since="5.7"
    ),
    short_lived_sessions=flag(
        False,
        "Take a new session for each operation.",
        old={"celery_result_db_short_lived_sessions"},
    ),
    table_schemas=mapping(None, "Schemas of the tables `task` and `group`."),
    table_names=mapping(
        None, "Names of the tables `task` and `group`.", old={"celery_result_db_tablenames"}
    ),
    create_tables_at_setup=flag(
        True, "Make the tables with the backend, not before the first write.", since="5.5"
    ),
)


def _settings_of(server: str) -> dict[str, Any]:
    meaning = f"Host, database, login and options of {server}."
    pattern = f"celery_{server.lower()}_{{0}}"
    return Namespace(__old__={pattern}, backend_settings=mapping(None, meaning))


BACKENDS: dict[str, dict[str, Any]] = {
    "cache": CACHE,
    "cassandra": CASSANDRA,
    "s3": S3,
    "azureblockblob": AZUREBLOCKBLOB,
    "gcs": GCS,
    "couchbase": _settings_of("Couchbase"),
    "arangodb": _settings_of("ArangoDB"),
    "mongodb": _settings_of("MongoDB"),
    "cosmosdbsql": COSMOSDBSQL,
    "redis": REDIS,
    "elasticsearch": ELASTICSEARCH,
    "database": DATABASE,
    "dynamodb": Namespace(endpoint_url=text(None, "URL of a compatible service.", declared=False)),
    "firestore": Namespace(
        project=text(
            None, "Project of chord counts; `gcs_project` when None.", declared=False, since="5.4"
        )
    ),
}
