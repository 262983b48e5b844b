"""All that keeps Prefect running: server, worker, deployments, pools, automations, and what flow runs say there."""
