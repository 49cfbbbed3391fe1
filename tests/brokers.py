"""Real brokers for tests: Redis and RabbitMQ from the distribution, each started on free ports as a child process."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from uwsgi_server import free_port, members_of_session, wait_until

STOP = 20.0


class Process:
    """A process that a test has started, in a session of its own, with its output in a file."""

    def __init__(self, command: Sequence[object], log: Path, *, cwd: Path, env: dict[str, str]) -> None:
        self._command = list(map(str, command))
        self._log, self._cwd, self.env = log, cwd, env
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._cwd, env=self.env, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def exited(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def signal(self, signum: int) -> None:
        """Send a signal to the process and all of its children."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signum)

    def kill(self) -> None:
        """Kill it and all processes of its session, as a power cut does: also those in groups of their own."""
        if self._process is None:
            return
        self.signal(signal.SIGKILL)
        self._process.wait(STOP)

        def is_over() -> bool:
            members = members_of_session(self.pid)
            for pid in members:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not members

        wait_until(is_over, message="processes of a killed session live on")
        self._process = None

    def stop(self) -> None:
        """Ask it to exit, and kill it if it does not."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP)
        self.kill()


class Broker(Process):
    """A broker."""

    #: Its URL for Celery.
    url: str

    def __init__(self, folder: Path, command: Sequence[object], port: int, env: dict[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(command, folder / "broker.log", cwd=folder, env={**os.environ, **env})
        self.port = port

    def is_ready(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            return self._answers(connection)
        return False

    def _answers(self, connection: socket.socket) -> bool:
        raise NotImplementedError

    def __enter__(self) -> Broker:
        self.start()
        try:
            wait_until(self.is_ready, timeout=90, message=lambda: self.log()[-4000:])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class Redis(Broker):
    """Redis, which keeps what it has confirmed if it is ``durable``."""

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        port = free_port()
        command = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
        disk = ["--appendonly", "yes", "--appendfsync", "always"] if durable else ["--appendonly", "no"]
        super().__init__(folder, [*command, *disk], port, {})
        self.url = f"redis://127.0.0.1:{port}/0"

    def _answers(self, connection: socket.socket) -> bool:
        connection.sendall(b"PING\r\n")
        return connection.recv(100).startswith(b"+PONG")  # while it loads its data, it says -LOADING


class RabbitMQ(Broker):
    """RabbitMQ, with an Erlang node and a port mapper of its own."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        env = {
            "HOME": str(folder),
            "RABBITMQ_NODENAME": f"t{port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "ERL_EPMD_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_LOGS": "-",
        }
        super().__init__(folder, ["/usr/lib/rabbitmq/bin/rabbitmq-server"], port, env)
        # Otherwise the node starts one as a daemon, which nobody would end.
        mapper = ["epmd", "-address", "127.0.0.1", "-port", env["ERL_EPMD_PORT"]]
        self._mapper = Process(mapper, folder / "epmd.log", cwd=folder, env=self.env)
        (folder / "rabbitmq.conf").write_text(
            "vm_memory_high_watermark.relative = 0.9\ndisk_free_limit.absolute = 1MB\n"
        )
        self.url = f"amqp://guest:guest@127.0.0.1:{port}//"

    def start(self) -> None:
        if self._mapper.exited:
            self._mapper.start()
            wait_until(self._is_mapped, timeout=60, message=self._mapper.log)
        super().start()

    def _is_mapped(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", int(self.env["ERL_EPMD_PORT"])), timeout=5):
            return True
        return False

    def __exit__(self, *_: object) -> None:
        try:
            super().__exit__()
        finally:
            self._mapper.kill()

    def _answers(self, connection: socket.socket) -> bool:
        connection.sendall(b"AMQP\x00\x00\x09\x01")
        return connection.recv(1) == b"\x01"  # the first method of the protocol


BROKERS = {"redis": Redis, "rabbitmq": RabbitMQ}


def is_installed(name: str) -> bool:
    """Whether the machine has this broker: ``apt-get install redis-server rabbitmq-server``."""
    found = shutil.which("redis-server" if name == "redis" else "/usr/lib/rabbitmq/bin/rabbitmq-server")
    assert found or os.environ.get("BROKER_TESTS") != "required", f"{name} is not installed"
    return found is not None


def restart(broker: Broker, pause: float = 0.0) -> None:
    """Kill the broker, and start it again with what it has on its disk."""
    broker.kill()
    time.sleep(pause)
    broker.__enter__()


class Wire:
    """A TCP connection to a broker that a test can cut, as a network does: nothing is refused, nothing arrives."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._is_whole = threading.Event()
        self._is_whole.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._is_closed = False

    def __enter__(self) -> Wire:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closed = True
        self._is_whole.set()
        self._listener.close()

    def cut(self) -> None:
        self._is_whole.clear()

    def mend(self) -> None:
        self._is_whole.set()

    def _accept(self) -> None:
        with suppress(OSError):
            while not self._is_closed:
                here, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(here,), daemon=True).start()

    def _connect(self, here: socket.socket) -> None:
        self._is_whole.wait(300)
        try:
            there = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            here.close()
            return
        for source, target in ((here, there), (there, here)):
            threading.Thread(target=self._carry, args=(source, target), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self._is_whole.wait(300)
                target.sendall(data)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
