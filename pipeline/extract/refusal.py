"""Why a page has no text: the reason as it will stand in the ledger."""

from typing import Literal


class Refused(Exception):
    """This record does not become a document.

    ``dropped``: it was read and is not wanted. ``failed``: it could not be read; the ledger row locates its bytes.
    """

    def __init__(
        self,
        verdict: Literal["dropped", "failed"],
        rule: str,
        detail: str = "",
        score: float | None = None,
        threshold: float | None = None,
        survivor: bytes | None = None,
    ) -> None:
        super().__init__(rule, detail)
        self.verdict: Literal["dropped", "failed"] = verdict
        self.rule = rule
        self.detail = detail
        self.score = score
        self.threshold = threshold
        self.survivor = survivor
