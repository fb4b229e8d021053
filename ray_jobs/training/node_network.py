"""Connecting workers on several nodes through the network addresses that Ray uses."""

from __future__ import annotations

import os
import socket
import struct
import sys
from contextlib import suppress
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"


class NodeNetwork(TorchConfig):
    """Sets up the process groups with gloo on the right network interface.

    By default gloo uses the interface of the host name, which on many machines is 127.0.0.1 and unreachable for other
    nodes. A ``GLOO_SOCKET_IFNAME`` set by the user is kept.
    """

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _NodeNetworkBackend


class _NodeNetworkBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(_choose_interface)
        super().on_start(worker_group, backend_config)


def _choose_interface() -> None:
    name = interface_of(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    if name is not None:
        os.environ.setdefault(GLOO_INTERFACE, name)


def interface_of(address: str) -> str | None:
    """The network interface of this machine with this IPv4 address; None if it cannot be determined."""
    if sys.platform != "linux":
        return None
    from fcntl import ioctl

    get_address = 0x8915  # SIOCGIFADDR of linux/sockios.h: struct ifreq with the name in, a sockaddr_in at byte 16 out
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # an interface without an address
                found = ioctl(probe, get_address, struct.pack("256s", name.encode()))
                if socket.inet_ntoa(found[20:24]) == address:
                    return name
    return None
