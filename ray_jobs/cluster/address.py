"""Which Ray cluster to join, if any. Checked before `ray.init`, which can hang for minutes if none answers."""

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
"""How long a cluster may take to answer; a running one takes milliseconds."""

NODE_SECONDS = 5
"""How long to wait for a node that is still joining its cluster."""

TOKEN_ADVICE = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a copy of the ~/.ray/auth_token of its head"


def cluster_to_join() -> str | None:
    """The address of the cluster in RAY_ADDRESS, or of the one recorded by `ray start` here; None: start one.

    A recorded cluster that cannot be used is ignored with one line.

    Raises:
        InputError: the cluster in RAY_ADDRESS cannot be used.
    """
    named = os.environ.get("RAY_ADDRESS", "")
    if named == "local":
        return None
    if named and named != "auto":
        if problem := problem_at(named):
            raise InputError(f"RAY_ADDRESS={named}: {problem}; unset RAY_ADDRESS to start a cluster here")
        return named
    try:
        found = services.get_ray_address_from_environment("auto", None) if named else _last_started()
    except ConnectionError:
        raise InputError(
            "RAY_ADDRESS=auto: no Ray cluster runs on this machine; start one with `ray start --head`, or unset "
            "RAY_ADDRESS to start one for this command"
        ) from None
    if not found:
        return None
    use_token_if_there()
    problem = problem_at(found)
    if problem and named:
        raise InputError(f"RAY_ADDRESS=auto ({found}): {problem}; unset RAY_ADDRESS to start a cluster here")
    if problem:
        message(f"ignoring the Ray cluster at {found}: {problem}")
    return None if problem else str(found)


def problem_at(address: str) -> str | None:
    """Why this process cannot join the cluster at ``host:port``; None if it can."""
    if "://" in address:  # runs need their driver on a node: Ray Train, the guard of a run
        return "expected host:port of the head, on one of the cluster's machines; elsewhere, use `ray job submit`"
    host, _, port = address.rpartition(":")
    if not host or not (port.isdecimal() and 0 < int(port) < 65536):
        return "expected host:port of the head"
    deadline = time.monotonic() + NODE_SECONDS
    try:
        while not (living_nodes(address) & services.find_node_ids()):  # type: ignore[no-untyped-call]
            if time.monotonic() > deadline:
                return "this machine is not one of its running nodes; submit the command with `ray job submit`"
            time.sleep(0.5)
    except AuthenticationError as error:
        return f"no token: {str(error).split('. ')[0]}; {TOKEN_ADVICE}"
    except grpc.RpcError as error:
        if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            return f"it requires a token, or does not accept this command's token; {TOKEN_ADVICE}"
        if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"no answer within {ANSWER_SECONDS} s"
        return f"no Ray cluster answers there ({str(error.details()).rsplit(': ', 1)[-1].rstrip(']')})"
    return None


def living_nodes(address: str) -> set[str]:
    """IDs of the cluster's running nodes.

    Raises:
        grpc.RpcError: the cluster does not answer, or refuses.
        AuthenticationError: a token is required, but there is none.
    """
    channel = create_gcs_channel(address)
    try:
        service = NodeInfoGcsServiceStub(channel)  # type: ignore[no-untyped-call]
        reply = service.GetAllNodeInfo(GetAllNodeInfoRequest(), timeout=ANSWER_SECONDS)
    finally:
        channel.close()
    return {node.node_id.hex() for node in reply.node_info_list if node.state == GcsNodeInfo.ALIVE}


def _last_started() -> str | None:
    """The address recorded by the last `ray start --head` on this machine; it remains if the head was killed."""
    try:
        return services.find_bootstrap_address(None) or None
    except (OSError, UnicodeDecodeError):  # another user's
        return None
