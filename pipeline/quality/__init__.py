"""Quality: measures of documents (``measures``), rules over them (``rules``) and the stage that selects by them."""

from pipeline.quality.stage import STAGE

__all__ = ["STAGE"]
