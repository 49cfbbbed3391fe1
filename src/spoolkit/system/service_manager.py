"""How does a process say to systemd what it does? By datagrams, as sd_notify(3) describes."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


@dataclass(frozen=True)
class ServiceManager:
    """The service manager that has started this process."""

    #: The path of its socket; an abstract one begins with ``@``.
    address: str
    #: Seconds within which it must hear from this process again; ``None``: it does not watch.
    watchdog: float | None = None

    @classmethod
    def take(cls) -> ServiceManager | None:
        """Return the one that the environment names, ``None`` if it names none, and remove the names from there.

        They are meant for this process, and not for programs that its jobs start.
        """
        address, microseconds, pid = (os.environ.pop(name, "") for name in VARIABLES)
        if not address.startswith(("/", "@")):
            return None
        is_watched = microseconds.isdigit() and int(microseconds) and pid in ("", str(os.getpid()))
        return cls(address, int(microseconds) / 1e6 if is_watched else None)

    def send(self, *assignments: str) -> bool:
        """Send assignments such as ``READY=1``. Returns whether they were sent: they are not if nobody reads them."""
        address = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.sendto("\n".join(assignments).encode(), socket.MSG_DONTWAIT, address)
        except OSError:
            return False
        return True
