"""Finding weights: as a Prefect flow where the workspace's server answers, and by itself where none does."""

from flows.mix.run import Mixing, MixResult, run_mix
from flows.operate.server import configure, running_server
from infra.store.store import Store


def run_in_workspace(mixing: Mixing, store: Store, *, quiet: bool = False) -> MixResult:
    """Find the weights in a workspace."""
    address = running_server(store)
    if address is None:
        return run_mix(mixing, store, quiet=quiet)
    configure(store, address)
    from flows.mix.flow import run_mix_as_flow  # imports Prefect, which must be configured before

    return run_mix_as_flow(mixing, store)
