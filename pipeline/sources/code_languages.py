"""The programming language of a file: by its name, and by what it says where several share an ending; else by its first line."""

import re
from pathlib import PurePosixPath

EXTENSIONS: dict[str, tuple[str, ...]] = {
    "Ada": ("adb", "ads"),
    "Assembly": ("asm", "s"),
    "Batchfile": ("bat", "cmd"),
    "C": ("c", "h"),
    "C#": ("cs",),
    "C++": ("cc", "cpp", "cxx", "c++", "hh", "hpp", "hxx"),
    "CMake": ("cmake",),
    "CSS": ("css", "less", "scss", "sass"),
    "Clojure": ("clj", "cljs", "cljc"),
    "Cuda": ("cu", "cuh"),
    "D": ("d",),
    "Dart": ("dart",),
    "Elixir": ("ex", "exs"),
    "Elm": ("elm",),
    "Erlang": ("erl", "hrl"),
    "F#": ("fs", "fsi", "fsx"),
    "Fortran": ("f", "f77", "f90", "f95", "f03", "f08", "for"),
    "GLSL": ("glsl", "vert", "frag", "comp"),
    "Go": ("go",),
    "Groovy": ("groovy", "gradle"),
    "HTML": ("html", "htm", "xhtml"),
    "Haskell": ("hs", "lhs"),
    "Java": ("java",),
    "JavaScript": ("js", "mjs", "cjs", "jsx"),
    "Julia": ("jl",),
    "Jupyter Notebook": ("ipynb",),
    "Kotlin": ("kt", "kts"),
    "Lisp": ("lisp", "el", "cl"),
    "Lua": ("lua",),
    "Markdown": ("md", "markdown"),
    "Nix": ("nix",),
    "OCaml": ("ml", "mli"),
    "Objective-C": ("m", "mm"),
    "PHP": ("php", "phtml"),
    "Pascal": ("pas", "pp"),
    "Perl": ("pl", "pm"),
    "PowerShell": ("ps1", "psm1"),
    "Prolog": ("pro",),
    "Protocol Buffer": ("proto",),
    "Python": ("py", "pyi", "pyx", "pxd"),
    "R": ("r",),
    "Ruby": ("rb", "rake", "gemspec"),
    "Rust": ("rs",),
    "SQL": ("sql",),
    "Scala": ("scala", "sbt"),
    "Scheme": ("scm", "ss"),
    "Shell": ("sh", "bash", "zsh", "fish"),
    "Solidity": ("sol",),
    "Swift": ("swift",),
    "Tcl": ("tcl",),
    "TeX": ("tex", "sty", "cls"),
    "Terraform": ("tf",),
    "TypeScript": ("ts", "tsx", "mts", "cts"),
    "VHDL": ("vhd", "vhdl"),
    "Verilog": ("v", "sv", "svh"),
    "Vue": ("vue",),
    "Zig": ("zig",),
    "reStructuredText": ("rst",),
}
FILE_NAMES = {
    "makefile": "Makefile",
    "gnumakefile": "Makefile",
    "dockerfile": "Dockerfile",
    "containerfile": "Dockerfile",
    "cmakelists.txt": "CMake",
    "rakefile": "Ruby",
    "gemfile": "Ruby",
    "jenkinsfile": "Groovy",
}
INTERPRETERS = {
    "python": "Python",
    "bash": "Shell",
    "sh": "Shell",
    "zsh": "Shell",
    "dash": "Shell",
    "ksh": "Shell",
    "perl": "Perl",
    "ruby": "Ruby",
    "node": "JavaScript",
    "php": "PHP",
    "lua": "Lua",
    "tclsh": "Tcl",
    "wish": "Tcl",
    "rscript": "R",
    "julia": "Julia",
}
_OBJECTIVE_C = r"^[ \t]*(?:@(?:interface|implementation|protocol|class|property|import|end)\b|#[ \t]*import\b)"
_CPP = (
    r"^[ \t]*(?:template[ \t]*<|namespace\b[^;\n]{0,80}(?:\{|$)|using[ \t]+namespace\b|(?:public|private|protected)[ \t]*:"
    r"|class[ \t]+\w[^;()\n]{0,120}$|#[ \t]*include[ \t]*<[a-z_]+>)|\bstd::"
)
_SHARED: dict[str, tuple[tuple[str, str | None], ...]] = {
    "h": ((_OBJECTIVE_C, "Objective-C"), (_CPP, "C++")),
    "m": (
        (_OBJECTIVE_C + r"|^[ \t]*(?:#[ \t]*(?:include|define|pragma|if\w*)\b|//|/\*)", "Objective-C"),
        (r"^[ \t]*\(\*|\bBeginPackage\[|^\w+\[\w+_\w*(?:,[ \t]*\w+_\w*)*\][ \t]*:?=", "Mathematica"),
        (
            r"^[ \t]*(?:%|function\b|classdef\b|clear\b|clc\b|close all\b|end;?[ \t]*$)|^[ \t]*[\w.()]+[ \t]*=[^;\n]*;",
            "MATLAB",
        ),
    ),
    "pl": (
        (r"^#!.*\bperl|^[ \t]*(?:use[ \t]+[\w:.]+|my[ \t]*[$@%(]|sub[ \t]+\w+|package[ \t]+\w|=\w+|[$@%]\w)", "Perl"),
        (r"^[ \t]*:-|^[a-z]\w*(?:\(.{0,200}\))?[ \t]*(?::-|-->)|^[a-z]\w*\(.{0,200}\)\.[ \t]*$", "Prolog"),
    ),
    "pro": (
        (r"^[ \t]*(?:TEMPLATE|QT|SOURCES|HEADERS|CONFIG|TARGET|SUBDIRS)[ \t]*[+*-]?=", "QMake"),
        (r"^[ \t]*(?:pro|function)[ \t]+\w+[ \t]*(?:,|$)", "IDL"),
    ),
    "ts": ((r"\A\s*<(?:\?xml|!DOCTYPE[ \t]+TS|TS\b)", None),),  # translations of Qt
    "v": (
        (
            r"^[ \t]*(?:Require[ \t]+(?:Import|Export)|From[ \t]+[\w.]+[ \t]+Require|Theorem[ \t]|Lemma[ \t]|Proof\.|Qed\.)",
            "Coq",
        ),
    ),
    "fs": (
        (r"^[ \t]*(?:#version\b|precision[ \t]+\w+p\b|uniform[ \t]|varying[ \t])", "GLSL"),
        (r"^(?::[ \t]|\\[ \t])", "Forth"),
    ),
    "cls": (
        (r"^VERSION 1\.0 CLASS|^Attribute VB_", "Visual Basic"),
        (r"^[ \t]*(?:@\w{1,40}[ \t\n]+)?(?:public|private|global)[ \t]+(?:\w+[ \t]+){0,3}class\b", "Apex"),
    ),
    "r": ((r"(?i)\A\s*REBOL\s*\[", "Rebol"),),
    "cl": ((r"\b_{0,2}kernel[ \t]+void\b|\b__global\b", "OpenCL"),),
    "pp": ((r"^[ \t]*(?:class|define|node)[ \t]+['\w:.]+.{0,200}\{|=>", "Puppet"),),
    "d": ((r"\A\S+\.(?:o|lo|d)[ \t]*:", None),),  # what a compiler found a file to depend on
}
"""Of endings that languages share: what only one of them says. The first that is found counts, else the ending's own."""
SHARED = {
    ending: tuple((re.compile(said, re.MULTILINE), language) for said, language in tests)
    for ending, tests in _SHARED.items()
}
LOOK_BYTES = 20_000
SHEBANG = re.compile(rb"#![ \t]*(?:\S*/)?([\w.+-]+)(?:[ \t]+(?:-\S+[ \t]+)*(?:\w+=\S+[ \t]+)*([\w.+-]+))?")


def language_of(path: str, content: bytes) -> str | None:
    """None for what is not source code."""
    name = PurePosixPath(path).name.lower()
    if name in FILE_NAMES:
        return FILE_NAMES[name]
    extension = name.rpartition(".")[2] if "." in name else ""
    if tests := SHARED.get(extension):
        head = content[:LOOK_BYTES].decode("utf-8", "replace").replace("\r\n", "\n").lstrip("\ufeff")
        for said, shared in tests:
            if said.search(head):
                return shared
    for language, extensions in EXTENSIONS.items():
        if extension in extensions:
            return language
    return _by_shebang(content) if not extension else None


def _by_shebang(content: bytes) -> str | None:
    match = SHEBANG.match(content)
    if not match:
        return None
    program = (match[2] if match[1] == b"env" and match[2] else match[1]).decode()
    return INTERPRETERS.get(program.rstrip("0123456789.").lower())
