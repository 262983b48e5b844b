"""Redaction: personal addresses and numbers, and secrets, are masked or their documents dropped."""

from pipeline.redact.stage import STAGE

__all__ = ["STAGE"]
