"""Addresses in a configuration: of a dataset, and of a file of an input (``dataset://sample/web/x.warc.gz``)."""

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from infra.errors import ConfigError
from infra.store.dataset import Dataset

SCHEME = "dataset://"


def beside(address: str, root: str) -> str:
    """The folder that ``name/<fingerprint>`` means: beside the dataset at ``root``, in the same store. Any other address
    is a folder itself."""
    name, slash, fingerprint = address.partition("/")
    if slash and name and "/" not in fingerprint and len(fingerprint) == 12:
        return f"{root.rstrip('/').rsplit('/', 2)[0]}/{address}"
    return address.rstrip("/")


def dataset_file(address: str) -> tuple[str, str] | None:
    """The input and the file in it that ``dataset://input/path`` means (``data/path``; it may be a pattern); None for any
    other address. Raises ConfigError where it names no file."""
    if not address.startswith(SCHEME):
        return None
    role, _, path = address.removeprefix(SCHEME).partition("/")
    if not role or not path or ".." in PurePosixPath(path).parts:
        raise ConfigError(
            "the address names no file of a dataset", where=address, remedy="Write dataset://sample/path."
        )
    return role, f"data/{path}"


def dataset_inputs(addresses: Iterable[str]) -> dict[str, str]:
    """What a stage with these addresses must have as inputs, as role and stage name."""
    roles = {found[0] for address in addresses if (found := dataset_file(address))}
    return {role: role for role in sorted(roles)}


def local_path(address: str, inputs: Mapping[str, Dataset]) -> Path:
    """The file that an address means, on this machine: of an input, or a path."""
    found = dataset_file(address)
    return inputs[found[0]].local(found[1]) if found else Path(address)


def file_url(address: str, inputs: Mapping[str, Dataset]) -> str:
    """Where the file lies that an address means: in an input, or where it says."""
    found = dataset_file(address)
    return inputs[found[0]].url(found[1]) if found else address
