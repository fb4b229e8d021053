"""Network namespaces for clusters on one machine whose nodes have their own addresses."""

from __future__ import annotations

import secrets
import subprocess
from dataclasses import dataclass

import pytest


@dataclass(frozen=True, slots=True)
class Namespace:
    """One machine of the tests' network: its own interfaces, `eth0` with ``address``, and nothing of the host's."""

    name: str
    address: str

    @property
    def prefix(self) -> list[str]:
        """The command prefix that runs a command inside."""
        return ["ip", "netns", "exec", self.name]


class Network:
    """Namespaces joined by a bridge, which is in another namespace: the host's own interfaces are not touched.

    Names are drawn anew each time; ``close`` removes all of them, and with them every interface.
    """

    def __init__(self) -> None:
        self._prefix = f"ccvid-{secrets.token_hex(3)}"
        self._names: list[str] = []
        try:
            self._bridge = self._add("bridge")
            _ip("-n", self._bridge, "link", "add", "bridge", "type", "bridge")
            _ip("-n", self._bridge, "link", "set", "bridge", "up")
        except (OSError, subprocess.CalledProcessError) as error:
            self.close()
            output = getattr(error, "stderr", None) or error
            pytest.skip(f"this machine allows no network namespaces: {str(output).strip()}")

    def add(self) -> Namespace:
        """Add a machine, at 10.77.0.1, 10.77.0.2, …"""
        number = len(self._names)
        name, port, address = self._add(str(number)), f"port{number}", f"10.77.0.{number}"
        _ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", self._bridge)
        _ip("-n", self._bridge, "link", "set", port, "master", "bridge", "up")
        _ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
        for interface in ("lo", "eth0"):
            _ip("-n", name, "link", "set", interface, "up")
        # Programs find their own address from the route to a distant one.
        _ip("-n", name, "route", "add", "default", "dev", "eth0")
        return Namespace(name, address)

    def close(self) -> None:
        """Remove all; their processes must have ended."""
        for name in self._names:
            _ip("netns", "delete", name)
        self._names = []

    def _add(self, name: str) -> str:
        full = f"{self._prefix}-{name}"
        _ip("netns", "add", full)
        self._names.append(full)
        return full


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
