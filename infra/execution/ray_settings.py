"""What a Ray cluster is told: by a recipe, and by the environment of whoever starts one. Known without Ray."""

from pydantic import Field

from infra.config import Config

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # A Ray of our own: its workers are the run, and with Ray's niceness of 15 they wait for everything else.
    "RAY_worker_niceness": "0",
    # A node whose cable is cut sends no FIN. What was sent to it must be acknowledged within 20 s instead of two minutes, in
    # which Ray asks no other node for a worker either. Ray's servers take more than a ping a minute for an attack.
    "RAY_grpc_client_keepalive_timeout_ms": "20000",
    "RAY_grpc_client_keepalive_time_ms": "90000",
}
"""Ray's own settings, read when its library starts; values of the user stay."""


class RaySettings(Config):
    """Where the cluster is, and what a unit takes of it."""

    address: str = Field("", max_length=500)
    """``host:port`` of the cluster's head, or ``auto`` on one of its nodes. Empty: a Ray of its own on this machine."""
    cpus_per_unit: float = Field(1.0, gt=0, le=1024)
    """Cores of a node that one unit takes."""
    scratch: str = Field("", max_length=500)
    """A folder on each node's own disk for temporary files. Empty: the node's temporary folder."""
