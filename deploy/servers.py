"""Local stand-ins for what a team has elsewhere: PostgreSQL, an S3 server, a Ray cluster.

Each is a context manager: it starts the server on a free loopback port with its files below
`folder`, yields how to reach it, and has stopped it when the block ends, however that ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

STARTUP_SEC = 90.0
STOP_SEC = 15.0
LOOK_SEC = 0.5  # between two looks whether a service has ended
BUCKET = "splats"
LIBC = ctypes.CDLL(None)  # loaded here: the child that uses it may be another user already
POSTGRES_PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*")


class UnavailableError(Exception):
    """Something is not installed, or does not start; one sentence that says what to do."""


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[dict[str, str]]:
    """A PostgreSQL server of one's own; yields the variables of deploy/dagster.yaml.

    The files stay in `folder` and are used again. PostgreSQL refuses to work as root, so as root
    it is started as the user `postgres`.
    """
    binaries = _postgres_binaries()
    user = "postgres" if os.getuid() == 0 else None
    data, password_file = folder / "postgres", folder / "postgres.password"
    folder.mkdir(parents=True, exist_ok=True)
    if not (data / "PG_VERSION").is_file():
        password_file.write_text(secrets.token_hex(16), encoding="utf-8")
        password_file.chmod(0o600)
        data.mkdir(mode=0o700, exist_ok=True)
        with tempfile.NamedTemporaryFile("w") as handed:
            handed.write(password_file.read_text(encoding="utf-8"))
            handed.flush()
            if user:
                shutil.chown(data, user, user)
                shutil.chown(handed.name, user, user)
            command: list[str | Path] = [
                binaries / "initdb",
                "-D",
                data,
                "-U",
                "dagster",
                "--auth=scram-sha-256",
            ]
            _run_as(user, *command, f"--pwfile={handed.name}", "-E", "UTF8", "--locale=C")
    port = free_port()
    command = [str(binaries / "postgres"), "-D", str(data), "-h", "127.0.0.1", "-p", str(port)]
    command += ["-c", "unix_socket_directories=", "-c", "max_connections=200"]
    with process(command, folder / "postgres.log", user=user, stop=signal.SIGINT) as server:
        wait_for(lambda: _listens(port), server, folder / "postgres.log", "PostgreSQL")
        yield {
            "DAGSTER_PG_HOST": "127.0.0.1",
            "DAGSTER_PG_PORT": str(port),
            "DAGSTER_PG_DB": "postgres",
            "DAGSTER_PG_USERNAME": "dagster",
            "DAGSTER_PG_PASSWORD": password_file.read_text(encoding="utf-8"),
        }


@contextlib.contextmanager
def s3(folder: Path) -> Iterator[dict[str, str]]:
    """moto's S3 server with one bucket, kept in memory; yields the variables of its clients."""
    if find_spec("moto") is None or find_spec("s3fs") is None:
        raise UnavailableError('The S3 server is not installed: pip install "splat-assets[deploy]"')
    port = free_port()
    log = folder / "s3.log"
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with process(command, log) as server:
        endpoint = f"http://127.0.0.1:{port}"
        wait_for(lambda: answers(endpoint + "/moto-api/"), server, log, "the S3 server")
        request = urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT")
        urllib.request.urlopen(request, timeout=20).close()
        yield {
            "SPLAT_ASSETS_DATA": f"s3://{BUCKET}/team",
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@contextlib.contextmanager
def ray(folder: Path, environment: Mapping[str, str], *, cpus: int = 2) -> Iterator[dict[str, str]]:
    """A Ray cluster of this host alone; its steps inherit `environment`."""
    executable = Path(sys.executable).with_name("ray")
    if find_spec("ray") is None or find_spec("dagster_ray") is None or not executable.exists():
        raise UnavailableError('Ray is not installed: pip install "splat-assets[ray]"')
    port, dashboard = free_port(), free_port()
    log = folder / "ray.log"
    # Ray puts sockets below it, whose paths must be short
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as scratch:
        import psutil

        memory = max(psutil.virtual_memory().total, 8 * 2**30)  # what steps may ask for together
        command: list[str | Path] = [
            executable,
            "start",
            "--head",
            "--block",
            "--disable-usage-stats",
        ]
        command += [f"--port={port}", f"--num-cpus={cpus}", f"--temp-dir={scratch}"]
        command += [f"--memory={memory}", f"--object-store-memory={100 * 2**20}"]
        # Ray takes 127.0.0.1 for "find my address", and would listen on the network
        loopback = "127.0.0.2" if sys.platform.startswith("linux") else "127.0.0.1"
        command += [f"--node-ip-address={loopback}", "--include-dashboard=true"]
        command += [f"--ray-client-server-port={free_port()}"]
        command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
        command += ["--dashboard-agent-listen-port", str(free_port())]
        variables = {
            **environment,
            # A step saves a checkpoint before it stops; Ray's own 3 s are too short for that.
            "RAY_JOB_STOP_WAIT_TIME_S": "10",
            "RAY_DISABLE_IMPORT_WARNING": "1",
        }
        with process(command, log, environment=variables) as server:
            address = f"http://127.0.0.1:{dashboard}"
            wait_for(lambda: answers(address + "/api/version"), server, log, "Ray")
            yield {"SPLAT_ASSETS_EXECUTOR": "ray", "RAY_API_SERVER_ADDRESS": address}


# --- processes ------------------------------------------------------------------------------------


@contextlib.contextmanager
def process(
    command: Sequence[str | Path],
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    user: str | None = None,
    stop: signal.Signals = signal.SIGTERM,
) -> Iterator[subprocess.Popen[bytes]]:
    """A server process in a session of its own; asked to stop, then killed, with its children."""
    with log.open("ab") as stream:
        started = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env=None if environment is None else dict(environment),
            cwd=cwd or ("/" if user else None),
            user=user,
            group=user,
            extra_groups=[] if user else None,
            start_new_session=True,
            preexec_fn=_prepare_child,
        )
    try:
        yield started
    finally:
        _stop(started, stop)


@contextlib.contextmanager
def service(
    command: Sequence[str | Path], log: Path, *, environment: Mapping[str, str], cwd: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """`process`, started again whenever it ends by itself, as a process manager would do.

    Yields the first of them.
    """
    stopping, started = threading.Event(), queue.Queue[subprocess.Popen[bytes]]()

    def keep() -> None:
        while not stopping.is_set():
            with process(command, log, environment=environment, cwd=cwd) as server:
                started.put(server)
                while server.poll() is None and not stopping.wait(LOOK_SEC):
                    pass
            stopping.wait(LOOK_SEC)

    # a thread that lives as long as the process: to the kernel, it is the parent of the process
    keeper = threading.Thread(target=keep, name=f"keeper of {log.stem}")
    keeper.start()
    try:
        yield started.get()
    finally:
        stopping.set()
        keeper.join()


def wait_for(
    ready: Callable[[], bool], server: subprocess.Popen[bytes], log: Path, what: str
) -> None:
    """Return when `ready`. `UnavailableError` with the end of the log when that does not come."""
    deadline = time.monotonic() + STARTUP_SEC
    while not ready():
        if server.poll() is not None or time.monotonic() > deadline:
            end = log.read_text(encoding="utf-8", errors="replace").strip()[-800:]
            raise UnavailableError(f"{what} did not start; {log} ends:\n{end}")
        time.sleep(0.2)


def answers(url: str) -> bool:
    """True when a GET succeeds."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _prepare_child() -> None:
    """Hear Ctrl-C, which a shell's background job ignores, and end with whoever started it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform.startswith("linux"):
        LIBC.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _stop(started: subprocess.Popen[bytes], ask: signal.Signals) -> None:
    import psutil

    family = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(started.pid).children(recursive=True)
    if started.poll() is None:
        started.send_signal(ask)
        with contextlib.suppress(subprocess.TimeoutExpired):
            started.wait(STOP_SEC)
    _, alive = psutil.wait_procs(family, timeout=3)
    for other in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            other.kill()
    if started.poll() is None:
        started.kill()
    started.wait()


def _postgres_binaries() -> Path:
    """The folder of initdb and postgres, the newest where there are several."""
    found = [Path(place).resolve().parent for place in [shutil.which("initdb")] if place]
    for pattern in POSTGRES_PLACES:
        found += sorted(Path("/").glob(pattern.removeprefix("/")), reverse=True)
    for folder in found:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise UnavailableError(
        "PostgreSQL's server is not installed: apt-get install postgresql (it need not run)."
    )


def _run_as(user: str | None, *command: str | Path) -> None:
    done = subprocess.run(
        [str(part) for part in command],
        user=user,
        group=user,
        extra_groups=[] if user else None,
        cwd="/",
        capture_output=True,
        text=True,
    )
    if done.returncode:
        lines = (done.stderr or done.stdout).strip()
        raise UnavailableError(
            f"{Path(command[0]).name} failed: {lines} (as root, PostgreSQL's files must lie in a "
            "folder that the user postgres can reach)."
        )
