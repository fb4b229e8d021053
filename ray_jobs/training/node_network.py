"""Workers on several nodes meet at the addresses by which Ray knows the nodes."""

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

    Left alone gloo takes the interface of the host's name, which on many machines is 127.0.0.1, so that other nodes
    cannot reach it. What is set by the user in ``GLOO_SOCKET_IFNAME`` stays.
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
    """The network interface of this machine that has an IPv4 address; None where none has, or it cannot be told."""
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
