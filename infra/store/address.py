"""Addresses of datasets in a configuration."""


def beside(address: str, root: str) -> str:
    """The folder that ``name/<fingerprint>`` means: beside the dataset at ``root``, in the same store. Any other address
    is a folder itself."""
    name, slash, fingerprint = address.partition("/")
    if slash and name and "/" not in fingerprint and len(fingerprint) == 12:
        return f"{root.rstrip('/').rsplit('/', 2)[0]}/{address}"
    return address.rstrip("/")
