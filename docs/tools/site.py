"""Hooks of the site (mkdocs.yml) that keep links out of docs/ inside the site.

Records and other Markdown files become pages under their own path. Any other linked file becomes a page under source/ that
shows it. Nothing is downloaded.
"""

from __future__ import annotations

import posixpath
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # mkdocs runs hooks as single files

from docs.tools.links import LINK, is_web, resolve, targets, text_of  # noqa: E402

_LANGUAGES = {".py": "python", ".json": "json", ".sh": "bash", ".sbatch": "bash", ".toml": "toml", ".yml": "yaml"}
_REPOSITORY_PATH: dict[str, str] = {}
"""Path of a page in the site -> its file in the repository."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the records to the navigation."""
    titles = {path: _title(path) for path in sorted((ROOT / "benchmarks").glob("*.md"))}
    counts = Counter(titles.values())
    named = {path: f"{title} ({path.stem})" if counts[title] > 1 else title for path, title in titles.items()}
    assert config.nav is not None
    config.nav.append({"Records": [{title: f"benchmarks/{path.name}"} for path, title in named.items()]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for every file outside docs/ that can be reached by links."""
    pages = {f"docs/{file.src_uri}" for file in files.documentation_pages()}
    waiting = [*pages, *(f"benchmarks/{path.name}" for path in (ROOT / "benchmarks").glob("*.md"))]
    seen: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        if path not in pages:
            files.append(File.generated(config, site_path(path), content=_content(path)))
        if path.endswith(".md"):
            waiting += [linked for target in targets(text_of(ROOT, path)) if _has_page(linked := resolve(path, target)[0])]
        _REPOSITORY_PATH[site_path(path)] = path
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Rewrites links to the pages of the site."""
    own = _REPOSITORY_PATH[page.file.src_uri]
    if not own.endswith(".md"):
        return markdown

    def link(match: Any) -> str:
        text, target = match.groups()
        if is_web(target):
            return str(match.group())
        path, anchor = resolve(own, target)
        there = posixpath.relpath(site_path(path), posixpath.dirname(page.file.src_uri) or ".")
        return f"{text}({there}{'#' + anchor if anchor else ''})"

    return LINK.sub(link, markdown)


def site_path(path: str) -> str:
    """Returns the path in the site of a file of the repository."""
    if path == "README.md":
        return "index.md"  # the site has its own first page
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return path if path.endswith(".md") else f"source/{path}.md"


def _has_page(path: str) -> bool:
    # mkdocs itself reports links to missing files.
    return path != "README.md" and not path.endswith((".png", ".svg", ".ipynb")) and (ROOT / path).is_file()


def _content(path: str) -> str:
    text = text_of(ROOT, path)
    if path.endswith(".md"):
        return text
    fence = "`" * 8
    unsearched = "---\nsearch:\n  exclude: true\n---\n\n"
    return f"{unsearched}# {Path(path).name}\n\n`{path}`\n\n{fence}{_LANGUAGES.get(Path(path).suffix, 'text')}\n{text}\n{fence}\n"


def _title(path: Path) -> str:
    return path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ").replace("`", "")
