"""What is found, what is left alone, and that nothing is left after masking."""

import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import ConfigError
from pipeline.redact.spans import KINDS, OutsideFinder, find_spans, mask
from pipeline.redact.stage import SourcePolicy, redact

KEY = (
    "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEowIBAAKCAQEA7bq0123456789abcdefg\n" * 3 + "-----END RSA PRIVATE KEY-----"
)
FOUND = [
    ("email", "Write to jane.doe+news@mail.example-firm.co.uk.", "jane.doe+news@mail.example-firm.co.uk"),
    ("email", "<a href=mailto:jörg@straße.de>", "jörg@straße.de"),
    ("email", "Mail to <ada.l@mail-host.org>, or:", "ada.l@mail-host.org"),
    ("email", "mailto:a_b@c-d.co.uk", "a_b@c-d.co.uk"),
    ("email", "*ada@firm.de* and so on", "ada@firm.de"),
    ("email", "_ada@firm.de_ and so on", "_ada@firm.de"),
    ("email", "Ask ada@firm.de.Thanks for", "ada@firm.de"),
    ("email", "die ada@firm.de-Adresse", "ada@firm.de"),
    ("email", "请联系ada@firm.de谢谢", "ada@firm.de"),
    ("email", "ada@firm.kr로 보내 주세요", "ada@firm.kr"),
    ("email", "メール：ada＠firm.jp まで", "ada＠firm.jp"),
    ("email", "пишите на ада@почта.рф.", "ада@почта.рф"),
    ("email", "ada@xn--80a1acny.xn--p1ai", "ada@xn--80a1acny.xn--p1ai"),
    ("email", "https://firm.de/?user=ada@firm.de&x=1", "ada@firm.de"),
    ("email", "https://firm.de/users/ada@firm.de/edit", "ada@firm.de"),
    ("email", "ada@gmail.com:hunter2", "ada@gmail.com"),
    ("email", "ADA@FIRM.DE", "ADA@FIRM.DE"),
    ("email", "o'brien@firm.ie (home)", "o'brien@firm.ie"),
    ("email", "qq 12345@163.com", "12345@163.com"),
    ("email", "ada@myexample.com", "ada@myexample.com"),
    ("email", r'print("Mail:\nada@firm.de\n")', "ada@firm.de"),
    ("email", r'{"author": "Ada \u003cada@firm.de\u003e"}', "ada@firm.de"),
    ("secret", "redis://:s3cretpw@cache.firm.de:6379", "s3cretpw"),
    (
        "secret",
        "SG.ab3defghi1klmnopqrstuv.ABC2EFGHIJKLMNOPQRSTUVWXYZ0123456789abcdefg",
        "SG.ab3defghi1klmnopqrstuv.ABC2EFGHIJKLMNOPQRSTUVWXYZ0123456789abcdefg",
    ),
    ("secret", "docker login -p dckr_pat_aBcdefghijklmnopqrstuvwxyz0", "dckr_pat_aBcdefghijklmnopqrstuvwxyz0"),
    ("email", "Ask openssh@openssh.com about it", "openssh@openssh.com"),
    ("ip", "the host 93.184.216.34 (version 2)", "93.184.216.34"),
    ("phone", "order by phone: 212-555-0187", "212-555-0187"),
    ("ip", "from 93.184.216.34, port 80", "93.184.216.34"),
    ("ip", "peer 2606:2800:220:1:248:1893:25c8:1946 up", "2606:2800:220:1:248:1893:25c8:1946"),
    ("ip", "peer 2a00:1450::200e.", "2a00:1450::200e"),
    ("phone", "Call +49 30 901820 now", "+49 30 901820"),
    ("phone", "Call (212) 555-0187.", "(212) 555-0187"),
    ("phone", "Tel 212-555-0187", "212-555-0187"),
    ("phone", "Fax: +44 (0)20 7946 0958", "+44 (0)20 7946 0958"),
    ("iban", "Konto DE89 3704 0044 0532 0130 00 bitte", "DE89 3704 0044 0532 0130 00"),
    (
        "iban",
        "DE89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000.",
        "DE89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000",
    ),
    ("iban", "GB82WEST12345698765432", "GB82WEST12345698765432"),
    ("iban", "NO93 8601 1117 947", "NO93 8601 1117 947"),
    ("credit_card", "card 4111 1111 1111 1111 exp", "4111 1111 1111 1111"),
    ("credit_card", "4111\u202f1111\u202f1111\u202f1111", "4111\u202f1111\u202f1111\u202f1111"),
    ("credit_card", "378282246310005", "378282246310005"),
    ("secret", 'aws = "AKIAIOSFODNN7QW3RTYU"', "AKIAIOSFODNN7QW3RTYU"),
    ("secret", 'client_secret = "9f8a7c6b-5d4e-3f2a-1b0c-01d2c4a5b7f9"', "9f8a7c6b-5d4e-3f2a-1b0c-01d2c4a5b7f9"),
    ("secret", "token ghp_" + "a1B2" * 9, "ghp_" + "a1B2" * 9),
    ("secret", KEY, KEY),
    ("secret", "postgres://app:s3cr3t@db.internal/x", "s3cr3t"),
    ("secret", 'api_key = "9f8A7c6B5d4E3f2A1b0C"', "9f8A7c6B5d4E3f2A1b0C"),
]
LEFT_ALONE = [
    "scores = q@v.is_contiguous",
    "Message-ID: <CAF6rxg=abc+def@mail.gmail.com>",
    "In-Reply-To: <5e1f9f2b.1c69fb81.8f5a3@mx.google.com>",
    "<Version>24.30.44.52</Version>",
    "the tower stands at +40.6894-074.0447/",
    "<PHONE>, SKU: 212-555-0188",  # numbers of things beside one that was masked before
    "someone@example.com and root@localhost and @handle and a@b",
    "logo@2x.png icon@3x.app H = A@np.linalg.inv(B); x = U@np.diag(s)@Vt; y = W@x.data; z = A@B.name[0] and U@np.save(f)",
    "git clone git@github.com:acme/tool.git, git@gitlab.com: and ssh://git@host.org/x and ada@host.org:src/tool",
    "https://ada@host.org/path https://ada:pw@host.org/x git+https://oauth2@host.org/x",
    "Read it at https://medium.com/@jane.doe/how-to-cook today, by @ada@mastodon.social.",
    "ssh ada@host.org; scp -P 22 f.txt ada@host.org:; rsync -av ada@host.org:/x .",
    "npm i left-pad@1.0.0-beta.rc @scope/pkg@1.2.3 react@18.2.0.dev foo@v1.2.dev actions/checkout@v4",
    "@app.route @pytest.mark.slow nginx@sha256:abc 12:30@europe a@b.c ada@host.local",
    "version 93.184.216.34, Version: 91.12.113.14, versions 93.184.2.34 and 93.184.2.35, section 22.41.53.64, app-93.184.216.34.zip",
    'numpy==93.184.216.34, oid 1.3.6.1.4.1, § 22.31.44.51, AssemblyVersion("93.184.21.30")',
    "Ciphers chacha20-poly1305@openssh.com,aes128-gcm@openssh.com KexAlgorithms curve25519-sha256@libssh.org zlib@openssh.com",
    "[root@web1.firm.com ~]# ls",
    "ada@web1.firm.com$ ls\n[ada@web1.firm.com /var/log]$ tail x",
    "kinit host/srv.firm.com@FIRM.COM; krbtgt/FIRM.COM@FIRM.COM, pip install git+https://github.com/a/b.git@release.io",
    "part no. 212-555-0187, SKU: 212-555-0188, doi:10.1000/212-555-0187, case 212.555.0187, arXiv 212-555-0199",
    'token = "9f8a7c6b-5d4e-3f2a-1b0c-01d2c4a5b7f9"; secret = "sha256:9f86d081884c7d659a2feaa0c55ad015"; key AKIAIOSFODNN7EXAMPLE',
    'api_key = "your-api-key-0123456789abc"; postgres://postgres:postgres@localhost/x; amqp://guest:guest@rabbit:5672',
    "127.0.0.1 192.168.1.10 10.0.0.1 0.0.0.0 256.300.1.1 version 91.12.13.14 v93.1.2.3 3.0.5.3 1.2.3.4.5",
    "::1 fe80::1 ff02::fb 2001:4860:: std::vector 12:30:45 aa:bb, multicast 224.0.0.251, section 8.2.4.44",
    "2024-01-15 12:30:45, 1,234,567.89, ISBN 978-3-16-148410-0, 100-200-300",
    "DE89 3704 0044 0532 0130 01 XX12 3456 7890 1234 5678",  # wrong checksum, unknown country
    "4111 1111 1111 1112, 1234567890123456, order/4111111111111111, EAN 4013389466813",
    'password = "correct horse battery staple"; token = os.environ["TOKEN_NAME_12345678"]; secret = "${SECRET_FROM_1}"',
    "AKIA is a prefix, sk-learn-contrib-something-long-here, http://host:8080/path@x",
]


@pytest.mark.parametrize(("kind", "text", "expected"), FOUND)
def test_found(kind, text, expected):
    assert [(span.kind, text[span.start : span.end]) for span in find_spans(text)] == [(kind, expected)]


@pytest.mark.parametrize("text", LEFT_ALONE)
def test_left_alone(text):
    assert [(span.kind, text[span.start : span.end]) for span in find_spans(text)] == []


def test_masking_keeps_the_rest():
    text = "Mail jane@firm.de or call +49 30 901820, thanks."
    assert mask(text, find_spans(text)) == "Mail <EMAIL> or call <PHONE>, thanks."


def test_only_the_kinds_asked_for():
    text = "jane@firm.de +49 30 901820"
    assert [span.kind for span in find_spans(text, ("phone",))] == ["phone"]


@pytest.mark.parametrize(
    ("behind", "kind"), [("ada@firm.de", "email"), ("378282246310005", "credit_card"), (" x ada@firm.de", "email")]
)
def test_what_a_mask_brings_to_light_is_masked_too(behind: str, kind: str):
    key = (
        "-----BEGIN RSA PRIVATE KEY-----\n"
        + "MIIEowIBAAKCAQEA7bq0123456789abcdefg\n" * 3
        + "-----END RSA PRIVATE KEY-----"
    )
    text = f"{key}{behind}, tel. +49 30 901820."
    _, spans, _ = redact(text, SourcePolicy())
    assert [(span.kind, text[span.start : span.end]) for span in spans] == [
        ("secret", key),
        (kind, behind.removeprefix(" x ")),
        ("phone", "+49 30 901820"),
    ]


PIECES = st.one_of(
    st.sampled_from([text for _, text, _ in FOUND] + LEFT_ALONE),
    st.text(st.sampled_from("0123456789 .-+()@:/abcdefABCDEF\n\"'=_"), max_size=40),
    st.text(max_size=20),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=6), st.sampled_from(["", " ", "\n", ", "]))
def test_spans_are_in_order_without_overlap(pieces, joint):
    text = joint.join(pieces)
    spans = find_spans(text)
    assert all(0 <= span.start < span.end <= len(text) for span in spans)
    assert all(left.end <= right.start for left, right in pairwise(spans))
    assert {span.kind for span in spans} <= set(KINDS)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=6), st.sampled_from(["", " ", "\n", ", "]))
def test_nothing_is_left_after_masking(pieces, joint):
    text = joint.join(pieces)
    masked, spans, _ = redact(text, SourcePolicy())
    assert find_spans(masked) == []
    assert (masked == text) == (not spans)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "unit", ["1", "1.", "a@", "1 ", "::", "a.", "-", "+1", "(", "DE12 ", "'a=", "eyJ", "sk-", "://a:"]
)
def test_no_pattern_is_slow_on_a_long_line(unit):
    find_spans(unit * (200_000 // len(unit)))


@pytest.mark.parametrize("span", [(5, 1), (3, 3), (0, 99), (-1, 2), (0.5, 2.5), "x", None, (1, 2, 3)])
def test_a_span_of_another_package_that_cannot_be_is_said(span: Any) -> None:
    finder = OutsideFinder("badge", "<BADGE>", lambda text: iter([span]))
    with pytest.raises(ConfigError, match=f"the finder of 'badge' gives {re.escape(repr(span))} in a text of 9"):
        find_spans("some text", others=[finder])


@pytest.mark.parametrize("find", [lambda text: None, lambda text: 5])
def test_a_finder_of_another_package_gives_spans_or_is_said(find: Any) -> None:
    with pytest.raises(ConfigError, match="the finder of 'badge' gives (None|5)"):
        find_spans("some text", others=[OutsideFinder("badge", "<BADGE>", find)])
