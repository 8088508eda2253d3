"""The Calling guide: ETA, countdown and expiry. Numbers 136 to 143."""

import logging
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from celery import signals
from celery.exceptions import TaskRevokedError

UTC = timezone.utc
VIENNA = ZoneInfo("Europe/Vienna")


def utc_now():
    return datetime.now(UTC)


def read(text):
    return datetime.fromisoformat(text)


@pytest.fixture
def nothing(app):
    @app.task(name="nothing")
    def nothing(): ...

    return nothing


@pytest.mark.parametrize("seconds", [60, 0.5, 3600.25])
def test_136_countdown_is_an_eta_from_now(nothing, sent, seconds):
    before = utc_now()
    nothing.apply_async(countdown=seconds)
    wait = timedelta(seconds=seconds)
    assert before + wait <= read(sent[0].headers["eta"]) <= utc_now() + wait


@pytest.mark.parametrize(
    ("now", "eta"),
    [
        # The clock goes forward over an hour that is not there, and back into one that is twice.
        (datetime(2026, 3, 29, 1, 30, tzinfo=VIENNA), "2026-03-29T03:30:00+02:00"),
        (datetime(2026, 10, 25, 2, 30, tzinfo=VIENNA), "2026-10-25T02:30:00+01:00"),
        (datetime(2026, 7, 1, 12, 0, tzinfo=VIENNA), "2026-07-01T13:00:00+02:00"),
    ],
)
def test_136_countdown_counts_elapsed_seconds(app, now, eta):
    message = app.amqp.as_task_v2("id", "name", countdown=3600, now=now)
    assert message.headers["eta"] == eta
    message = app.amqp.as_task_v2("id", "name", expires=3600, now=now)
    assert message.headers["expires"] == eta


def test_137_an_eta_is_sent_as_it_is(app, nothing, sent):
    app.conf.timezone = "Asia/Tokyo"
    naive = datetime(2040, 1, 2, 3, 4, 5, 678)
    aware = naive.replace(tzinfo=timezone(timedelta(hours=-5)))
    for eta in (naive, aware, aware.isoformat(), naive.isoformat()):
        nothing.apply_async(eta=eta)
    assert [message.headers["eta"] for message in sent] == [
        "2040-01-02T03:04:05.000678",
        "2040-01-02T03:04:05.000678-05:00",
        "2040-01-02T03:04:05.000678-05:00",
        "2040-01-02T03:04:05.000678",
    ]


@pytest.mark.parametrize("eta", [5, 2.5, timedelta(seconds=5), ["x"]])
def test_137_what_is_no_eta(nothing, sent, eta):
    with pytest.raises((AttributeError, TypeError, ValueError)):
        nothing.apply_async(eta=eta)
    assert sent == []


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Pacific/Pago_Pago"])
def test_137_a_worker_reads_a_naive_eta_as_utc(app, worker, zone):
    """In the first zone the one hour ahead would be past, in the second the past would be ahead."""
    app.conf.timezone = zone
    ran = []

    @app.task
    def note(name):
        ran.append(name)

    naive = utc_now().replace(tzinfo=None)
    note.apply_async(("ahead",), eta=naive + timedelta(hours=1))
    past = note.apply_async(("past",), eta=naive - timedelta(hours=1))
    worker.finish(past)
    assert ran == ["past"]


def test_138_countdown_wins_over_eta(nothing, sent):
    nothing.apply_async(countdown=60, eta=datetime(2040, 1, 1, tzinfo=UTC))
    assert read(sent[0].headers["eta"]) < utc_now() + timedelta(seconds=120)


def test_139_a_task_runs_no_earlier_than_its_eta(app, worker):
    ran = {}

    @app.task(bind=True)
    def note(self):
        ran[self.request.id] = utc_now()

    worker.start()
    etas = {}
    for wait in (0.3, 0.1):
        eta = utc_now() + timedelta(seconds=wait)
        etas[note.apply_async(eta=eta).id] = eta
    for id in etas:
        worker.finish(app.AsyncResult(id))
    assert all(ran[id] >= eta for id, eta in etas.items())
    assert list(ran) == list(reversed(etas))


def test_139_what_waits_for_its_eta_is_unacknowledged(app, worker, eventually):
    ran = []

    @app.task
    def note(name):
        ran.append(name)

    note.apply_async(("later",), countdown=3600, task_id="later")
    worker.finish(note.delay("now"))
    assert ran == ["now"]
    qos = worker.controller.consumer.task_consumer.channel.qos

    def held():
        return [
            message.headers["id"]
            for tag, message in list(qos._delivered.items())
            if tag not in qos._dirty
        ]

    eventually(lambda: held() == ["later"], "one message is held, the other acknowledged")


def test_140_expires_takes_seconds_and_moments(nothing, sent):
    moment = datetime(2040, 1, 2, tzinfo=timezone(timedelta(hours=3)))
    before = utc_now()
    nothing.apply_async(expires=120)
    nothing.apply_async(expires=0.5)
    nothing.apply_async(expires=moment)
    nothing.apply_async(expires=moment.isoformat())
    nothing.apply_async()
    first, second, third, fourth, fifth = (message.headers["expires"] for message in sent)
    for text, wait in ((first, 120), (second, 0.5)):
        assert timedelta(0) <= read(text) - before - timedelta(seconds=wait)
        assert read(text) <= utc_now() + timedelta(seconds=wait)
    assert third == fourth == moment.isoformat()
    assert fifth is None
    assert sent[0].properties["expiration"] == 120
    assert sent[1].properties["expiration"] == 0.5
    until = (moment - before).total_seconds()
    assert until - 60 < sent[2].properties["expiration"] <= until


def test_140_the_broker_is_told_in_milliseconds(app, nothing):
    nothing.apply_async(expires=90)
    with app.connection_for_read() as connection:
        message = connection.default_channel.basic_get("celery", no_ack=True)
    assert message.properties["expiration"] == "90000"


@pytest.mark.parametrize("expires", [-60, utc_now() - timedelta(seconds=60)])
def test_141_an_expiry_in_the_past_is_sent_with_a_warning(nothing, sent, caplog, expires):
    with caplog.at_level(logging.WARNING):
        nothing.apply_async(expires=expires, task_id="late")
    assert sent[0].properties["expiration"] == 0
    told = [each for each in caplog.records if "expiration date in the past" in each.getMessage()]
    assert [(each.levelname, "late" in each.getMessage()) for each in told] == [("WARNING", True)]


def test_142_an_expired_task_is_revoked(app, worker):
    ran, revoked = [], []

    @app.task
    def note():
        ran.append(1)

    @signals.task_revoked.connect
    def keep(sender, request, terminated, signum, expired, **kwargs):
        revoked.append((request.id, terminated, signum, expired))

    late = note.apply_async(expires=-1)
    worker.finish(late)
    assert late.state == "REVOKED"
    assert isinstance(late.result, TaskRevokedError)
    with pytest.raises(TaskRevokedError):
        late.get()
    assert revoked == [(late.id, False, None, True)]
    assert ran == []


def test_142_wherever_it_waits(app, worker, eventually):
    """Parked for its ETA, behind a rate limit, and in the queue before there is a worker."""
    ran = []

    @app.task(name="parked")
    def parked():
        ran.append("parked")

    @app.task(name="limited", rate_limit="4/s")
    def limited():
        ran.append("limited")

    end = utc_now() + timedelta(seconds=0.01)
    queued = parked.apply_async(expires=end)
    eventually(lambda: utc_now() > end, "the expiry")
    results = [queued, parked.apply_async(countdown=0.4, expires=0.2)]
    worker.start()
    worker.finish(limited.delay())
    results.append(limited.apply_async(expires=0.05))
    for result in results:
        worker.finish(result)
        assert result.state == "REVOKED"
        assert isinstance(result.result, TaskRevokedError)
    assert ran == ["limited"]


@pytest.mark.parametrize(
    ("zone", "offset"), [("Asia/Tokyo", "+09:00"), ("America/Caracas", "-04:00"), (None, "+00:00")]
)
def test_143_times_carry_the_offset_of_the_application(app, nothing, sent, zone, offset):
    app.conf.timezone = zone
    nothing.apply_async(countdown=60, expires=600)
    for header, wait in (("eta", 60), ("expires", 600)):
        text = sent[0].headers[header]
        assert text.endswith(offset)
        assert timedelta(0) <= utc_now() + timedelta(seconds=wait) - read(text)
