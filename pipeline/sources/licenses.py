"""The SPDX licence of a file: what its own header says, else the nearest licence file above it."""

import re
from pathlib import PurePosixPath

SPDX_TAG = re.compile(r"SPDX-License-Identifier:\s*([A-Za-z0-9.+\-() ]{2,120}?)\s*(?:\*/|-->|$)", re.M)
LICENSE_FILE = re.compile(r"^(?:licen[cs]e|copying|unlicense)(?:[.-](?:txt|md|rst|mit|apache|bsd))?$", re.I)
HEADER_WINDOW = 4_000
CASES = (
    # Phrases that all occur, in order of trial: what contains another licence's words comes first.
    ("AGPL-3.0-only", ("gnu affero general public license", "version 3")),
    ("LGPL-3.0-only", ("gnu lesser general public license", "version 3")),
    ("LGPL-2.1-only", ("gnu lesser general public license", "version 2.1")),
    ("GPL-3.0-only", ("gnu general public license", "version 3")),
    ("GPL-2.0-only", ("gnu general public license", "version 2")),
    ("MPL-2.0", ("mozilla public license", "2.0")),
    ("EPL-2.0", ("eclipse public license", "2.0")),
    ("PSF-2.0", ("python software foundation license version 2",)),
    ("Apache-2.0", ("apache license", "version 2.0")),
    ("BSL-1.0", ("boost software license", "version 1.0")),
    ("CC0-1.0", ("cc0 1.0 universal",)),
    ("Unlicense", ("this is free and unencumbered software released into the public domain",)),
    ("Zlib", ("altered source versions must be plainly marked as such", "misrepresented")),
    ("BSD-3-Clause", ("redistribution and use in source and binary forms", "neither the name")),
    ("BSD-2-Clause", ("redistribution and use in source and binary forms", "this list of conditions")),
    ("ISC", ("permission to use, copy, modify, and/or distribute this software for any purpose",)),
    ("MIT", ("permission is hereby granted, free of charge", "without restriction")),
)
# A Python distribution's licence file also quotes the licences of parts it contains.
PSF_MARK = "python software foundation license version 2"


def license_of_text(text: str) -> str | None:
    """The SPDX identifier of a licence's full text."""
    plain = " ".join(re.sub(r"[*#>\"'`]", " ", text.lower()).split())
    if PSF_MARK in plain:
        return "PSF-2.0"
    for identifier, phrases in CASES:
        if all(phrase in plain for phrase in phrases):
            return identifier
    return None


def license_in_header(text: str) -> str | None:
    """What a file's own SPDX line says."""
    match = SPDX_TAG.search(text, 0, HEADER_WINDOW)
    return " ".join(match[1].split()) if match else None


def is_license_file(path: str) -> bool:
    return bool(LICENSE_FILE.match(PurePosixPath(path).name))


def nearest_license(path: str, by_folder: dict[str, str]) -> str | None:
    """The licence of the closest folder above ``path`` (the archive's root is ``.``)."""
    for folder in PurePosixPath(path).parents:
        if (found := by_folder.get(str(folder))) is not None:
            return found
    return None
