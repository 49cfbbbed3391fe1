"""Hosts for tests: each has a network, a name and a view of the files of its own. A switch connects them.

Each is a process that holds the namespaces and waits for the end of its standard input. So nothing of them is left once
their processes have ended, whatever became of the test.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from brokers import Process
from uwsgi_server import wait_until

NAMESPACES = ["--net", "--uts", "--mount"]
COMMAND = 60.0


def refusal() -> str:
    """Why this machine cannot have such hosts; empty: it can."""
    if missing := [name for name in ("ip", "unshare", "nsenter") if shutil.which(name) is None]:
        return f"{', '.join(missing)} is not installed"
    tried = subprocess.run(
        ["unshare", *NAMESPACES, "ip", "link", "add", "name", "veth1", "type", "veth", "peer", "name", "veth2"],
        capture_output=True,
        text=True,
        timeout=COMMAND,
    )
    return tried.stderr.strip() or "refused" if tried.returncode else ""


class _Holder:
    """A process with namespaces of its own, in which it runs a shell script first."""

    def __init__(self, script: str, *arguments: str) -> None:
        command = ["unshare", *NAMESPACES, "sh", "-ec", f"{script}\necho ready; exec cat", "sh", *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], COMMAND)[0] or self._process.stdout.read(6) != b"ready\n":
            self.close()
            raise AssertionError(f"no namespaces: {command}")
        self.pid = self._process.pid
        self.namespace = os.readlink(f"/proc/{self.pid}/ns/net")

    def within(self, *command: str) -> list[str]:
        """The command that runs ``command`` in these namespaces."""
        return ["nsenter", "--target", str(self.pid), *NAMESPACES, "--", *command]

    def run(self, *command: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.within(*command), env=env, capture_output=True, text=True, timeout=COMMAND)

    def close(self) -> None:
        self._process.kill()
        self._process.wait(COMMAND)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class Host(_Holder):
    """One host. Its folder is read-only for it but for ``var``, and the folders of the others are empty for it.

    Args:
        name: Its name.
        address: Its address in the network.
        folder: Its folder, which has a folder ``var``.
        others: The folders of the other hosts.
    """

    def __init__(self, name: str, address: str, folder: Path, others: Sequence[Path]) -> None:
        super().__init__(
            'hostname "$1"; ip link set lo up\n'
            'mount --bind "$2" "$2"; mount --bind "$2/var" "$2/var"; mount --options remount,bind,ro "$2"\n'
            'shift 2; for other; do mount --types tmpfs --options ro none "$other"; done',
            name,
            str(folder),
            *map(str, others),
        )
        self.name, self.address, self.folder = name, address, folder
        self._started: list[Process] = []

    @property
    def var(self) -> Path:
        """What this host can write."""
        return self.folder / "var"

    def start(self, command: Sequence[str], env: Mapping[str, str], cwd: Path) -> Process:
        """Start a program of this host."""
        # A process that enters a namespace of files is at its root.
        entered = self.within("sh", "-c", 'cd "$0" && exec "$@"', str(cwd), *command)
        process = Process(entered, self.folder / "var" / "log", cwd=self.folder, env=dict(env))
        self._started.append(process)
        process.start()
        return process

    def log(self) -> str:
        return (self.var / "log").read_text(errors="replace")

    def close(self) -> None:
        for process in getattr(self, "_started", ()):
            process.kill()
        super().close()


class Network:
    """Hosts, each with a cable to a switch."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.hosts: dict[str, Host] = {}
        self._namespaces: list[str] = []
        self._folders = {name: folder / name for name in names}
        for one in self._folders.values():
            (one / "var").mkdir(parents=True)

    def __enter__(self) -> Network:
        self._switch = _Holder("ip link add switch type bridge; ip link set switch up")
        self._namespaces.append(self._switch.namespace)
        try:
            for number, (name, folder) in enumerate(self._folders.items(), 1):
                others = [other for other in self._folders.values() if other != folder]
                host = self.hosts[name] = Host(name, f"10.77.0.{number}", folder, others)
                self._namespaces.append(host.namespace)
                pair = ["type", "veth", "peer", "name", "eth0", "netns", str(host.pid)]
                self._ip(self._switch, "link", "add", "name", name, *pair)
                self._ip(self._switch, "link", "set", name, "master", "switch", "up")
                self._ip(host, "address", "add", f"{host.address}/24", "dev", "eth0")
                self._ip(host, "link", "set", "eth0", "up")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        wait_until(lambda: not self._namespaces_in_use(), message="a process of a host has survived")

    def close(self) -> None:
        for one in (*self.hosts.values(), self._switch):
            one.close()

    def cut(self, name: str) -> None:
        """Pull the cable of this host."""
        self._ip(self._switch, "link", "set", name, "down")

    def mend(self, name: str) -> None:
        self._ip(self._switch, "link", "set", name, "up")

    def _ip(self, where: _Holder, *words: str) -> None:
        done = where.run("ip", *words)
        assert done.returncode == 0, (words, done.stderr)

    def _namespaces_in_use(self) -> set[str]:
        found = set()
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    found.add(os.readlink(f"/proc/{name}/ns/net"))
                except OSError:
                    continue
        return found & set(self._namespaces)
