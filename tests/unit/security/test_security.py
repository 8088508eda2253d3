"""Signed messages: keys and certificates, what is refused and why, and a worker that insists."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from compat.signers import Signer, pem_of_certificate, pem_of_key, rsa_key
from contract.workers import memory_app, serving
from cryptography.hazmat.primitives.asymmetric import ec
from kombu import Producer
from kombu.exceptions import SerializerNotInstalled
from kombu.serialization import dumps, loads, registry
from patience import PATIENCE_S

from taskq.exceptions import ImproperlyConfigured, SecurityError
from taskq.security import disable_untrusted_serializers, setup_security
from taskq.security.certificate import Certificate, CertStore, FSCertStore
from taskq.security.key import PrivateKey
from taskq.security.serialization import DEFAULT_SEPARATOR, SecureSerializer
from taskq.security.utils import get_digest_algorithm, reraise_errors


@pytest.fixture(autouse=True)
def fresh_serializers() -> Iterator[None]:
    """kombu's serializers are as they were."""
    kept = {
        name: value.copy() if isinstance(value, (dict, set)) else value
        for name, value in vars(registry).items()
    }
    yield
    vars(registry).update(kept)


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(tmp_path, "one")


def build(signer: Signer, *trusted: bytes, **options: Any) -> SecureSerializer:
    store = CertStore()
    for pem in trusted or (signer.certificate.read_bytes(),):
        store.add_cert(Certificate(pem))
    return SecureSerializer(
        PrivateKey(signer.key.read_bytes()),
        Certificate(signer.certificate.read_bytes()),
        store,
        **options,
    )


# -- keys, certificates, stores


def test_a_key_signs_and_its_certificate_verifies() -> None:
    certificate = Certificate(pem_of_certificate("one").decode())
    key = PrivateKey(pem_of_key(rsa_key("one")).decode())
    for digest in map(get_digest_algorithm, ("sha256", "SHA512")):
        signature = key.sign("data", digest)
        certificate.verify(b"data", signature, digest)
        with pytest.raises(SecurityError, match=r"changed on its way.*security_digest"):
            certificate.verify(b"date", signature, digest)
        with pytest.raises(SecurityError, match="Bad signature"):
            certificate.verify(b"data", signature, get_digest_algorithm("sha384"))
    assert certificate.get_issuer() == "Tests one"
    assert certificate.get_id() == f"Tests one {certificate.get_serial_number()}"
    assert certificate.get_pubkey().key_size == 2048
    assert not certificate.has_expired()
    assert Certificate(pem_of_certificate("one", expired=True)).has_expired()


@pytest.mark.parametrize("password", [b"secret", "secret"])
def test_an_encrypted_key(password: Any) -> None:
    pem = pem_of_key(rsa_key("one"), b"secret")
    assert len(PrivateKey(pem, password).sign("x", get_digest_algorithm())) == 256
    for wrong in (None, b"other"):
        with pytest.raises(SecurityError, match=r"Invalid private key.*security_key_password"):
            PrivateKey(pem, wrong)


def test_what_is_no_key_and_what_is_no_certificate() -> None:
    other_kind = ec.generate_private_key(ec.SECP256R1())
    for wrong_key in ("nonsense", b"", None, pem_of_certificate("one"), pem_of_key(other_kind)):
        with pytest.raises(SecurityError, match=r"Invalid private key.*expected the PEM text"):
            PrivateKey(wrong_key)  # type: ignore[arg-type]
    elliptic = pem_of_certificate("curve", other_kind)
    for wrong in ("nonsense", b"", None, pem_of_key(rsa_key("one")), elliptic):
        with pytest.raises(SecurityError, match=r"Invalid certificate.*expected the PEM text"):
            Certificate(wrong)  # type: ignore[arg-type]


def test_digests_are_named() -> None:
    assert get_digest_algorithm().name == "sha256"
    for wrong in ("md17", "HASH", None):
        with pytest.raises(ImproperlyConfigured, match=r"security_digest.*expected sha256"):
            get_digest_algorithm(wrong)  # type: ignore[arg-type]


def test_errors_become_security_errors() -> None:
    with pytest.raises(SecurityError, match="what 'x'"), reraise_errors("what {0}", (KeyError,)):
        raise KeyError("x")
    with pytest.raises(KeyError), reraise_errors():
        raise KeyError("x")


def test_a_store_knows_its_certificates_by_id() -> None:
    store, certificate = CertStore(), Certificate(pem_of_certificate("one"))
    store.add_cert(certificate)
    assert store[certificate.get_id()] is store[certificate.get_id().encode()] is certificate  # type: ignore[index]
    assert list(store.itercerts()) == [certificate]
    with pytest.raises(SecurityError, match="Duplicate certificate: 'Tests one "):
        store.add_cert(certificate)
    with pytest.raises(SecurityError, match=r"Unknown certificate: 'who'.*security_cert_store"):
        store["who"]


def test_a_store_of_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.pem").write_bytes(pem_of_certificate(name))
    for path in (tmp_path, tmp_path / "*.pem"):
        issuers = [each.get_issuer() for each in FSCertStore(str(path)).itercerts()]
        assert issuers == ["Tests one", "Tests two"]
    assert list(FSCertStore(str(tmp_path / "nowhere")).itercerts()) == []
    bad = tmp_path / "bad.pem"
    for text, said in (
        (b"nonsense", "Invalid certificate"),
        (pem_of_certificate("old", expired=True), "Expired certificate: 'Tests old"),
        ((tmp_path / "one.pem").read_bytes(), "Duplicate certificate"),
    ):
        bad.write_bytes(text)
        with pytest.raises(SecurityError, match=rf"{said}.*\(file .*\.pem\)"):
            FSCertStore(str(tmp_path))


# -- signed messages


@pytest.mark.parametrize("serializer", ["json", "yaml", "pickle", "msgpack"])
def test_there_and_back(signer: Signer, serializer: str) -> None:
    auth = build(signer, serializer=serializer)
    data = {"a": [1, "\x00\x01\x00\x01", None]}
    message = auth.serialize(data)
    assert isinstance(message, str)
    assert auth.deserialize(message) == auth.deserialize(message.encode()) == data


def changed(message: str, part: int, value: bytes) -> str:
    parts = base64.b64decode(message).split(DEFAULT_SEPARATOR, 4)
    parts[part] = value
    return base64.b64encode(DEFAULT_SEPARATOR.join(parts)).decode()


def test_what_is_refused(signer: Signer, tmp_path: Path) -> None:
    auth = build(signer)
    message = auth.serialize({"amount": 1})
    for part, value, said in (
        (4, b'{"amount": 2}', "Bad signature"),
        (1, base64.b64encode(b"x" * 256), "Bad signature"),
        (0, base64.b64encode(b"somebody"), "Unknown certificate: 'somebody'"),
        (0, b"abc", "is not a signed one"),
    ):
        with pytest.raises(SecurityError, match=f"Unable to deserialize: .*{said}"):
            auth.deserialize(changed(message, part, value))
    for nonsense in ("", "abc", base64.b64encode(b"hello").decode(), '{"a": 1}'):
        with pytest.raises(SecurityError, match="must use the serializer 'auth'"):
            auth.deserialize(nonsense)
    with pytest.raises(SecurityError, match="Unknown certificate: 'Tests one"):
        build(signer, pem_of_certificate("two")).deserialize(message)
    old = Signer(tmp_path, "old", expired=True)
    expired = build(old)
    with pytest.raises(SecurityError, match="Expired certificate: 'Tests old"):
        expired.deserialize(expired.serialize(1))


def test_what_cannot_be_written(signer: Signer) -> None:
    with pytest.raises(SecurityError, match="Unable to serialize: EncodeError"):
        build(signer).serialize(object())
    with pytest.raises(SecurityError, match="Unable to serialize: SerializerNotInstalled"):
        build(signer, serializer="nonsense").serialize(1)
    with pytest.raises(ImproperlyConfigured, match="security_key"):
        SecureSerializer().serialize(1)
    with pytest.raises(ImproperlyConfigured, match="security_cert_store"):
        SecureSerializer().deserialize("")


# -- an application that signs


def test_setup_wants_its_settings(signer: Signer) -> None:
    app = memory_app()
    for serializer, accept in (("json", ["auth"]), ("auth", ["json", "auth"]), ("auth", [])):
        app.conf.update(task_serializer=serializer, accept_content=accept)
        with pytest.raises(ImproperlyConfigured, match="accept_content"):
            app.setup_security()
    settings = signer.settings()
    for missing in ("security_key", "security_certificate", "security_cert_store"):
        app.conf.update(settings, **{missing: None})
        with pytest.raises(ImproperlyConfigured, match=missing):
            app.setup_security()
    app.conf.update(settings)
    with pytest.raises(FileNotFoundError, match="no such file"):
        app.setup_security(key="no such file")
    with pytest.raises(ImproperlyConfigured, match="security_digest"):
        app.setup_security(digest="nonsense")
    assert "auth" not in registry._encoders


def test_setup_registers_and_disables(signer: Signer) -> None:
    app = memory_app(**signer.settings(accept_content=("application/data",)))
    for _ in range(2):
        app.setup_security()
        assert dumps(1)[:2] == ("application/data", "utf-8")
        assert loads(dumps(1)[2], "application/data", "utf-8") == 1
        assert "application/json" in registry._disabled_content_types
    app.setup_security(allowed_serializers=["json"], serializer="pickle", digest="sha512")
    assert "application/json" not in registry._disabled_content_types
    assert "application/x-yaml" in registry._disabled_content_types
    disable_untrusted_serializers(["yaml"])
    assert "application/x-yaml" not in registry._disabled_content_types


def test_setup_of_the_current_application(tmp_path: Path) -> None:
    signer = Signer(tmp_path, "one", password=b"secret")
    app = memory_app(**signer.settings(security_key_password=b"secret", security_digest="sha384"))
    app.set_current()
    setup_security()
    kept = registry._encoders["auth"].encoder.__self__
    assert kept._digest.name == "sha384"


def test_the_serializer_says_what_to_do_when_it_is_not_set_up() -> None:
    with pytest.raises(SerializerNotInstalled, match=r"app\.setup_security\(\)"):
        memory_app(task_serializer="auth").send_task("any")


def test_without_the_package_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from taskq import App\n"
        "from taskq.exceptions import ImproperlyConfigured\n"
        "try: App('x', set_as_current=False).setup_security()\n"
        "except ImproperlyConfigured as exc: print(exc)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install \"taskq[auth]\"" in done.stdout


def test_a_worker_runs_what_is_signed_and_lives_on(
    signer: Signer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = memory_app(**signer.settings(result_serializer="auth", result_accept_content=["auth"]))
    app.setup_security()

    @app.task(name="signed.add")
    def add(x: int, y: int) -> int:
        return x + y

    good = dumps([[1, 1], {}, {}], "auth")[2]
    stranger = build(Signer(tmp_path, "stranger")).serialize([[1, 1], {}, {}])
    (tmp_path / "stranger.pem").unlink()
    refused = {
        "Bad signature": changed(good, 4, b"[[6, 6], {}, {}]"),
        "Unknown certificate: 'Tests stranger": stranger,
        "is not a signed one": base64.b64encode(b"nobody").decode(),
    }
    with serving(app), app.connection_for_write() as connection:
        producer = Producer(connection.default_channel)
        for said, body in refused.items():
            producer.publish(
                body, routing_key="celery", content_type="application/data",
                content_encoding="utf-8", headers={"task": "signed.add", "id": said},
            )  # fmt: skip
            assert add.delay(2, 2).get(timeout=PATIENCE_S) == 4
            assert said in caplog.text
        plain = {"task": "signed.add", "id": "plain"}
        producer.publish([[1, 1], {}, {}], routing_key="celery", serializer="json", headers=plain)
        assert add.delay(3, 3).get(timeout=PATIENCE_S) == 6
        assert "Refusing to deserialize untrusted content of type json" in caplog.text
    assert caplog.text.count("acknowledged and discarded") == len(refused)


def test_setup_says_which_file_is_missing(signer: Signer, tmp_path: Path) -> None:
    for setting in ("security_key", "security_certificate"):
        app = memory_app(**signer.settings(**{setting: str(tmp_path / "none.pem")}))
        with pytest.raises(FileNotFoundError, match=f"the file that {setting} names") as caught:
            app.setup_security()
        assert caught.value.filename == str(tmp_path / "none.pem")


def test_a_certificate_of_another_key(signer: Signer, tmp_path: Path) -> None:
    other = Signer(tmp_path, "two")
    app = memory_app(**signer.settings(security_key=str(other.key)))
    with pytest.raises(SecurityError, match=r"\(security_certificate\) do not belong together"):
        app.setup_security()


def test_a_store_without_certificates_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    FSCertStore(str(tmp_path / "*.pem"))
    assert "every signed message will be refused" in caplog.text
    assert f"{tmp_path}/*.pem" in caplog.text
