"""Notices of the machine's owner, from a metadata server on loopback that speaks as Compute Engine's does."""

import http.server
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import command, finish, settings, write_config

from pretrainx.train.guards import maintenance
from pretrainx.train.guards.signals import Signals


class Server(http.server.BaseHTTPRequestHandler):
    """Answers as `answers` says; refuses who does not send the header that a web page cannot send."""

    answers: dict[str, tuple[int, bytes]]
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        code, body = self.answers.get(self.path.removeprefix("/computeMetadata/v1/instance/"), (404, b""))
        if self.headers.get("Metadata-Flavor") != "Google":
            code, body = 403, b"Forbidden"
        self.send_response(code)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Server]]:
    class Here(Server):
        answers = {"maintenance-event": (200, b"NONE"), "preempted": (200, b"FALSE")}  # noqa: RUF012
        asked: list[str] = []  # noqa: RUF012

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Here) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        monkeypatch.setenv(maintenance.HOST_VARIABLE, f"127.0.0.1:{found.server_port}")
        yield Here
        found.shutdown()


@pytest.mark.parametrize(
    ("answers", "wanted"),
    [
        ({}, ""),
        ({"maintenance-event": (200, b"TERMINATE_ON_HOST_MAINTENANCE\n")}, "maintenance-event TERMINATE_ON_HOST_MAINTENANCE"),
        ({"preempted": (200, b"TRUE")}, "preempted TRUE"),
        ({"maintenance-event": (200, b"MIGRATE_ON_HOST_MAINTENANCE")}, ""),  # it goes on, after a pause
        ({"maintenance-event": (503, b"busy"), "preempted": (404, b"")}, ""),
        ({"maintenance-event": (200, b"")}, ""),
    ],
)
def test_notices(server: type[Server], answers: dict[str, tuple[int, bytes]], wanted: str) -> None:
    server.answers |= answers
    assert maintenance.notice(maintenance.server()) == wanted


def test_an_endless_answer_is_bounded(server: type[Server]) -> None:
    server.answers["maintenance-event"] = (200, b"x" * 100_000)
    assert len(maintenance.notice(maintenance.server())) < 200


def test_nobody_there_is_no_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(maintenance.HOST_VARIABLE, "127.0.0.1:9")
    assert maintenance.notice(maintenance.server()) == ""


def test_off_where_the_machine_is_no_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(maintenance.HOST_VARIABLE, raising=False)
    for product, wanted in (("Google Compute Engine\n", maintenance.HOST), ("Some Laptop\n", "")):
        (tmp_path / "product_name").write_text(product)
        monkeypatch.setattr(maintenance, "PRODUCT", tmp_path / "product_name")
        assert maintenance.server() == wanted
    before = threading.active_count()
    with maintenance.watched(lambda why: None):
        assert threading.active_count() == before


def test_a_notice_asks_as_a_signal_does(server: type[Server]) -> None:
    signals = Signals()
    with maintenance.watched(signals.ask, every_s=0.01):
        while len(server.asked) < 6:
            time.sleep(0.01)
        assert not signals.agreed()
        server.answers["preempted"] = (200, b"TRUE")
        while not signals.agreed():
            time.sleep(0.01)
    assert signals.caught == "preempted TRUE"
    signals.ask("again")
    signals.caught = "SIGTERM"
    signals.ask("later")
    assert signals.caught == "SIGTERM"
    with signals, pytest.raises(Exception, match="second signal"):  # after a notice a signal is a second one
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.slow
def test_a_real_run_saves_and_exits_with_75(cache_dir: Path, tmp_path: Path, server: type[Server]) -> None:
    server.answers["maintenance-event"] = (200, b"TERMINATE_ON_HOST_MAINTENANCE")
    config = write_config(tmp_path / "tiny.py", settings(cache_dir, model={"num_layers": 1}, train={"steps": 100_000}))
    said = finish(command(f"--config={config}", f"--workdir={tmp_path / 'run'}"), code=75)["stderr"]
    assert "notice of the machine: maintenance-event TERMINATE_ON_HOST_MAINTENANCE; saving and stopping" in said
    assert said.splitlines()[-1].startswith("interrupted: maintenance-event TERMINATE_ON_HOST_MAINTENANCE at step ")
