"""What mkdocs does beyond Markdown: links to files of the repository, and the command reference from the commands.

On GitHub a page links to ``../params.yaml``; the site has no such file, so each linked file becomes a page of it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

import ctm.cli
import pipelines.cli
from ctm.runtime.context import available_cores

REPOSITORY = Path(__file__).parents[1]
DOCS = f"{Path(__file__).parent.name}/"
COPIES = "repository/"
"""Folder of the site for pages that are made of files outside of ``docs``."""

LINK = re.compile(r"(?<=\]\()(?P<target>[^)#\s:]+)(?=[)#])")

COMMANDS = {"ctm": ctm.cli.app, "ctm-pipeline": pipelines.cli.app}


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Adds a page for each file and folder outside of ``docs`` that a page, or such a file in turn, links to."""
    waiting = [f"{DOCS}{file.src_uri}" for file in files.documentation_pages() if not file.generated_by]
    while waiting:
        source = waiting.pop()
        for path in _linked(source):
            if not path.startswith(DOCS) and files.get_file_from_path(_in_site(path)) is None:
                hidden = InclusionLevel.NOT_IN_NAV
                files.append(File.generated(config, _in_site(path), content=_content(path), inclusion=hidden))
                waiting += [path] if path.endswith(".md") else []


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links to files of the repository into links to their pages, and fills in the command reference."""
    uri = page.file.src_uri
    source = uri.removeprefix(COPIES) if uri.startswith(COPIES) else f"{DOCS}{uri}"
    if (REPOSITORY / source).is_file() and source.endswith(".md"):
        markdown = LINK.sub(lambda link: _relative(link["target"], source=source, page=uri), markdown)
    for program, app in COMMANDS.items():
        marker = f"<!-- commands of {program} -->"
        if marker in markdown:
            markdown = markdown.replace(marker, "\n".join(_commands(program, typer.main.get_command(app))))
    return markdown


def _linked(source: str) -> list[str]:
    """The files and folders of the repository that a Markdown file of it links to."""
    text = (REPOSITORY / source).read_text(encoding="utf-8")
    paths = [_resolved(link["target"], source=source) for link in LINK.finditer(text)]
    return [path for path in dict.fromkeys(paths) if not path.startswith("..") and (REPOSITORY / path).exists()]


def _content(path: str) -> str:
    """The page of a file or folder of the repository."""
    place = REPOSITORY / path
    if place.is_dir():
        names = sorted(f"{file.name}/" if file.is_dir() else file.name for file in place.iterdir())
        return "\n".join([f"# {path}", "", *(f"* `{name}`" for name in names if name != "__pycache__/")])
    text = place.read_text(encoding="utf-8")
    return text if path.endswith(".md") else f"# {path}\n\n````{place.suffix[1:]}\n{text}\n````\n"


def _resolved(target: str, *, source: str) -> str:
    """The path in the repository of what ``source`` links to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target))


def _in_site(path: str) -> str:
    """Where a file of the repository lies among the sources of the site."""
    if path.startswith(DOCS):
        return path.removeprefix(DOCS)
    return f"{COPIES}{path}" if path.endswith(".md") else f"{COPIES}{path}.md"


def _relative(target: str, *, source: str, page: str) -> str:
    """A link from a page of the site to what ``source`` links to; one that leads nowhere stays, for mkdocs to name."""
    path = _resolved(target, source=source)
    if not (REPOSITORY / path).exists():
        return target
    return posixpath.relpath(_in_site(path), posixpath.dirname(page) or ".")


def _commands(program: str, group: Any) -> list[str]:
    """Every command as ``--help`` shows it, as Markdown; options that all commands of a panel share stand once."""
    panels: dict[str, list[tuple[str, Any]]] = {}
    for name, command in group.commands.items():
        inner = getattr(command, "commands", {})
        listed = [(f"{name} {action}", about) for action, about in inner.items()] or [(name, command)]
        panels.setdefault(command.rich_help_panel, []).extend(listed)
    lines = []
    for panel, commands in panels.items():
        rows = {name: _rows(program, name, command) for name, command in commands}
        shared = [row for row in rows[commands[0][0]] if all(row in found for found in rows.values())]
        shared = shared if len(commands) > 1 else []
        lines += ["", f"## {program}: {panel}", ""]
        for name, command in commands:
            own = [row for row in rows[name] if row not in shared]
            lines += ["", f"### {program} {name}", "", " ".join((command.help or "").split()), "", *_table(own)]
        if shared:
            lines += ["", f"All commands of “{panel}” have these options, too:", "", *_table(shared)]
    return lines


def _table(rows: list[str]) -> list[str]:
    return ["| option | what |", "|---|---|", *rows] if rows else ["No options."]


def _rows(program: str, name: str, command: Any) -> list[str]:
    """A row for each argument and option, in the words of ``--help``."""
    context = command.make_context(f"{program} {name}", [], resilient_parsing=True)
    records = [(parameter, parameter.get_help_record(context)) for parameter in command.params]
    return [_row(parameter.name, *record) for parameter, record in records if record]


def _row(parameter: str, names: str, about: str) -> str:
    if parameter == "workers":  # what this machine has is no default of others
        about = about.replace(f"[default: {available_cores()};", "[default: the number of cores;")
    parts = re.split(r"(`[^`]*`)", " ".join(about.split()))
    plain = "".join(part if part.startswith("`") else re.sub(r"([|*<>\[\]_])", r"\\\1", part) for part in parts)
    return f"| `{names.replace('|', ', ')}` | {plain} |"
