"""The engine, the image and the running services that the slow tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.engine import Engine, engine, source_tree
from tests.docker.images import IMAGE, build, ensure_bases
from tests.docker.services import Services, services_of


@pytest.fixture(scope="session")
def container_engine() -> Iterator[Engine]:
    with engine() as found:
        yield found


@pytest.fixture(scope="session")
def built(container_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree of the repository from which the CPU image has been built.

    ``HEADWATER_TEST_IMAGE=present`` tests the image of that name which the engine has, as it is.
    """
    ensure_bases(container_engine, tmp_path_factory.mktemp("bases"))
    tree = source_tree(tmp_path_factory.mktemp("source"))
    if os.environ.get("HEADWATER_TEST_IMAGE") != "present":
        build(container_engine, tree, "cpu", IMAGE)
    return tree


@pytest.fixture(scope="module")
def services(container_engine: Engine, built: Path) -> Iterator[Services]:
    """``docker/compose.yaml`` as ``make up`` runs it, in a project of its own."""
    with services_of(container_engine, built) as running:
        yield running
