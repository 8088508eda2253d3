"""The Security guide. Numbers 285 to 289."""

import os
import subprocess
import sys

import kombu
import pytest
from celery.exceptions import ImproperlyConfigured
from kombu.exceptions import ContentDisallowed, SerializerNotInstalled
from kombu.serialization import dumps, registry
from signers import Signer


@pytest.fixture(autouse=True)
def _fresh_serializers():
    kept = {
        name: value.copy() if isinstance(value, (dict, set)) else value
        for name, value in vars(registry).items()
    }
    yield
    vars(registry).update(kept)


@pytest.fixture
def signer(tmp_path):
    return Signer(tmp_path, "one")


@pytest.fixture
def add(app):
    @app.task(name="add")
    def add(x, y):
        return x + y

    return add


def publish(app, body, content_type, **headers):
    with app.connection_for_write() as connection:
        kombu.Producer(connection.default_channel).publish(
            body, routing_key="celery", content_type=content_type, content_encoding="utf-8",
            headers=headers,
        )  # fmt: skip


def test_285_json_alone_is_accepted(app):
    assert list(app.conf.accept_content) == ["json"]


@pytest.mark.parametrize("accept", [["yaml", "json"], ["application/x-yaml", "application/json"]])
def test_285_accept_content_lists_what_is(app, worker, add, accept, caplog, eventually):
    app.conf.accept_content = accept
    worker.start()
    add.apply_async((1, 2), serializer="pickle")
    for serializer in ("json", "yaml"):
        assert worker.finish(add.apply_async((1, 2), serializer=serializer)).get() == 3
    assert "Refusing to deserialize untrusted content of type pickle" in caplog.text


def test_286_setup_registers_auth_and_disables_the_others(app, signer):
    app.conf.update(task_serializer="auth", accept_content=["auth"])
    app.setup_security(
        key=str(signer.key), cert=str(signer.certificate), store=signer.store, digest="sha384",
    )  # fmt: skip
    assert "auth" in registry._encoders
    disabled = {"application/json", "application/x-python-serialize", "application/x-yaml"}
    assert disabled <= registry._disabled_content_types
    with pytest.raises(ContentDisallowed):
        registry.loads("{}", "application/json", "utf-8")
    assert registry.loads(dumps({"a": 1}, "auth")[2], "application/data", "utf-8") == {"a": 1}


def test_286_allowed_serializers_stay(app, signer):
    app.conf.update(signer.settings())
    app.setup_security(allowed_serializers=["yaml"], serializer="pickle")
    assert registry.loads("[1]", "application/x-yaml", "utf-8") == [1]
    assert registry.loads(dumps({1}, "auth")[2], "application/data", "utf-8", {"auth"}) == {1}


def test_286_a_key_with_a_password(app, tmp_path):
    signer = Signer(tmp_path, "one", password=b"secret")
    app.conf.update(signer.settings())
    app.setup_security(key_password=b"secret")
    app.conf.security_key_password = b"secret"
    app.setup_security()
    assert dumps(1, "auth")[0] == "application/data"


def test_287_signed_messages_run_and_others_do_not(app, worker, add, signer, caplog, tmp_path):
    app.conf.update(signer.settings(result_accept_content=["json"]))
    app.setup_security()
    worker.start()
    assert worker.finish(add.delay(1, 2)).get() == 3
    good = dumps([[1, 1], {}, {}], "auth")[2]
    broken = good[:-8] + ("AAAA" if good[-8:-4] != "AAAA" else "BBBB") + good[-4:]
    publish(app, broken, "application/data", task="add", id="changed")
    publish(app, "[[1, 1], {}, {}]", "application/json", task="add", id="plain")
    assert worker.finish(add.delay(3, 4)).get() == 7
    assert app.AsyncResult("changed").state == app.AsyncResult("plain").state == "PENDING"
    assert "Can't decode message body" in caplog.text
    assert "Refusing to deserialize" in caplog.text


def test_287_an_unknown_signer_is_refused(app, worker, add, tmp_path, caplog):
    folders = tmp_path / "a", tmp_path / "b"
    for folder in folders:
        folder.mkdir()
    stranger, trusted = (Signer(folder, folder.name) for folder in folders)
    app.conf.update(stranger.settings())
    app.setup_security()
    by_stranger = dumps([[1, 1], {}, {}], "auth")[2]
    app.conf.update(trusted.settings(result_accept_content=["json"]))
    app.setup_security()
    worker.start()
    publish(app, by_stranger, "application/data", task="add", id="stranger")
    assert worker.finish(add.delay(3, 4)).get() == 7
    assert app.AsyncResult("stranger").state == "PENDING"
    assert "Unknown certificate" in caplog.text


def test_287_signed_is_not_encrypted(app, signer):
    import base64

    app.conf.update(signer.settings())
    app.setup_security()
    assert b'{"secret": 1}' in base64.b64decode(dumps({"secret": 1}, "auth")[2])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("forced", [False, True])
def test_288_root_and_pickle(tmp_path, forced):
    source = (
        "from celery import Celery\n"
        "app = Celery('proj', broker='memory://')\n"
        "app.conf.update(accept_content=['json', 'pickle'], broker_connection_timeout=1)\n"
        "from celery.signals import worker_ready\n"
        "@worker_ready.connect\n"
        "def end(sender, **kwargs):\n"
        "    raise SystemExit(7)\n"
    )
    (tmp_path / "proj.py").write_text(source)
    environment = {name: value for name, value in os.environ.items() if name != "C_FORCE_ROOT"}
    if forced:
        environment["C_FORCE_ROOT"] = "1"
    command = ["taskq", "--as-celery"] if os.environ["COMPAT_SIDE"] == "taskq" else ["celery"]
    done = subprocess.run(
        [sys.executable, "-m", *command, "-A", "proj", "worker", "-P", "solo"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env={**environment, "PYTHONPATH": str(tmp_path), "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert done.returncode == (7 if forced else 1), done.stdout + done.stderr
    if not forced:
        assert "C_FORCE_ROOT" in done.stdout + done.stderr


@pytest.mark.parametrize("missing", ["security_key", "security_certificate", "security_cert_store"])
def test_289_auth_needs_its_files(app, signer, missing):
    app.conf.update(signer.settings(**{missing: None}))
    with pytest.raises(ImproperlyConfigured, match=missing):
        app.setup_security()


@pytest.mark.parametrize(
    "change", [{"task_serializer": "json"}, {"accept_content": ["json", "auth"]}]
)
def test_289_auth_must_be_used_and_required(app, signer, change):
    app.conf.update(signer.settings(**change))
    with pytest.raises(ImproperlyConfigured, match="accept_content"):
        app.setup_security()


def test_289_auth_before_it_is_set_up(app, add):
    with pytest.raises(SerializerNotInstalled, match="auth"):
        add.apply_async((1, 2), serializer="auth")
