"""Starting a lab: as a Prefect flow where the workspace's server answers, and by itself where none does."""

from flows.ablate.lab import Lab
from flows.ablate.run import LabResult, plan_lab, run_lab
from flows.operate.server import configure, running_server
from infra.store.store import Store


def run_in_workspace(lab: Lab, store: Store, *, quiet: bool = False) -> LabResult:
    """Run a lab in a workspace; one whose trainings are all published is no flow run: to say so takes longer than to see it."""
    address = running_server(store)
    if address is not None:
        planned = plan_lab(lab, store)
        if planned.published < planned.trainings:
            configure(store, address)
            from flows.ablate.flow import run_lab_as_flow  # imports Prefect, which must be configured before

            return run_lab_as_flow(lab, store)
    return run_lab(lab, store, quiet=quiet)
