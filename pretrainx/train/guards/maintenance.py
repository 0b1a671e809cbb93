"""Notices of the machine's owner: a virtual machine of Google Compute Engine (every TPU host is one) is told before it is stopped or moved.

The metadata server answers the path `instance/maintenance-event` with NONE until then, and `instance/preempted` with FALSE
(cloud.google.com/compute/docs/metadata/getting-live-migration-notice). A thread asks now and then; elsewhere there is none.
"""

import contextlib
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from pretrainx.core.logs import log

PRODUCT = Path("/sys/class/dmi/id/product_name")
HOST_VARIABLE = "GCE_METADATA_HOST"  # as Google's own libraries read it; here it also says that there is a server
HOST = "metadata.google.internal"
# Answers that ask for nothing. A machine that is moved while it runs only pauses; one with a TPU or GPU is never moved, but terminated.
QUIET = {"instance/maintenance-event": ("NONE", "MIGRATE_ON_HOST_MAINTENANCE"), "instance/preempted": ("FALSE",)}
EVERY_S, TIMEOUT_S = 10.0, 5.0  # notice is given 60 s before and more; 30 s of a preemption
MAX_BYTES = 1000  # of an answer


def server() -> str:
    """The metadata server of this machine, "" where it is none of Compute Engine's."""
    if host := os.environ.get(HOST_VARIABLE):
        return host
    with contextlib.suppress(OSError):
        if "Google" in PRODUCT.read_text():
            return HOST
    return ""


def notice(host: str) -> str:
    """What is announced, such as "maintenance-event TERMINATE_ON_HOST_MAINTENANCE"; "" if nothing, or nobody answers."""
    for path, quiet in QUIET.items():
        request = urllib.request.Request(f"http://{host}/computeMetadata/v1/{path}", headers={"Metadata-Flavor": "Google"})
        # No proxy: the server is the machine's own, and a proxy would answer for another.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=TIMEOUT_S) as response:
                answer = response.read(MAX_BYTES).decode(errors="replace").strip()
        except (OSError, ValueError, urllib.error.URLError):
            continue
        if answer and answer not in quiet:
            return f"{path.rpartition('/')[2]} {' '.join(answer.split())[:80]}"
    return ""


@contextlib.contextmanager
def watched(ask: Callable[[str], None], every_s: float = EVERY_S) -> Iterator[None]:
    """Inside it, the first notice is handed to `ask`, which stops the run as a signal would."""
    host, over = server(), threading.Event()
    if not host:
        yield
        return

    def poll() -> None:
        while not over.is_set():
            if found := notice(host):
                log(f"notice of the machine: {found}; saving and stopping")
                ask(found)
                return
            over.wait(every_s)

    thread = threading.Thread(target=poll, name="maintenance", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
