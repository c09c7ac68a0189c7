"""HTML out of templates: one file that reads nothing else, and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from alexnet_fast.report.charts import javascript
from alexnet_fast.tools import atomic
from alexnet_fast.tools.errors import UserError

START = """
for (const node of document.querySelectorAll("div.chart")) {
  const spec = JSON.parse(document.getElementById(node.dataset.spec).textContent);
  vegaEmbed(node, spec, {actions: false, renderer: "svg", tooltip: {theme: "page"}})
    .catch(error => { node.textContent = "This chart cannot be drawn: " + error.message; console.error(error); });
}
addEventListener("beforeprint", () => { for (const node of document.querySelectorAll("details")) node.open = true; });
"""
"""Draws every chart of the page; prints what is folded too."""


def render(template: str, **values: Any) -> str:
    """The page.  Everything in `values` is escaped, whatever it holds: names come from strangers' files."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("alexnet_fast.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "number": number, "breakable": breakable}
    scripts = [javascript(), START]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-eval' " + " ".join(
        f"'sha256-{digest(script)}'" for script in scripts
    )
    return environment.get_template(template).render(scripts=scripts, policy=policy, **values)


def digest(script: str) -> str:
    """As a page's security policy names the scripts that may run."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def percent(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}%}"


def number(value: float | None, form: str = ",.3g") -> str:
    return "–" if value is None else format(value, form)


def breakable(name: str) -> Markup:
    """A class's name that may be broken after an underscore, which a browser takes for a letter."""
    return Markup("_<wbr>").join(name.split("_"))


def check_writable(file: Path) -> None:
    """UserError where `write_page` could not write the page; what lies there stays as it is."""
    if file.is_dir():
        raise UserError(f"{file}: is a folder. Give --out a file's name, such as {file / 'report.html'}.")
    made = [folder for folder in file.absolute().parents if not folder.exists()]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic.check_writable(file)
        for folder in made:
            folder.rmdir()
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror}). Give --out another place.") from error


def write_page(file: Path, page: str) -> None:
    """Write a page as UTF-8; UserError where that cannot be."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(file, page.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror}). Give --out another place.") from error
