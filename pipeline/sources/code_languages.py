"""The programming language of a file, by its name, else by its first line."""

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
SHEBANG = re.compile(rb"#![ \t]*(?:\S*/)?([\w.+-]+)(?:[ \t]+(?:-\S+[ \t]+)*(?:\w+=\S+[ \t]+)*([\w.+-]+))?")


def language_of(path: str, content: bytes) -> str | None:
    """None for what is not source code."""
    name = PurePosixPath(path).name.lower()
    if name in FILE_NAMES:
        return FILE_NAMES[name]
    extension = name.rpartition(".")[2] if "." in name else ""
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
