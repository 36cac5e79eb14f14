"""Job specs read, checked and planned on this machine, without a controller.

The rules and the arithmetic are those of controller.api, imported when they are asked for: the
extra `controller` has what they need.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

import typer

from landbridge.errors import InvalidSpec, NotInstalled

if TYPE_CHECKING:
    from controller.api.spec import Spec

Document = dict[str, Any]


def sources(path: pathlib.Path) -> list[Document]:
    """The entries of data.sources, every default written out. Raises as `_read` does."""
    spec = _read(path, refuse_unavailable=True)
    from controller.api.conversion import normalise

    return normalise(spec)["data"]["sources"]


def plan(path: pathlib.Path) -> Document:
    """The plan of the spec on the devices it assumes; of pods nothing is known here.

    Raises as `_read` does.
    """
    spec = _read(path, refuse_unavailable=False)
    from controller.api.plan import plan_document

    return plan_document(spec, None)


def not_installed(error: ImportError) -> NotInstalled:
    """What to install, for a command that works without a controller."""
    detail = f"{error.name} is not installed here; pip install 'landbridge[controller,worker]'"
    return NotInstalled(detail)


def _read(path: pathlib.Path, *, refuse_unavailable: bool) -> Spec:
    """The valid spec in a file; its data need not be on this machine.

    Raises InvalidSpec with everything that is wrong, NotInstalled where the extra is not
    installed, and typer.BadParameter where the file is no text.
    """
    try:
        from controller.api.documents import parse_json, parse_yaml
        from controller.api.problems import ApiProblem
        from controller.api.validation import validate
    except ImportError as error:
        raise not_installed(error) from error
    parse = parse_json if path.suffix == ".json" else parse_yaml
    try:
        text = path.read_text(encoding="utf-8")
        return validate(text, parse, check_data_paths=False, refuse_unavailable=refuse_unavailable)
    except ApiProblem as problem:
        errors = [error.document() for error in problem.errors]
        raise InvalidSpec(
            problem.status, {"detail": problem.detail, "errors": errors}, {}
        ) from problem
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path} cannot be read as UTF-8: {error}") from error
