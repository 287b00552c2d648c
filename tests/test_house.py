"""The rules of CONTRIBUTING.md that a program can check, for every tracked Python file."""

import ast
import builtins
import io
import re
import subprocess
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OPENER = re.compile(r"(What|Who|Whom|Which|How|Where|Whether|Whose)\b")
PERCEPTION = {"found", "told", "asked", "given", "known", "shown", "own", "most"}
# Names and tokens are read only of files whose text has one of these.
PERHAPS_NAME = re.compile(rf"\b({'|'.join(PERCEPTION)})\b")
PERHAPS_COMMENT = re.compile(rf"#[# ]*{OPENER.pattern}")
RAISES = re.compile(r"\bRaises:?\s+([^.]*)")
FILE_LINES, FUNCTION_LINES = 400, 60
# Files and functions over the limits, with the reason for each.
LONG: dict[str, str] = {}


def tracked():
    command = ["git", "ls-files", "*.py"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split() if (ROOT / name).is_file()]


def bound_names(node):
    """Yield every name that an AST node binds: variables, attributes, parameters, functions."""
    match node:
        case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
            yield name
        case ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            yield name
        case ast.ClassDef(name=name) | ast.alias(asname=str(name)):
            yield name
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
            yield name
        case ast.keyword(arg=str(name)):
            yield name
        case ast.Global(names=names) | ast.Nonlocal(names=names):
            yield from names


def departures(path, text):
    """Yield one line for each departure from the style in one file."""
    lines, has_name = text.count("\n"), PERHAPS_NAME.search(text)
    if lines > FILE_LINES and path not in LONG:
        yield f"{path}: {lines} lines, at most {FILE_LINES}"
    for node in ast.walk(ast.parse(text)):
        where = f"{path}:{getattr(node, 'lineno', 1)}"
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node) or ""
            if OPENER.match(docstring):
                yield f"{where}: docstring opens with {docstring.split()[0]}"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES and f"{path}::{node.name}" not in LONG:
                yield f"{where}: {node.name} has {length} lines, at most {FUNCTION_LINES}"
        for name in bound_names(node) if has_name else ():
            if name in PERCEPTION:
                yield f"{where}: binds {name}"
    if not PERHAPS_COMMENT.search(text):
        return
    previous = -1  # the line of the last comment: only the first of a block opens it
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            line = token.start[0]
            if line != previous + 1 and OPENER.match(token.string.lstrip("# ")):
                yield f"{path}:{line}: comment opens with {token.string.split()[1]}"
            previous = line


def test_every_file_keeps_to_the_style():
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in tracked()}
    assert [line for name, text in texts.items() for line in departures(name, text)] == []


def test_every_exception_is_needed():
    unneeded = []
    for entry in LONG:
        path, _, function = entry.partition("::")
        text = (ROOT / path).read_text(encoding="utf-8")
        lengths = {
            node.name: (node.end_lineno or node.lineno) - node.lineno + 1
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        length, limit = text.count("\n"), FILE_LINES
        if function:
            length, limit = lengths.get(function, 0), FUNCTION_LINES
        if length <= limit:
            unneeded.append(entry)
    assert unneeded == []


def exceptions_in(text):
    """Return the exceptions that a file's docstrings say are raised, and the names it uses."""
    documented: set[str] = set()
    names: set[str] = set()
    if "Error" not in text:
        return documented, names
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for match in RAISES.finditer(ast.get_docstring(node) or ""):
                documented.update(re.findall(r"\b[A-Z]\w*Error\b", match[1]))
        match node:
            case ast.ClassDef(name=name) | ast.alias(name=name) | ast.Attribute(attr=name):
                names.add(name)
    return documented, names


def undefined_exceptions(texts):
    """Yield each path with an exception that its docstrings name and that exists nowhere."""
    exceptions = {path: exceptions_in(text) for path, text in texts.items()}
    defined = set(dir(builtins)).union(*(names for _, names in exceptions.values()))
    for path, (documented, _) in exceptions.items():
        yield from (f"{path}: Raises {name}" for name in sorted(documented - defined))


def test_every_exception_that_a_docstring_names_exists():
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in tracked()}
    assert list(undefined_exceptions(texts)) == []


def test_a_planted_name_of_no_exception_is_reported():
    texts = {
        "a.py": 'def f():\n    """Read. Raises OSError, GoneError or\n    KeptError."""\n',
        "b.py": "class KeptError(ValueError): ...\n",
    }
    assert list(undefined_exceptions(texts)) == ["a.py: Raises GoneError"]


@pytest.mark.parametrize(
    "text",
    [
        '"""What this module does."""\n',
        'class A:\n    """Who asks."""\n',
        'async def f():\n    """Whether it holds."""\n',
        "# How it works.\nx = 1\n",
        "x = 1  # Which one\n",
        "found = 1\n",
        "self.told = 1\n",
        "def f(asked): ...\n",
        "def f(*, given=1): ...\n",
        "def known(): ...\n",
        "f(shown=1)\n",
        "[own for own in x]\n",
        "import math as most\n",
        "for found, x in y: ...\n",
        "with x as told: ...\n",
        "x = (asked := 1)\n",
        "try: ...\nexcept E as known: ...\n",
        "class A:\n    most: int\n",
        "x = 1\n" * (FILE_LINES + 1),
        "def f():\n" + "    x = 1\n" * FUNCTION_LINES,
    ],
)
def test_a_planted_departure_is_reported(text):
    assert list(departures("planted.py", text))


@pytest.mark.parametrize(
    "text",
    [
        '"""Return what was asked."""\n',
        "# The worker stops\n# Where nobody waits.\nx = 1\n",
        "x = found\n",
        'x = {"told": 1}["told"]\n',
        "x = 1\n" * FILE_LINES,
    ],
)
def test_text_that_keeps_to_the_style_is_not_reported(text):
    assert list(departures("planted.py", text)) == []
