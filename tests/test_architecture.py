"""Laws of the house: sizes, docstrings, mirrored tests, the map, and no model named outside its folder."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "stentor"
MODELS = PACKAGE / "models"

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 8
FRAMEWORK_LINES = 10_000
LEAF_LINES = 10_500
MODEL_LINES = 1_500

# What grows by count, not by depth, and what nothing else builds on: doors, commands, measurements, kernels
# with a reference beside them, the way to other machines (docs/decisions/0007).
DOORS = ("server", "cli", "bench", "ui", "tts.py")
BEHIND_PROTOCOLS = ("layers/triton", "layers/attention/libraries", "pipeline/remote")
LEAVES = [PACKAGE / name for name in DOORS + BEHIND_PROTOCOLS]

# Commands whose parameters are the command line's own flags; typer reads them from the signature.
COMMANDS = PACKAGE / "cli"


def sources(*folders: str) -> list[Path]:
    """All Python files below the folders, without caches."""
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in found if "__pycache__" not in path.parts)


def model_folders() -> list[Path]:
    """One folder per model."""
    return sorted(path for path in MODELS.iterdir() if path.is_dir() and (path / "__init__.py").exists())


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(code: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


EVERYTHING = sources("stentor", "training", "benchmarks", "examples", "docs", "tests")
MODULES = sources("stentor", "training", "benchmarks", "examples", "docs")


# One test for all files of a law, not one each: a thousand would take ten seconds to be sent about.
def test_files_and_functions_fit_in_a_head() -> None:
    assert [f"{name_of(path)}: {what}" for path in EVERYTHING for what in too_large(path)] == []


def too_large(path: Path) -> Iterator[str]:
    code = path.read_text()
    if (length := len(code.splitlines())) > MAX_FILE_LINES:
        yield f"{length} lines"
    for function in functions(code):
        lines = (function.end_lineno or 0) - function.lineno + 1
        if lines > MAX_FUNCTION_LINES:
            yield f"{function.name} has {lines} lines"
        given = function.args
        parameters = [
            a.arg
            for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)
            if a.arg not in ("self", "cls")
        ]
        # A kernel takes its tensors, sizes and strides one by one.
        is_kernel = any("triton.jit" in ast.unparse(decorator) for decorator in function.decorator_list)
        if len(parameters) > MAX_PARAMETERS and COMMANDS not in path.parents and not is_kernel:
            yield f"{function.name} has {len(parameters)} parameters"


def test_every_module_opens_with_one_sentence() -> None:
    """In which it says what it knows."""
    first = {
        path: (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0] for path in MODULES
    }
    assert [name_of(path) for path, said in first.items() if not re.search(r"[.:]$", said)] == []


def does_something(path: Path) -> bool:
    """Is there a function with more than a docstring in it; declarations alone have nothing to test."""
    return any(
        not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        for function in functions(path.read_text())
        for statement in function.body
    )


def test_tests_mirror_the_package() -> None:
    inside = [path.relative_to(PACKAGE) for path in sources("stentor") if not path.name.startswith("__")]
    tested = [path for path in inside if does_something(PACKAGE / path)]
    wanted = [ROOT / "tests" / path.parent / f"test_{path.name}" for path in tested]
    assert [name_of(path) for path in wanted if not path.exists()] == []


def test_the_framework_stays_small_enough_to_hold_in_a_head() -> None:
    lines = {path: len(path.read_text().splitlines()) for path in sources("stentor")}
    of_models = {path for folder in model_folders() for path in folder.rglob("*.py")}
    of_leaves = {path for path in lines if any(path == leaf or leaf in path.parents for leaf in LEAVES)}
    assert sum(lines[path] for path in lines.keys() - of_models - of_leaves) <= FRAMEWORK_LINES
    assert sum(lines[path] for path in of_leaves) <= LEAF_LINES


@pytest.mark.parametrize("folder", model_folders(), ids=lambda path: path.name)
def test_a_model_stays_small(folder: Path) -> None:
    assert sum(len(path.read_text().splitlines()) for path in folder.rglob("*.py")) <= MODEL_LINES


def test_no_model_is_named_outside_its_folder_and_the_registry() -> None:
    names = {folder.name.split("_")[0] for folder in model_folders()}
    pattern = re.compile("|".join(sorted(names)) or "$^", re.IGNORECASE)
    inside = {path for folder in model_folders() for path in folder.rglob("*.py")} | {MODELS / "registry.py"}
    # To whisper is also a manner of speaking, and Qwen3 a family of blocks.
    inside |= {PACKAGE / "text" / "instructions.py", PACKAGE / "layers" / "transformer.py"}
    guilty = [
        name_of(path)
        for path in sources("stentor")
        if path not in inside and pattern.search(path.read_text())
    ]
    assert guilty == []


def test_the_map_names_every_room_and_no_other() -> None:
    rooms = {
        path.name + "/" if path.is_dir() else path.name
        for path in PACKAGE.iterdir()
        if (path.is_dir() and (path / "__init__.py").exists())
        or (path.suffix == ".py" and not path.name.startswith("__"))
    }
    titles = set(re.findall(r"^### `?([\w./]+)`?", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE))
    assert {title for title in titles if title.startswith("stentor/")} == {
        f"stentor/{room}" for room in rooms
    }


def test_there_is_no_room_for_leftovers() -> None:
    forbidden = {"utils", "common", "core", "misc", "experimental", "v2", "helpers"}
    assert [
        name_of(path) for path in sources("stentor") if forbidden & {path.stem, *path.relative_to(ROOT).parts}
    ] == []
