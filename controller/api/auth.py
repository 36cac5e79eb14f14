"""Who may ask: one bearer token for all, when one is set.

Browsers get a cookie that follows from the token and does not contain it. Requests that change
something must not come from another site's page, whether or not a token is set.
"""

from __future__ import annotations

import hashlib
import hmac
import urllib.parse

from starlette.requests import Request

from controller.api.problems import ApiProblem

COOKIE = "landbridge_session"

_OPEN = ("/livez", "/readyz", "/login")
_OPEN_FOLDER = "/static/"
_SAFE = ("GET", "HEAD", "OPTIONS")


def objection(request: Request, token: str) -> ApiProblem | None:
    """Why the request is turned away; None when it may pass."""
    if request.method not in _SAFE and _is_of_another_site(request):
        detail = "a page of another site may not change anything here"
        return ApiProblem(403, "cross-site", detail)
    path = request.url.path
    if not token or path in _OPEN or path.startswith(_OPEN_FOLDER) or _knows(request, token):
        return None
    detail = "send the header `Authorization: Bearer TOKEN`; the controller was given the token"
    challenge = {"WWW-Authenticate": 'Bearer realm="landbridge"'}
    return ApiProblem(401, "not-authorized", detail, headers=challenge)


def is_token(given: str, token: str) -> bool:
    """Whether it is the token, in constant time."""
    return hmac.compare_digest(given.encode(errors="replace"), token.encode())


def cookie_value(token: str) -> str:
    """What the browser of somebody who knows the token keeps."""
    return hmac.new(token.encode(), b"landbridge dashboard", hashlib.sha256).hexdigest()


def _knows(request: Request, token: str) -> bool:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return is_token(given.strip(), token)
    cookie = request.cookies.get(COOKIE, "")
    return hmac.compare_digest(cookie.encode(errors="replace"), cookie_value(token).encode())


def _is_of_another_site(request: Request) -> bool:
    origin = request.headers.get("origin")
    return origin is not None and urllib.parse.urlsplit(origin).netloc != request.headers.get(
        "host"
    )
