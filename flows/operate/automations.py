"""Automations on a self-hosted Prefect server: what it does by itself when a run fails or falls silent.

* ``headwater: silent runs`` (zombie detection). A flow run sends a heartbeat every 180 s. One that sent some, then none
  for 540 s, lost its process without a word (power, ``kill -9`` of worker and run, a node gone): it is marked Crashed,
  so that it no longer holds a place in its pool and shows as what it is. Three heartbeats, because one may be late;
  ``PREFECT_FLOWS_HEARTBEAT_FREQUENCY``, the same for workers and for whoever creates the automation, changes both.
* ``headwater: failed runs`` tells people about deployments' runs that failed or crashed, if it knows where: the address
  in ``HEADWATER_NOTIFY_URL``, or in the file that ``HEADWATER_NOTIFY_FILE`` names. ``https://…`` is a webhook (JSON with
  ``subject``, ``body`` and ``text``), ``mailtos://user:password@host?to=…`` an e-mail by Apprise. The address is a
  secret: it is kept in a block of the server, and stands in no log, form or command line.

Automations are found by their names, so creating them again changes nothing; one that was switched off stays off.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.notifications import CustomWebhookNotificationBlock, SlackWebhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.settings import get_current_settings
from pydantic import SecretStr

from infra.errors import ConfigError

SILENT_RUNS = "headwater: silent runs"
FAILED_RUNS = "headwater: failed runs"
BLOCK = "headwater-notifications"
NOTIFY_URL, NOTIFY_FILE = "HEADWATER_NOTIFY_URL", "HEADWATER_NOTIFY_FILE"
MISSED = 3
"""Heartbeats in a row."""
HEARTBEAT_S = 180
"""Prefect's own default; it sends none at all where the setting is empty, and then the automation sees nothing."""

HEARTBEAT = "prefect.flow-run.heartbeat"
ENDS = ("Completed", "Failed", "Cancelled", "Crashed")


@dataclass(frozen=True)
class Ensured:
    """An automation that exists now. ``action``: created, updated or not created."""

    name: str
    action: str
    detail: str


def ensure_automations(target: str | None) -> list[Ensured]:
    """Create both, or bring them up to date. Without a target only the zombie detection."""
    with get_client(sync_client=True) as client:
        silence_s = MISSED * (get_current_settings().flows.heartbeat_frequency or HEARTBEAT_S)
        done = [
            _ensure(client, silent_runs(silence_s), f"a run without a heartbeat for {silence_s} s is marked Crashed")
        ]
        if target is None:
            missing = f"set {NOTIFY_URL} (or {NOTIFY_FILE}) to a webhook or mailtos:// address"
            return [*done, Ensured(FAILED_RUNS, "not created", missing)]
        block = notification_block(target)
        document = block.save(BLOCK, overwrite=True)
        return [*done, _ensure(client, failed_runs(document), "failed and crashed runs are told to the target")]


def notification_target(environment: Mapping[str, str] = os.environ) -> str | None:
    """The address to tell about failures, or None. Raises ConfigError for a file that cannot be read."""
    path = environment.get(NOTIFY_FILE)
    if path is None:
        return environment.get(NOTIFY_URL) or None
    try:
        return Path(path).read_text().strip() or None
    except OSError as error:
        raise ConfigError(
            f"the file with the notification address cannot be read ({error.strerror})",
            where=path,
            remedy=f"Mend {NOTIFY_FILE}, or unset it.",
        ) from error


def notification_block(target: str) -> NotificationBlock:
    """The block that delivers to an address. Never repeats the address in an error: it is a secret."""
    scheme = target.split("://", 1)[0]
    if scheme in ("http", "https"):
        message = {"subject": "{{subject}}", "body": "{{body}}", "text": "{{subject}}\n{{body}}"}
        return CustomWebhookNotificationBlock(
            name=BLOCK,
            url="{{address}}",
            json_data=message,
            secrets={"address": target},  # type: ignore[arg-type]
        )
    if scheme in ("mailto", "mailtos"):
        # Prefect's Slack block hands every address that is not Slack's to Apprise, which sends e-mail.
        return SlackWebhook(url=SecretStr(target))
    raise ConfigError(
        f"a notification address cannot begin with {scheme[:12]!r}",
        where=NOTIFY_URL,
        remedy="Give a webhook (https://…) or an e-mail address for Apprise (mailtos://user:password@host?to=you@host).",
    )


def silent_runs(silence_s: int) -> AutomationCore:
    return AutomationCore(
        name=SILENT_RUNS,
        description="Marks a flow run as Crashed when its heartbeats end though it has not.",
        trigger=EventTrigger(
            after={HEARTBEAT},
            expect={HEARTBEAT, *(f"prefect.flow-run.{end}" for end in ENDS)},
            match={"prefect.resource.id": ["prefect.flow-run.*"]},  # type: ignore[arg-type]
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=silence_s),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"No heartbeat for {silence_s} s: its process is gone. Run it again; finished work is kept.",
            )
        ],
    )


def failed_runs(document: object) -> AutomationCore:
    return AutomationCore(
        name=FAILED_RUNS,
        description="Tells about runs of headwater's deployments that failed or crashed.",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
            match={"prefect.resource.id": ["prefect.flow-run.*"]},  # type: ignore[arg-type]
            match_related={  # type: ignore[arg-type]
                "prefect.resource.role": ["tag"],
                "prefect.resource.id": ["prefect.tag.headwater"],
            },
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[
            SendNotification(
                block_document_id=document,  # type: ignore[arg-type]
                subject="{{ flow_run.name }}: {{ flow_run.state.name }}",
                body="{{ flow_run.state.message }}\n{{ flow_run|ui_url }}",
            )
        ],
    )


def _ensure(client: SyncPrefectClient, wanted: AutomationCore, detail: str) -> Ensured:
    found = client.read_automations_by_name(wanted.name)
    if not found:
        client.create_automation(wanted)
        return Ensured(wanted.name, "created", detail)
    client.update_automation(found[0].id, wanted.model_copy(update={"enabled": found[0].enabled}))
    return Ensured(wanted.name, "updated", detail if found[0].enabled else f"{detail} (switched off)")
