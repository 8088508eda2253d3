"""URLs, settings, TLS and credentials of the Redis backends: no server is asked."""

from __future__ import annotations

import logging
import ssl
import subprocess
import sys
import threading
from typing import Any

import pytest
from redis.connection import (
    BlockingConnectionPool,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.credentials import UsernamePasswordCredentialProvider

from taskq import Celery
from taskq.backends.redis import (
    RedisBackend,
    SentinelBackend,
    SentinelManagedSSLConnection,
)
from taskq.exceptions import ImproperlyConfigured

DEFAULTS = {
    "host": "localhost", "port": 6379, "db": 0, "password": None, "max_connections": None,
    "socket_timeout": 120.0, "socket_connect_timeout": None, "retry_on_timeout": False,
    "client_name": None,
}  # fmt: skip
PROVIDER = "redis.credentials.UsernamePasswordCredentialProvider"


def backend(url: str, **settings: Any) -> Any:
    app = Celery("r", backend=url, set_as_current=False)
    app.conf.update(settings)
    return app.backend


def parameters(url: str, **settings: Any) -> dict[str, Any]:
    return dict(backend(url, **settings).connparams)


@pytest.mark.parametrize(
    ("url", "different"),
    [
        ("redis", {}),
        ("redis://", {}),
        ("redis://:pw@host:12/3", {"password": "pw", "host": "host", "port": 12, "db": 3}),
        (
            "redis://us%40r:p%2Fw@host/4?socket_timeout=3",
            {"username": "us@r", "password": "p/w", "host": "host", "db": 4, "socket_timeout": 3.0},
        ),
        ("redis://host/?db=5", {"host": "host", "db": 5}),
        ("redis://host//7", {"host": "host", "db": 7}),
        ("redis://host?max_connections=4", {"host": "host", "max_connections": 4}),
        (
            "redis://h?health_check_interval=4&socket_keepalive=true&retry_on_timeout=yes",
            {"host": "h", "health_check_interval": 4, "socket_keepalive": True,
             "retry_on_timeout": True},
        ),
    ],
)  # fmt: skip
def test_urls(url: str, different: dict[str, Any]) -> None:
    assert parameters(url) == {**DEFAULTS, **different}


@pytest.mark.parametrize("prefix", ["", "redis+"])
@pytest.mark.parametrize(
    ("rest", "different"),
    [
        ("/tmp/x.sock", {}),
        ("/tmp/x.sock?virtual_host=3&password=x", {"db": 3, "password": "x"}),
        (":pp@/tmp/x.sock?db=2", {"db": 2, "password": "pp"}),
    ],
)
def test_unix_sockets(prefix: str, rest: str, different: dict[str, Any]) -> None:
    of_tcp = ("host", "port", "socket_connect_timeout")
    assert parameters(f"{prefix}socket://{rest}", redis_socket_keepalive=True) == {
        **{key: value for key, value in DEFAULTS.items() if key not in of_tcp},
        "connection_class": UnixDomainSocketConnection,
        "path": "/tmp/x.sock",
        **different,
    }


def test_settings() -> None:
    settings = {
        "redis_host": "h", "redis_port": 1, "redis_db": 3, "redis_password": "p",
        "redis_username": "u", "redis_max_connections": 7, "redis_socket_timeout": 5,
        "redis_socket_connect_timeout": 2, "redis_retry_on_timeout": True,
        "redis_socket_keepalive": True, "redis_backend_health_check_interval": 9,
        "redis_client_name": "me",
    }  # fmt: skip
    expected = {
        "host": "h", "port": 1, "db": 3, "password": "p", "username": "u", "max_connections": 7,
        "socket_timeout": 5.0, "socket_connect_timeout": 2.0, "retry_on_timeout": True,
        "socket_keepalive": True, "health_check_interval": 9, "client_name": "me",
    }  # fmt: skip
    assert parameters("redis", **settings) == expected
    said = parameters("redis://h1:9/1", **settings)
    assert said == {**expected, "host": "h1", "port": 9, "db": 1}


def test_arguments_of_the_class() -> None:
    app = Celery("r", set_as_current=False)
    made = RedisBackend(app=app, host="h", port=1, db=2, password="p", max_connections=3)
    assert (made.connparams["host"], made.connparams["port"], made.connparams["db"]) == ("h", 1, 2)
    assert made.ConnectionPool is BlockingConnectionPool
    assert RedisBackend(app=app, host="redis://there/5").connparams["host"] == "there"
    pool = ConnectionPool(host="own")
    assert RedisBackend(app=app, connection_pool=pool).client.connection_pool is pool


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis://host/abc", "number of a database, got 'abc'"),
        ("redis://host?socket_timeout=abc", "socket_timeout='abc' in the URL"),
        ("redis://host?ssl_cert_reqs=required", "rediss://"),
        ("rediss://host", "CERT_REQUIRED"),
        ("rediss://host?ssl_cert_reqs=bad", "CERT_REQUIRED"),
        ("redis://host?credential_provider=redis.Redis", "CredentialProvider"),
    ],
)
def test_what_is_wrong_with_a_url(url: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        backend(url)


def test_tls_in_the_url() -> None:
    url = "rediss://h/0?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs=/a&ssl_certfile=%2Fb&ssl_keyfile=c"
    assert parameters(url) == {
        **DEFAULTS, "host": "h", "connection_class": SSLConnection,
        "ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": "/a", "ssl_certfile": "/b",
        "ssl_keyfile": "c",
    }  # fmt: skip


@pytest.mark.parametrize("url", ["redis://h", "rediss://h", "redis"])
@pytest.mark.parametrize("mode", [ssl.CERT_REQUIRED, "required", "CERT_REQUIRED"])
def test_tls_in_the_settings(url: str, mode: Any) -> None:
    found = parameters(url, redis_backend_use_ssl={"ssl_cert_reqs": mode, "ssl_ca_certs": "/x"})
    assert found["connection_class"] is SSLConnection
    assert (found["ssl_cert_reqs"], found["ssl_ca_certs"]) == (ssl.CERT_REQUIRED, "/x")


def test_tls_settings_that_say_too_little() -> None:
    with pytest.raises(ValueError, match="ssl_cert_reqs"):
        backend("redis://h", redis_backend_use_ssl={"ssl_ca_certs": "/x"})
    with pytest.raises(ImproperlyConfigured, match="is a mapping"):
        backend("redis://h", redis_backend_use_ssl=True)


@pytest.mark.parametrize(("mode", "warned"), [("optional", 1), ("none", 1), ("required", 0)])
def test_weak_checks_are_warned_of(
    mode: str, warned: int, caplog: pytest.LogCaptureFixture
) -> None:
    backend(f"rediss://h?ssl_cert_reqs={mode}")
    said = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == warned
    assert all(record.name == "celery.backends.redis" for record in said)


@pytest.mark.parametrize("provider", [PROVIDER, UsernamePasswordCredentialProvider("u", "p")])
def test_a_credential_provider_replaces_the_password(provider: Any) -> None:
    for made in (
        parameters("redis://us:pw@h", redis_backend_credential_provider=provider),
        parameters("redis", redis_password="x", redis_backend_credential_provider=provider),
        parameters(f"redis://us:pw@h?credential_provider={PROVIDER}"),
    ):
        assert isinstance(made["credential_provider"], UsernamePasswordCredentialProvider)
        assert not {"username", "password"} & set(made)


def test_passwords_are_masked() -> None:
    for url in (
        "redis://u:secret@h/1", "rediss://:secret@h/1?ssl_cert_reqs=required",
        "redis+socket://:secret@/tmp/x", "sentinel://:secret@h/0;sentinel://:secret@i/0",
    ):  # fmt: skip
        made = backend(url, result_backend_transport_options={"master_name": "m"})
        assert "secret" not in made.as_uri()
        assert "secret" in made.as_uri(include_password=True)
        assert "secret" not in repr(made)


def test_sentinel() -> None:
    options = {"master_name": "m", "sentinel_kwargs": {"password": "s"}, "min_other_sentinels": 1}
    made = backend(
        "sentinel://:pw@h1:26379/3;sentinel://h2:26380/1", result_backend_transport_options=options
    )
    assert type(made) is SentinelBackend
    hosts = [(each["host"], each["port"], each["db"]) for each in made.connparams["hosts"]]
    assert hosts == [("h1", 26379, 3), ("h2", 26380, 1)]
    pool = made.client.connection_pool
    assert pool.service_name == "m"
    assert pool.sentinel_manager.min_other_sentinels == 1
    assert (pool.connection_kwargs["db"], pool.connection_kwargs["password"]) == (3, "pw")
    (asked, _) = pool.sentinel_manager.sentinels
    assert asked.connection_pool.connection_kwargs["password"] == "s"
    tls = backend(
        "sentinel://h1", redis_backend_use_ssl={"ssl_cert_reqs": "required"},
        result_backend_transport_options=options,
    )  # fmt: skip
    assert tls.client.connection_pool.connection_class is SentinelManagedSSLConnection


def test_lifetimes() -> None:
    made = backend("redis", result_expires=0, result_failure_expires=33)
    assert (made.expires, made.failure_expires) == (0, 33)
    made = backend("redis", result_expires=None)
    assert (made.expires, made.failure_expires) == (None, None)
    made = backend("redis")
    assert (made.expires, made.failure_expires) == (86400, 86400)


def test_the_retry_policy_is_completed() -> None:
    made = backend("redis", result_backend_transport_options={"retry_policy": {"timeout": 5}})
    assert made.retry_policy == {
        "max_retries": 20, "interval_start": 0, "interval_step": 1, "interval_max": 1, "timeout": 5,
    }  # fmt: skip


def test_more_connection_errors(caplog: pytest.LogCaptureFixture) -> None:
    given = ["builtins.LookupError", "no.such.Error", ArithmeticError]
    made = backend(
        "redis", result_backend_transport_options={"additional_connection_errors": given}
    )
    assert made.exception_safe_to_retry(LookupError())
    assert made.exception_safe_to_retry(ZeroDivisionError())
    assert "no.such.Error" in caplog.text
    assert not backend("redis").exception_safe_to_retry(ZeroDivisionError())


def test_text_is_not_compressed() -> None:
    with pytest.warns(UserWarning, match="decode_responses"):
        assert (
            backend("redis://h?decode_responses=True", result_compression="zlib").compression
            is None
        )


def test_threads_share_their_connections() -> None:
    app = Celery("r", backend="redis://h", set_as_current=False)
    found = [app.backend]
    thread = threading.Thread(target=lambda: found.append(app.backend))
    thread.start()
    thread.join()
    assert found[0] is not found[1]
    assert found[0].link is found[1].link
    assert backend("redis://h").link is not found[0].link


def test_without_redis_py_the_extra_is_named() -> None:
    code = """
import sys
sys.modules["redis"] = None
from taskq import Celery
from taskq.exceptions import ImproperlyConfigured
app = Celery("r", backend="redis://h")
try:
    app.backend
except ImproperlyConfigured as exc:
    print(exc)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "taskq[redis]" in done.stdout, done.stderr
