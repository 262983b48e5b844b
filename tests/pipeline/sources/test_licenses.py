"""A file's licence: by tags in any comment, by words, by the repository; and never another's."""

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sources.license_expressions import leading_expression, parse_expression, satisfies
from pipeline.sources.license_tree import LicenseTree
from pipeline.sources.licenses import is_license_file, license_named_in, license_of_text
from tests.pipeline.sources.archives import documents, fates, read_source
from tests.pipeline.sources.test_code import MIT, make_tar

APACHE = "Apache License\n   Version 2.0, January 2004\n   http://www.apache.org/licenses/"
GPL3 = (
    "GNU GENERAL PUBLIC LICENSE\n Version 3, 29 June 2007\n …\n  13. Use with the GNU Affero General Public License.\n combine "
    "with a work licensed under version 3 of the GNU Affero General Public License … use the GNU Lesser General Public License"
)
TAG = "SPDX-License-" + "Identifier:"

TAGGED = [
    (f"(* {TAG} GPL-3.0-only *)", "GPL-3.0-only"),
    (f"|* {TAG} GPL-3.0-only        *|", "GPL-3.0-only"),
    (f"{{- {TAG} BSD-3-Clause -}}", "BSD-3-Clause"),
    (f"{{# {TAG} MIT #}}", "MIT"),
    (f"<!-- {TAG} CC-BY-4.0 -->", "CC-BY-4.0"),
    (f'"""{TAG} MIT"""', "MIT"),
    (f"'{TAG} MIT'", "MIT"),
    (f"-- {TAG} MIT --", "MIT"),
    (f";; {TAG} ISC", "ISC"),
    (f"% {TAG} LGPL-2.1-or-later", "LGPL-2.1-or-later"),
    (f"REM {TAG} 0BSD", "0BSD"),
    (f"dnl {TAG} MIT dnl", "MIT"),
    (f"/*! {TAG} MIT OR Apache-2.0 */int x;", "MIT OR Apache-2.0"),
    (f"// Copyright Acme. {TAG} (MIT AND BSD-3-Clause) OR ISC.", "(MIT AND BSD-3-Clause) OR ISC"),
    (f"# {TAG} GPL-2.0 WITH Linux-syscall-note", "GPL-2.0 WITH Linux-syscall-note"),
    (f"# {TAG} MIT, see LICENSE", "MIT"),
    (f"# {TAG} mit\r\nx", "MIT"),
    (f"#  {TAG}  LicenseRef-Acme-1.0", "LicenseRef-Acme-1.0"),
    (f"%%%%\n%% | {TAG} MIT |", "MIT"),
    (f'print("{TAG} MIT\\n")', "MIT"),
    ("x = 1\n" * 3000 + f"# {TAG} GPL-3.0-or-later", "GPL-3.0-or-later"),
    (f"# {TAG} MIT\n# {TAG} Apache-2.0 OR ISC", "MIT AND (Apache-2.0 OR ISC)"),
    (f"# {TAG} MIT\n# REUSE-IgnoreStart\n# {TAG} x\n# REUSE-IgnoreEnd", "MIT"),
    # what cannot be parsed is unknown
    (f"# {TAG} Proprietary", None),
    (f"# {TAG} MIT OR Unheard-Of-1.0", None),
    (f"# {TAG} MIT License", None),
    (f"# {TAG} GPL 3.0", None),
    (f"# {TAG} MIT/Apache-2.0", None),
    (f"# {TAG} MIT, Apache-2.0", None),
    (f"# {TAG} NONE", None),
    (f"# {TAG}", None),
    (f"# {TAG} MIT OR", "MIT OR"),
    (f'PATTERN = r"{TAG} (.*)"', None),
]


@pytest.mark.parametrize(("text", "expression"), TAGGED)
def test_tags_in_any_comment(text: str, expression: str | None) -> None:
    named = license_named_in(text)
    assert named is not None
    assert named.expression == (None if expression == "MIT OR" else expression)


WORDS = [
    ("/* Licensed under the Apache License, Version 2.0 (the \"License\"); */", "Apache-2.0"),
    ("# This program is free software; you can redistribute it and/or modify it under the terms of the GNU General\n# Public "
     "License as published by the Free Software Foundation; either version 2 of the License, or\n# (at your option) any later version.", "GPL-2.0-or-later"),
    ("// it under the terms of the GNU Lesser General Public License as published; version 2.1 of the License.", "LGPL-2.1-only"),
    (" * Redistribution and use in source and binary forms, with or without … list of conditions …\n * Neither the name of", "BSD-3-Clause"),
    (" * Permission is hereby granted, free of charge, to any person … without\n * restriction, including", "MIT"),
    ("// This Source Code Form is subject to the terms of the Mozilla Public\n// License, v. 2.0.", "MPL-2.0"),
    ("# License: BSD 3 clause", "BSD-3-Clause"),
    ("__license__ = 'GPL-3.0-or-later'", "GPL-3.0-or-later"),
    ("/**\n * @license MIT\n */", "MIT"),
    ("# Licence: GPLv2+", "GPL-2.0-or-later"),
    ("// Licensed under the Apache License, Version 2.0 <LICENSE-APACHE> or the MIT license <LICENSE-MIT>, at your option.", "Apache-2.0 OR MIT"),
    ("/* Dual licensed under the MIT or GPL Version 2 licenses. */", "MIT OR GPL-2.0-only"),
    # as people write what they grant, and what they point to
    ("// Licensed to the .NET Foundation under agreements.\n// It licenses this file to you under the MIT license.", "MIT"),
    ("// Distributed under the MIT software license, see the accompanying\n// file COPYING.", "MIT"),
    ("// Part of the LLVM Project, under the Apache License v2.0 with LLVM Exceptions.", "Apache-2.0 WITH LLVM-exception"),
    ("// Licensed under the GPLv3", "GPL-3.0-only"),
    ("# Distributed under the terms of the GNU General Public License v2", "GPL-2.0-only"),
    ("# GNU General Public License v3.0+ (see COPYING)", "GPL-3.0-or-later"),
    ("/* Licensed under LGPL 2.1, please see LICENSE */", "LGPL-2.1-only"),
    ("# This work is licensed under a Creative Commons\n# Attribution-NonCommercial 4.0 International License.", "CC-BY-NC-4.0"),
    ("/* Licensed under the Elastic License; you may not use this\n * file except in compliance with it. */", None),
    # two licences: either, both, or who knows
    ("// Available under the MIT or new BSD license.", "MIT OR BSD-3-Clause"),
    ("// Licensed under the MIT License and the GPL v2.", "MIT AND GPL-2.0-only"),
    ("// Dual-licensed under Apache 2.0 and MIT terms.", "Apache-2.0 OR MIT"),
    ("// Released under the MIT, BSD, and GPL Licenses.", None),
    # the tag says to tools that a comment is to be kept
    ("/**\n * @license AngularJS v1.8.2\n * (c) 2010 Google\n * License: MIT\n */", "MIT"),
    ("/** @license React v16\n * This source code is licensed under the MIT license found in the\n * LICENSE file. */", "MIT"),
    ("/* @license magnet:?xt=urn:btih:1f739d&dn=gpl-3.0.txt GPL-v3-or-Later */", "GPL-3.0-or-later"),
    ("/* @license Commercial */\n// licensed under the MIT license", None),
    ("// SPDX-Licence-Identifier: GPL-2.0-only", "GPL-2.0-only"),
    ("// SPDX License Identifer: GPL-2.0-only", "GPL-2.0-only"),
    ("# License: Commercial, ask us", None),
    ("# PROPRIETARY AND CONFIDENTIAL\n# All rights reserved.", None),
    ("# released under the Foo-Bar license", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expression"), WORDS)
def test_notices_in_words(text: str, expression: str | None) -> None:
    named = license_named_in(text)
    assert named is not None
    assert (named.expression, named.family) == (expression, "")


@pytest.mark.parametrize(
    "text",
    [
        "x = 1",
        "# License: see LICENSE",
        "# Use of this source code is governed by a BSD-style license that can be found in the LICENSE file.",
        "# Copyright 2020 Acme. All rights reserved.",
        "license = 'MIT'  # the field of a form",
        "def license(self): return self._license",
        "# Dual licensed under the terms of the Apache License, Version 2.0, and the BSD License. See the LICENSE file.",
        "It is provided under the hood, by and or.",
        "It reads the GNU General Public License aloud.",
    ],
)
def test_what_names_none(text: str) -> None:
    assert license_named_in(text) is None


@pytest.mark.parametrize(
    ("expression", "allowed", "met"),
    [
        ("MIT", ["MIT"], True),
        ("MIT OR GPL-3.0-only", ["MIT", "Apache-2.0"], True),
        ("MIT AND GPL-3.0-only", ["MIT", "Apache-2.0"], False),
        ("MIT AND GPL-3.0-only OR ISC", ["ISC"], True),
        ("MIT AND (GPL-3.0-only OR ISC)", ["ISC"], False),
        ("MIT AND (GPL-3.0-only OR ISC)", ["ISC", "MIT"], True),
        ("Apache-2.0 WITH LLVM-exception", ["Apache-2.0"], True),
        ("Apache-2.0", ["Apache-2.0 WITH LLVM-exception"], False),
        ("GPL-2.0+", ["GPL-2.0-or-later"], True),
        ("GPL-2.0-or-later", ["GPL-3.0-only"], True),
        ("GPL-2.0-only", ["GPL-3.0-only"], False),
        ("GPL-3.0-or-later", ["GPL-2.0-only"], False),
        ("LGPL-2.1-or-later", ["GPL-3.0-only"], False),
        ("GPL-2.0", ["GPL-2.0-only"], True),
        ("GPL-2.0-only", ["GPL-2.0"], True),
        ("LicenseRef-x", ["MIT"], False),
    ],
)
def test_what_the_allowed_licences_permit(expression: str, allowed: list[str], met: bool) -> None:
    assert satisfies(expression, allowed) is met


def test_licence_texts_by_their_beginning() -> None:
    assert license_of_text(GPL3) == "GPL-3.0-only"
    assert license_of_text("GNU AFFERO GENERAL PUBLIC LICENSE\nVersion 3, 19 November 2007") == "AGPL-3.0-only"
    assert license_of_text(MIT + "\n\nBundled: " + APACHE) == "MIT"
    assert license_of_text("Ask our lawyers.") is None
    assert [
        name
        for name in ("LICENSE", "LICENSE-MIT", "COPYING.LESSER", "UNLICENSE", "LICENCE.md", "MIT-LICENSE.txt")
        if not is_license_file(name)
    ] == []
    assert [
        name for name in ("license.py", "licenses.go", "copying_files.c", "LICENSE.rs") if is_license_file(name)
    ] == []


REPOSITORY = {
    "LICENSE": MIT,
    "own.py": f"# {TAG} GPL-3.0-only\nx = 1",
    "plain.py": "x = 1",
    "said.py": "# License: GPL\nx = 1",
    "family/LICENSE": "Redistribution and use in source and binary forms … Neither the name",
    "family/bsd.py": "# License: BSD\nx = 1",
    "custom/LICENSE": "Only on Tuesdays.",
    "custom/deep/a.py": "x = 1",
    "rust/LICENSE-MIT": MIT,
    "rust/LICENSE-APACHE": APACHE,
    "rust/lib.rs": "fn main() {}",
    "either/LICENSE": "This software is made available under the terms of *either* of the licenses\nfound in LICENSE.APACHE or LICENSE.BSD.",
    "either/LICENSE.APACHE": APACHE,
    "either/LICENSE.BSD": "Redistribution and use in source and binary forms … list of conditions",
    "either/a.py": "x = 1",
    "both/LICENSE": MIT,
    "both/COPYING": GPL3,
    "both/a.py": "x = 1",
    "lesser/COPYING": GPL3,
    "lesser/COPYING.LESSER": "GNU LESSER GENERAL PUBLIC LICENSE\nVersion 3",
    "lesser/a.py": "x = 1",
    "data.js": "var x = 1",
    "data.js.license": f"{TAG} CC0-1.0",
    "REUSE.toml": f'version = 1\n[[annotations]]\npath = ["po/**", "one.py"]\n{TAG[:-1]} = "ISC"\n[[annotations]]\n'
    f'path = "forced/*.py"\nprecedence = "override"\n{TAG[:-1]} = "0BSD"\n',
    "po/a/b.py": "x = 1",
    "one.py": f"# {TAG} MIT\nx = 1",
    "forced/a.py": f"# {TAG} MIT\nx = 1",
    "forced/b/c.py": "x = 1",
}
RIGHT = {
    "own.py": "GPL-3.0-only", "plain.py": "MIT", "said.py": None, "family/bsd.py": "BSD-3-Clause", "custom/deep/a.py": None,
    "rust/lib.rs": "Apache-2.0 OR MIT", "both/a.py": "GPL-3.0-only AND MIT", "either/a.py": "Apache-2.0 OR BSD-2-Clause", "lesser/a.py": "LGPL-3.0-only", "data.js": "CC0-1.0",
    "po/a/b.py": "ISC", "one.py": "MIT", "forced/a.py": "0BSD", "forced/b/c.py": "MIT",
}  # fmt: skip


def test_the_licence_of_every_file_of_a_repository(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "r.tar.gz", {f"r/{name}": text.encode() for name, text in REPOSITORY.items()})
    outcomes = read_source(path, "code")
    found = {str(row["path"]).removeprefix("r/"): row["license"] for row in documents(outcomes)}
    assert {name: found[name] for name in RIGHT} == RIGHT


def test_the_filter_asks_what_is_permitted_and_says_why_not(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "r.tar.gz", {f"r/{name}": text.encode() for name, text in REPOSITORY.items()})
    outcomes = read_source(path, "code", licenses=("MIT",))
    kept = {str(row["path"]).removeprefix("r/") for row in documents(outcomes)}
    assert {"plain.py", "rust/lib.rs", "one.py"} <= kept
    assert not kept & {"own.py", "said.py", "both/a.py", "custom/deep/a.py"}
    why = {str(fate["url"]).rpartition("r.tar.gz/r/")[2]: fate["detail"] for fate in fates(outcomes)}
    assert why["own.py"] == "GPL-3.0-only"
    assert why["said.py"] == "what it names is no known licence: GPL"


def test_debian_copyright_of_reuse() -> None:
    tree = LicenseTree()
    tree.add(
        "r/.reuse/dep5", b"Format: x\n\nFiles: *\nCopyright: me\nLicense: MIT\n\nFiles: img/* a.py\nLicense: CC0-1.0\n"
    )
    assert [tree.license_of(path, "", None).expression for path in ("r/x/y.py", "r/img/a/b.py", "r/a.py", "z.py")] == [
        "MIT",
        "CC0-1.0",
        "CC0-1.0",
        None,
    ]


@pytest.mark.parametrize(
    "unit",
    [
        "(",
        "MIT OR ",
        f"# {TAG} MIT\n",
        "SPDX-License-Identifier:",
        "license: ",
        "a" * 50,
        "*/",
        "REUSE-IgnoreStart ",
        "-",
        "/",
        "# ",
        "(*",
        "@",
    ],
)
def test_no_header_is_slow(unit: str) -> None:
    began = time.process_time()
    license_named_in(unit * (500_000 // len(unit)))
    license_named_in(f"{TAG} " + unit * (500_000 // len(unit)))
    license_of_text(unit * (200_000 // len(unit)))
    assert time.process_time() - began < 4


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["MIT", "ISC", "OR", "AND", "WITH", "(", ")", "Foo", "GPL-2.0+", "LLVM-exception", "*/", "-->", ","]
        ),
        max_size=9,
    ).map(" ".join)
)
def test_what_is_read_is_an_expression(text: str) -> None:
    expression, rest = leading_expression(text)
    assert expression is None or parse_expression(expression) == expression
    assert text.endswith(rest)
    if expression:
        assert satisfies(expression, ["MIT", "ISC", "GPL-2.0+"])
