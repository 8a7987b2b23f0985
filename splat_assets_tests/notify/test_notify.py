"""Notifications: signed, repeated until accepted, never lost and recognisable by their id."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import dagster as dg
import pytest

from splat_assets.definitions import build_defs
from splat_assets.defs.notifications import (
    OVERLAP_SEC,
    Told,
    ended_runs,
    notifications_of,
    post_ended,
)
from splat_assets.errors import UserError
from splat_assets.notify.deliver import sign
from splat_assets.notify.message import Notification
from splat_assets.notify.outbox import FIRST_PAUSE_SEC, FOLDER, MAX_AGE_SEC, Outbox
from splat_assets.notify.settings import NotifySettings, load_notify_settings
from splat_assets_tests.defs.test_graph import Graph

SECRET = "HOOK_SECRET"


class Receiver:
    """A webhook on loopback that answers what it is told to."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.requests.append(({k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(receiver.answers.pop(0) if receiver.answers else 200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    thread = threading.Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield found
    found.server.shutdown()
    thread.join()
    found.server.server_close()


def note(kind: str = "failure", dataset: str = "garden", id_: str = "run-1") -> Notification:
    return Notification(
        id_,
        kind,
        dataset,
        "run-1",
        "reconstruct",
        "It failed.",
        time.time(),
        ["poses: blurred"],  # type: ignore[arg-type]
    )


def hook(url: str, **values: object) -> NotifySettings:
    return NotifySettings(channels={"team": {"webhook": url, **values}})  # type: ignore[dict-item]


def test_webhook_is_signed_and_sent_once(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECRET, "top secret")
    outbox, settings = Outbox(tmp_path / "outbox"), hook(receiver.url, secret=SECRET)
    assert outbox.post(note(), settings) == 1
    assert outbox.send_due(settings).sent == 1
    ((headers, body),) = receiver.requests
    assert json.loads(body)["details"] == ["poses: blurred"]
    assert headers["webhook-id"] == "run-1"
    stamp = int(headers["webhook-timestamp"])
    assert abs(stamp - time.time()) < 60
    assert headers["webhook-signature"] == sign("top secret", "run-1", stamp, body)
    assert outbox.post(note(), settings) == 0  # told already
    assert outbox.send_due(settings).sent == 0 and len(receiver.requests) == 1


def test_signature_of_the_standard_webhooks_example() -> None:
    """The example of the specification's reference libraries."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == expected


def test_busy_receiver_is_asked_again_with_growing_pauses_also_after_a_restart(
    receiver: Receiver, tmp_path: Path
) -> None:
    settings = hook(receiver.url)
    receiver.answers = [503, 429]
    Outbox(tmp_path).post(note(), settings)
    now = time.time()
    assert Outbox(tmp_path).send_due(settings, now=now).waiting == 1
    Outbox(tmp_path).send_due(settings, now=now + 0.9 * FIRST_PAUSE_SEC)
    assert len(receiver.requests) == 1  # not yet
    now += 1.1 * FIRST_PAUSE_SEC
    assert Outbox(tmp_path).send_due(settings, now=now).waiting == 1
    Outbox(tmp_path).send_due(settings, now=now + 1.5 * FIRST_PAUSE_SEC)
    assert len(receiver.requests) == 2
    assert Outbox(tmp_path).send_due(settings, now=now + 2.1 * FIRST_PAUSE_SEC).sent == 1
    assert [h["webhook-id"] for h, _ in receiver.requests] == ["run-1"] * 3


def test_nobody_listens_then_given_up_in_the_end(tmp_path: Path) -> None:
    settings = hook("http://127.0.0.1:9/hook")
    outbox = Outbox(tmp_path)
    outbox.post(note(), settings)
    assert outbox.send_due(settings).waiting == 1
    done = outbox.send_due(settings, now=time.time() + MAX_AGE_SEC + 10)
    assert done.waiting == 0 and "does not answer" in done.given_up[0]


@pytest.mark.parametrize(("answer", "variable"), [(404, None), (200, "NOT_SET")])
def test_a_refusal_or_a_missing_secret_is_told_and_not_repeated(
    receiver: Receiver, tmp_path: Path, answer: int, variable: str | None
) -> None:
    receiver.answers = [answer]
    settings = hook(receiver.url, secret=variable)
    outbox = Outbox(tmp_path)
    outbox.post(note(), settings)
    done = outbox.send_due(settings)
    assert done.waiting == 0 and len(done.given_up) == 1
    assert ("404" if variable is None else "NOT_SET") in done.given_up[0]


def test_channels_choose_datasets_and_events(tmp_path: Path) -> None:
    settings = hook("http://x.org/", datasets=["lerobot--*"], events=["success"])
    outbox = Outbox(tmp_path)
    assert outbox.post(note("failure", "lerobot--pick"), settings) == 0
    assert outbox.post(note("success", "garden"), settings) == 0
    assert outbox.post(note("success", "lerobot--pick"), settings) == 1


def test_mail_arrives(tmp_path: Path) -> None:
    with MailServer() as server:
        settings = NotifySettings(
            channels={"me": {"email": ["me@example.org"]}},  # type: ignore[dict-item]
            smtp={  # type: ignore[arg-type]
                "host": "127.0.0.1",
                "port": server.server_address[1],
                "security": "none",
                "sender": "splats@example.org",
            },
        )
        outbox = Outbox(tmp_path)
        outbox.post(note(), settings)
        assert outbox.send_due(settings).sent == 1
    assert "Subject: [splat-assets] garden failed" in server.received
    assert "- poses: blurred" in server.received and "<run-1@splat-assets>" in server.received


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("channels: [", "is not valid YAML"),
        ("channels: {a: {events: [failure]}}", "either `webhook` or `email`"),
        ("channels: {a: {email: [x@y.z]}}", "need the mail server under `smtp`"),
        ("chanels: {}", "there is no option 'chanels'"),
    ],
)
def test_bad_settings_are_a_sentence(tmp_path: Path, text: str, complaint: str) -> None:
    assert load_notify_settings(tmp_path).channels == {}
    (tmp_path / "notify.yaml").write_text(text)
    with pytest.raises(UserError, match=complaint):
        load_notify_settings(tmp_path)


def test_what_is_told_of_a_run(tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path / "instance")) as instance:
        graph = Graph(tmp_path / "data", instance)
        graph.add("good", "ratio=3")
        graph.add("bad", "fail=source")
        told = {}
        for name, assets in (("good", ()), ("bad", ("raw_dataset",))):
            run = instance.get_run_by_id(graph.run(name, *assets).run_id)
            assert run is not None
            told[name] = notifications_of(instance, run)
            assert [n.id for n in told[name]] == [n.id for n in notifications_of(instance, run)]
    gate, done = told["good"]
    assert (gate.kind, done.kind) == ("gate_failed", "success")
    assert gate.details[0].startswith("compression_ratio: 3.0 times smaller")
    assert done.figures["psnr_db"] == 25.0 and done.dataset == "good"
    (failure,) = told["bad"]
    assert failure.kind == "failure"
    assert failure.details == ["raw_dataset: The folder /pictures is empty; put photos in it."]


def test_every_run_is_told_of_once_whatever_ticks_are_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPLAT_ASSETS_DATA", str(tmp_path / "data"))
    outbox = Outbox(tmp_path / "data" / FOLDER)

    def posted() -> int:
        return len(list(outbox.folder.glob("*.json")))

    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path / "instance")) as instance:
        job = build_defs().resolve_job_def("reconstruct")
        began = time.time()
        nobody, told = NotifySettings(), Told.parse(None, began)

        def end_run(change: str) -> None:
            run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
            getattr(instance, change)(run)

        def tick(settings: NotifySettings, told: Told, later: float) -> tuple[int, Told]:
            new, told = post_ended(instance, settings, told, began + later)
            return new, Told.parse(told.to_json(), 0.0)

        end_run("report_run_failed")
        assert tick(nobody, told, 10) == (0, Told(began + 10))  # not told later on either
        settings = NotifySettings.model_validate(
            {"channels": {"all": {"webhook": "http://127.0.0.1:9", "events": ["failure"]}}}
        )
        _, told = tick(settings, told, 10)
        assert posted() == 1
        for name in ("report_run_failed", "report_run_canceled"):
            end_run(name)
        assert tick(settings, told, 0.5)[0] == 0  # may be tried again: that is noted in a moment
        new, later = tick(settings, told, 12)
        assert new == 1 and posted() == 2
        assert tick(settings, later, 13)[0] == 0 and tick(settings, later, 4000)[0] == 0
        assert tick(settings, told, 13)[0] == 0  # a tick whose cursor was lost
        after = time.time()
        for run in instance.get_runs():
            instance.add_run_tags(run.run_id, {"looked": "at"})
        assert not list(ended_runs(instance, Told(after + OVERLAP_SEC), began + 100))


class MailServer(socketserver.ThreadingTCPServer):
    """As much of SMTP as one message needs."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Mail)
        self.received = ""
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}).start()

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Mail(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self._say("220 here")
        while line := self.rfile.readline():
            verb = line[:4].upper()
            if verb == b"DATA":
                self._say("354 go on")
                while (text := self.rfile.readline()) != b".\r\n":
                    self.server.received += text.decode()  # type: ignore[attr-defined]
            self._say("221 bye" if verb == b"QUIT" else "250 fine")

    def _say(self, text: str) -> None:
        self.wfile.write(text.encode() + b"\r\n")
