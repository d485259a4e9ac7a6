"""Pages of one HTML file: their templates, and pictures inside them."""

import base64
import os

import jinja2


def page_templates(folder: str | os.PathLike[str]) -> jinja2.Environment:
    """Return the templates in a folder; they escape all text, and a missing value is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def data_uri(png: bytes) -> str:
    """Return a PNG file as the address of a picture inside a page."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
