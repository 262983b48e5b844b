"""The quality classifier: trained inside the run from named sets of good and ordinary text."""

from pipeline.classifier.stage import STAGE

__all__ = ["STAGE"]
