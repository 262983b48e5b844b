"""Where failures are told: the address is a secret, and a wrong one is one sentence. The server's part: test_on_server."""

import os
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("PREFECT_HOME", tempfile.mkdtemp(prefix="prefect-home-"))

from prefect.blocks.notifications import CustomWebhookNotificationBlock

from flows.operate.automations import NOTIFY_FILE, NOTIFY_URL, notification_block, notification_target
from infra.errors import ConfigError


def test_a_webhook_gets_the_message_and_its_address_is_a_secret() -> None:
    block = notification_block("https://hooks.example.org/x?token=t0psecret")
    assert isinstance(block, CustomWebhookNotificationBlock)
    sent = block._build_request_args('it "failed"', "pipeline-demo-1")
    assert sent["url"] == "https://hooks.example.org/x?token=t0psecret"
    assert sent["json"] == {
        "subject": "pipeline-demo-1",
        "body": 'it "failed"',
        "text": 'pipeline-demo-1\nit "failed"',
    }
    assert "t0psecret" not in repr(block)
    assert "t0psecret" not in str(block.model_dump(mode="json"))


def test_an_e_mail_address_is_for_apprise() -> None:
    block = notification_block("mailtos://user:t0psecret@mail.example.org?to=you@example.org")
    assert [type(entry).__name__ for entry in block._apprise_client] == ["NotifyEmail"]  # type: ignore[attr-defined]
    assert "t0psecret" not in repr(block)


def test_a_wrong_address_is_said_without_it() -> None:
    with pytest.raises(ConfigError, match="cannot begin with 'ftp'") as caught:
        notification_block("ftp://user:t0psecret@host")
    assert "t0psecret" not in str(caught.value)


def test_the_target_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "target"
    path.write_text("https://hooks.example.org/file\n")
    assert notification_target({}) is None
    assert notification_target({NOTIFY_URL: "https://hooks.example.org/url"}) == "https://hooks.example.org/url"
    assert notification_target({NOTIFY_URL: "x", NOTIFY_FILE: str(path)}) == "https://hooks.example.org/file"
    with pytest.raises(ConfigError, match="cannot be read"):
        notification_target({NOTIFY_FILE: str(tmp_path / "absent")})
