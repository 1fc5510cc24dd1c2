"""What a stage's result depends on: its code, the libraries it imports, its parameters, its inputs."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import ctm
from ctm.stage import Stage

__all__ = ["PACKAGE", "fingerprint", "import_closure", "library_versions", "package_digest"]

PACKAGE = Path(ctm.__file__).parent


@cache
def import_closure(module: str) -> tuple[Path, ...]:
    """The files of ctm that importing and running ``module`` may read, relative to the folder that holds the package.

    Imports inside functions count, imports for type checkers do not. A parent package's ``__init__`` counts only where
    it is named itself: that of ``ctm.stages`` lists every stage. A module brings the data files that carry its name
    (``report.py`` brings ``report.html.j2``).
    """
    seen: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = _source(name)
        if file is None or name in seen:
            continue
        seen[name] = file
        waiting += [found for found in _imports(file) if found.split(".")[0] == PACKAGE.name]
    files = set(seen.values())
    files |= {data for file in files for data in file.parent.glob(f"{file.stem}.*") if data.suffix != ".pyc"}
    return tuple(sorted(file.relative_to(PACKAGE.parent) for file in files))


def library_versions(module: str) -> dict[str, str]:
    """The installed version of every distribution that the module's import closure names itself."""
    files = [PACKAGE.parent / file for file in import_closure(module) if file.suffix == ".py"]
    names = {name.split(".")[0] for file in files for name in _imports(file)}
    distributions = _distributions()
    found = {d for name in names for d in distributions.get(name, ()) if d != PACKAGE.name}
    return {name: version(name) for name in sorted(found)}


def fingerprint(stage: Stage, config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Identity of a run: equal fingerprints mean the same code, libraries, parameters and input contents.

    Args:
        stage: the stage that runs.
        config: its parameters as JSON-compatible values.
        inputs: the digest of each input.

    Returns:
        64 hexadecimal digits.
    """
    module = stage.run.__module__
    code = hashlib.sha256()
    for file in import_closure(module):
        code.update(f"{file.as_posix()}\0".encode() + (PACKAGE.parent / file).read_bytes() + b"\0")
    identity = {
        "stage": stage.name,
        "code": code.hexdigest(),
        "libraries": library_versions(module),
        "config": config,
        "inputs": dict(inputs),
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


@cache
def package_digest() -> str:
    """Digest of every file of the package: what a pipeline was submitted from and what an image holds must agree."""
    files = {p.relative_to(PACKAGE): p for p in PACKAGE.rglob("*") if p.is_file() and p.suffix != ".pyc"}
    digest = hashlib.sha256()
    for name, file in sorted(files.items()):
        if not any(part.startswith(".") for part in name.parts):  # what editors and desktops leave is in no wheel
            digest.update(f"{name.as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _source(module: str) -> Path | None:
    """The file of a module of ctm, or None for a name that is an attribute and no module."""
    path = PACKAGE.parent.joinpath(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


@cache
def _imports(file: Path) -> tuple[str, ...]:
    """Every name that a file imports; for ``from a import b`` both ``a.b`` and, if that is no module, ``a``."""
    names: list[str] = []
    for node in _walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            members = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in members if _source(name)]
            names += modules if len(modules) == len(members) else [*modules, node.module]
    return tuple(names)


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        guarded = isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"
        if not guarded:
            yield child
            yield from _walk(child)


@cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()
