"""The documentation site, built by `make site`."""

import re

from sphinx.application import Sphinx

from otel_lifecycle.version import __version__

REPOSITORY = "https://github.com/otel-lifecycle/otel-lifecycle/blob/main/"

project = "otel-lifecycle"
author = "The otel-lifecycle authors"
copyright = author  # noqa: A001
version = release = __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_argparse_cli",
    "sphinx_copybutton",
]
# GitHub has anchors for headings too: the same links work in both places.
myst_heading_anchors = 4
myst_links_external_new_tab = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True
html_theme = "furo"
html_title = f"otel-lifecycle {release}"
html_theme_options = {
    "source_repository": "https://github.com/otel-lifecycle/otel-lifecycle/",
    "source_branch": "main",
    "source_directory": "docs/",
}
suppress_warnings = ["myst.header"]  # generated tables begin below their page's own heading


def link_to_repository(_app: Sphinx, _page: str, source: list[str]) -> None:
    """Let links that leave the folder of the pages lead to the repository."""
    source[0] = re.sub(r"\]\(\.\./([^)]*)\)", rf"]({REPOSITORY}\1)", source[0])


def double_backticks(
    _app: Sphinx, _kind: str, _name: str, _object: object, _options: object, lines: list[str]
) -> None:
    """Docstrings have `code` as the pages do; reStructuredText wants two backticks."""
    lines[:] = [re.sub(r"(?<![`:\w])`([^`\n]+)`(?!`)", r"``\1``", line) for line in lines]


def setup(app: Sphinx) -> None:
    """Register the hooks."""
    app.connect("source-read", link_to_repository)
    app.connect("autodoc-process-docstring", double_backticks, priority=100)  # before napoleon
