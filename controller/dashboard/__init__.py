"""Pages for people: templates rendered on the server, a few ES modules, one vendored chart library.

The pages show what the API shows and decide nothing. They work without scripts; scripts keep them
fresh and draw curves. Nothing is asked of another origin.
"""

from __future__ import annotations

import pathlib

from starlette.staticfiles import StaticFiles

FOLDER = pathlib.Path(__file__).parent


def static_files() -> StaticFiles:
    """Style, scripts and the vendored library."""
    return StaticFiles(directory=FOLDER / "static")
