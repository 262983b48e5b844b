"""The tab Documents: search, one document through all stages, attributes and what a threshold would take.

    /api/documents                a page of the search; ``next`` is what ``after`` takes
    /api/documents/{id}           one document
    /api/attributes, /api/histogram, /api/threshold

Every answer is bounded in time and size whatever the workspace holds (``flows.provenance``); what is left out is said.
"""

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from flows.provenance.attributes import Measured, attribute_rows, histogram, threshold
from flows.provenance.document import document_view
from flows.provenance.fates import is_document_id
from flows.provenance.search import MOST, search
from flows.provenance.wanted import Wanted
from flows.stages import document_stages
from flows.web.site import Site
from infra.errors import InputError, NotFound
from infra.store.dataset import Dataset

LONGEST = 2000
Words = Annotated[str, Query(max_length=LONGEST)]
Label = Annotated[str, Query(max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Row = dict[str, Any]


def router(site: Site) -> APIRouter:
    routes = APIRouter(prefix="/api")

    @routes.get("/documents")
    def documents(
        request: Request, url: Words = "", domain: Words = "", text: Words = "", source: Words = "", language: Words = "",
        rule: Words = "", fate: Words = "", stage: Words = "", after: Words = "", limit: int = 20, label: Label = "latest",
    ) -> Row:  # fmt: skip
        wanted = Wanted(
            url=url, domain=domain, text=text, source=source, language=language, rule=rule, fate=fate, stage=stage,
            least=_bounds(request.query_params, "min."), most=_bounds(request.query_params, "max."),
        )  # fmt: skip
        if not 1 <= limit <= MOST:
            raise InputError(f"a page has 1 to {MOST} documents", where="limit")
        return search(document_stages(site.store, label), _attributes(site, label), wanted, after=after, limit=limit)

    @routes.get("/documents/{identity:path}")
    def document(identity: str, label: Label = "latest") -> Row:
        if not is_document_id(identity):
            raise NotFound("there is no such document", where=identity[:100], remedy="Its id has 32 hex digits.")
        return document_view(site.store, identity, label)

    _add_attributes(routes, lambda label: Measured.among(_attributes(site, label), document_stages(site.store, label)))
    return routes


def _add_attributes(routes: APIRouter, measured: Callable[[str], Measured]) -> None:
    @routes.get("/attributes")
    def attributes(label: Label = "latest") -> list[Row]:
        return attribute_rows(measured(label))

    @routes.get("/histogram")
    def bins_of(attribute: Words, bins: int = 40, source: Words = "", label: Label = "latest") -> Row:
        return histogram(measured(label), attribute, bins=bins, source=source or None)

    @routes.get("/threshold")
    def what_goes(attribute: Words, at: Words, keep: Words = "above", label: Label = "latest") -> Row:
        return threshold(measured(label), attribute, at, keep)


def _attributes(site: Site, label: str) -> Dataset | None:
    return site.store.get_ref("attributes", label)


def _bounds(parameters: Mapping[str, str], prefix: str) -> dict[str, float]:
    """Bounds of attributes by name: ``min.words=50``."""
    found = {}
    for name, value in parameters.items():
        if name.startswith(prefix) and value:
            try:
                found[name.removeprefix(prefix)] = float(value)
            except ValueError:
                found[name.removeprefix(prefix)] = math.nan
            if not math.isfinite(found[name.removeprefix(prefix)]):
                raise InputError(f"{value[:40]!r} is no number", where=name[:100])
    return found
