"""The report as one HTML file, which needs no network."""

from __future__ import annotations

import base64
import hashlib
import math
from pathlib import Path

from markupsafe import Markup

from pcam_lightning.plots.page import data_uri, page_templates
from pcam_lightning.report.blocks import Value, pictures_of
from pcam_lightning.report.document import Document
from pcam_lightning.report.notes import markdown_parser

HERE = Path(__file__).parent


def render_page(document: Document) -> str:
    """Return the page: all text escaped, pictures inside, and one script, which sorts tables.

    A content security policy allows only this script, by its digest, and no request.
    """
    environment = page_templates(HERE)
    environment.filters |= {
        "data_uri": data_uri,
        "markdown": lambda text: Markup(markdown_parser().render(text)),
        "sort_key": _sort_key,
        "kind": lambda block: type(block).__name__,
    }
    environment.tests["numeric"] = lambda table, column: any(
        isinstance(row[column], int | float) for row in table.rows
    )
    script = (HERE / "sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html.j2").render(
        document=document,
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_digest=digest,
        pictures=len(pictures_of(document.sections)),
    )


def _sort_key(value: Value) -> str:
    """Return the text by which the script sorts a cell: a number in full, or the text itself."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(value) if isinstance(value, int | float) else value
