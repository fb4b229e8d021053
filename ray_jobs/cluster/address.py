"""Which Ray cluster to join, if any: found out before `ray.init`, which can hang for minutes where none answers."""

from __future__ import annotations

import os
import time

import grpc
from ray._private import services
from ray._private.gcs_utils import create_gcs_channel
from ray.core.generated.gcs_pb2 import GcsNodeInfo  # type: ignore[attr-defined]
from ray.core.generated.gcs_service_pb2 import GetAllNodeInfoRequest  # type: ignore[attr-defined]
from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub
from ray.exceptions import AuthenticationError

from data_tools.errors import InputError
from data_tools.progress import message
from ray_jobs.cluster.token import use_token_if_there

ANSWER_SECONDS = 10
"""How long a cluster may take to answer; a living one takes milliseconds."""

NODE_SECONDS = 5
"""How long to wait for a node that is just joining its cluster."""

TOKEN_ADVICE = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a copy of the ~/.ray/auth_token of its head"


def cluster_to_join() -> str | None:
    """The address of the cluster that RAY_ADDRESS names or that `ray start` left for this machine; None: start one.

    A cluster that nobody named and that cannot be used is told in one line and passed over.

    Raises:
        InputError: the cluster that was named cannot be used.
    """
    named = os.environ.get("RAY_ADDRESS", "")
    if named == "local":
        return None
    if named and named != "auto":
        if problem := problem_at(named):
            raise InputError(f"RAY_ADDRESS={named}: {problem}; unset RAY_ADDRESS to have a cluster started here")
        return named
    try:
        found = services.get_ray_address_from_environment("auto", None) if named else _last_started()
    except ConnectionError:
        raise InputError(
            "RAY_ADDRESS=auto: no Ray cluster runs on this machine; start one with `ray start --head`, or unset "
            "RAY_ADDRESS to have one started for this command"
        ) from None
    if not found:
        return None
    use_token_if_there()
    problem = problem_at(found)
    if problem and named:
        raise InputError(f"RAY_ADDRESS=auto, which is {found}: {problem}; unset RAY_ADDRESS to have a cluster started")
    if problem:
        message(f"passing over the Ray cluster at {found}: {problem}")
    return None if problem else str(found)


def problem_at(address: str) -> str | None:
    """Why this process cannot join the cluster at ``host:port``, in words; None where it can."""
    if "://" in address:  # runs need their driver on a node: Ray Train, the guard of a run
        return "expected host:port of its head, on one of its machines; from others, use `ray job submit`"
    host, _, port = address.rpartition(":")
    if not host or not (port.isdecimal() and 0 < int(port) < 65536):
        return "expected host:port of its head"
    deadline = time.monotonic() + NODE_SECONDS
    try:
        while not (living_nodes(address) & services.find_node_ids()):  # type: ignore[no-untyped-call]
            if time.monotonic() > deadline:
                return "none of its living nodes is on this machine; submit the command with `ray job submit`"
            time.sleep(0.5)
    except AuthenticationError as error:
        return f"no token for it: {str(error).split('. ')[0]}; {TOKEN_ADVICE}"
    except grpc.RpcError as error:
        if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            return f"it does not accept this command's token, or wants one; {TOKEN_ADVICE}"
        if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"no answer within {ANSWER_SECONDS} s"
        return f"no Ray cluster answers there ({str(error.details()).rsplit(': ', 1)[-1].rstrip(']')})"
    return None


def living_nodes(address: str) -> set[str]:
    """IDs of the cluster's nodes.

    Raises:
        grpc.RpcError: no answer, or a refusal.
        AuthenticationError: tokens are wanted here, and there is none.
    """
    channel = create_gcs_channel(address)
    try:
        service = NodeInfoGcsServiceStub(channel)  # type: ignore[no-untyped-call]
        reply = service.GetAllNodeInfo(GetAllNodeInfoRequest(), timeout=ANSWER_SECONDS)
    finally:
        channel.close()
    return {node.node_id.hex() for node in reply.node_info_list if node.state == GcsNodeInfo.ALIVE}


def _last_started() -> str | None:
    """What the last `ray start --head` wrote on this machine; it stays where a head was killed."""
    try:
        return services.find_bootstrap_address(None) or None
    except (OSError, UnicodeDecodeError):  # another user's
        return None
