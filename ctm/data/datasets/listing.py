"""Finding folders and reading lists and tables in a tree of raw data."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator

from ctm.data.datasets.reader import Entry, Problem
from ctm.errors import DataError
from ctm.runtime.storage import Tree

__all__ = [
    "entries_of",
    "find_home",
    "find_prefix",
    "folder_files",
    "one_a_name",
    "problem",
    "read_list",
    "read_table",
    "read_text",
]


def find_prefix(tree: Tree, marker: str) -> str | None:
    """Where ``marker`` (the beginning of a path, such as ``JPEGImages/``) lies: ``""`` at the root, else the folders
    before it with a slash at the end; None if nowhere.

    Archives are often unpacked one or two folders too deep; the shallowest place wins, then the first.
    """
    places = {path[: -len(rest)] for path in tree.files for rest in _tails(path) if rest.startswith(marker)}
    return min(places, key=lambda place: (place.count("/"), place), default=None)


def find_home(tree: Tree, name: str, marker: str, contents: str) -> str:
    """As ``find_prefix``, for a data set that is unpacked to a folder called ``name``: unless it is the root itself,
    that folder wins over others that hold ``marker`` too, such as those of another edition.

    Raises:
        DataError: ``marker``, which has ``contents``, lies nowhere.
    """
    home = find_prefix(tree, marker)
    if home is None:
        raise DataError(
            f"{tree.uri} holds no folder {marker} with {contents}; set dataset.root to {name} or to a folder above it"
        )
    named = find_prefix(tree, f"{name}/{marker}") if home else None
    return home if named is None else f"{named}{name}/"


def _tails(path: str) -> Iterable[str]:
    """``a/b/c``, ``b/c``, ``c``."""
    parts = path.split("/")
    return ("/".join(parts[start:]) for start in range(len(parts)))


def folder_files(tree: Tree, folder: str, *, suffixes: tuple[str, ...], problems: list[Problem]) -> dict[str, str]:
    """Paths of the files directly in ``folder`` with one of ``suffixes`` (lower case), by stem, ascending.

    Files of one stem are added to ``problems``, see ``one_a_name``.
    """
    found: list[tuple[str, str]] = []
    start = f"{folder}/" if folder else ""
    for path in tree.files:
        name = path[len(start) :]
        stem, dot, suffix = name.rpartition(".")
        if not path.startswith(start) or "/" in name or f"{dot}{suffix}".lower() not in suffixes:
            continue
        found.append((stem, path))
    return one_a_name(tree, found, problems=problems)


def one_a_name(tree: Tree, files: Iterable[tuple[str, str]], *, problems: list[Problem]) -> dict[str, str]:
    """The first path of each name; samples of names that have more are then left out.

    Args:
        tree: where the files lie.
        files: the name that each path should have for itself.
        problems: gets those that have not.
    """
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name, path in files:
        found[name].append(path)
    for paths in found.values():
        if len(paths) > 1:
            places = " and ".join(tree.place(path) for path in paths)
            problems.append(Problem(paths[0], f"{places} have one name; remove one"))
    return {name: paths[0] for name, paths in found.items()}


def entries_of(found: Iterable[Entry | Problem], *, problems: list[Problem]) -> list[Entry]:
    """The entries among what was found; the rest is added to ``problems``."""
    entries = []
    for one in found:
        if isinstance(one, Entry):
            entries.append(one)
        else:
            problems.append(one)
    return entries


def read_text(tree: Tree, path: str) -> str:
    """The text of a UTF-8 file with or without a byte order mark.

    Raises:
        DataError: the file is missing or is no UTF-8.
    """
    if path not in tree.files:
        raise DataError(f"{tree.place(path)} is missing")
    try:
        return tree.read(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{tree.place(path)} is no UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error


def read_list(tree: Tree, path: str) -> list[str]:
    """The first word of each line that is not empty, whether or not the last line ends.

    Raises:
        DataError: the file is missing or is no UTF-8.
    """
    return [line.split()[0] for line in read_text(tree, path).splitlines() if line.strip()]


def read_table(
    tree: Tree, path: str, *, columns: Iterable[str], delimiter: str = ",", hint: str = ""
) -> Iterator[tuple[int, list[str]]]:
    """Yields line number and the wanted cells, stripped, of each row of a table with a header.

    Args:
        tree: where the file lies.
        path: the file.
        columns: the names of the wanted cells' columns.
        delimiter: what stands between two cells.
        hint: what to do about a row with more cells than the header, for the message.

    Raises:
        DataError: the file is missing, is no UTF-8, lacks a column, or a row has more cells than the header.
    """
    wanted = list(columns)
    rows = csv.DictReader(io.StringIO(read_text(tree, path), newline=""), delimiter=delimiter)
    try:
        yield from _cells(rows, tree.place(path), wanted=wanted, hint=hint)
    except csv.Error as error:
        raise DataError(
            f"{tree.place(path)} line {rows.line_num}: {error}; is a quotation mark not closed before it?"
        ) from error


def _cells(rows: csv.DictReader[str], place: str, *, wanted: list[str], hint: str) -> Iterator[tuple[int, list[str]]]:
    missing = sorted(set(wanted) - set(rows.fieldnames or ()))
    if missing:
        raise DataError(
            f"{place}: no column {' and '.join(map(repr, missing))} in the first line; "
            f"found {list(rows.fieldnames or ())}"
        )
    for row in rows:
        if None in row:
            raise DataError(f"{place} line {rows.line_num}: more cells than columns{hint and '; '}{hint}")
        yield rows.line_num, [(row[name] or "").strip() for name in wanted]


def problem(tree: Tree, path: str, message: str) -> Problem:
    """A problem with a file, whose message begins with the file's place."""
    return Problem(path, f"{tree.place(path)}: {message}")
