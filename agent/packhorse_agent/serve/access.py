"""Who may ask over TCP: programs on this device that know the token, not a web page in its browser."""

from __future__ import annotations

import hmac
import ipaddress
import re
from http import HTTPStatus

from packhorse_agent.serve.messages import Request, Response, error_response

_AUTHORITY = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]/@]+))(?::[0-9]{1,5})?")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(.+)")


def refuse_over_tcp(request: Request, token: str) -> Response | None:
    """The refusal of a request that came over TCP; None when it may pass.

    A name other than the loopback's in `Host` means that a name was rebound to this machine (DNS rebinding);
    such an `Origin` means that a web page from elsewhere asks.
    """
    host = request.headers.get("host")
    if host is None:
        return error_response(HTTPStatus.BAD_REQUEST, "the Host header is missing")
    if not _is_loopback(host):
        text = f"this endpoint is for the device itself: Host must be localhost or 127.0.0.1, not {host}"
        return error_response(HTTPStatus.MISDIRECTED_REQUEST, text)
    origin = request.headers.get("origin")
    if origin is not None and not _is_loopback_origin(origin):
        return error_response(HTTPStatus.FORBIDDEN, f"pages of {origin} may not ask this endpoint")
    if token and not _carries(request, token):
        text = "a bearer token is needed: the slot's token in the agent's configuration"
        return error_response(HTTPStatus.UNAUTHORIZED, text, {"WWW-Authenticate": "Bearer"})
    return None


def _carries(request: Request, token: str) -> bool:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    matches = hmac.compare_digest(given.strip().encode("latin-1"), token.encode())
    return scheme.lower() == "bearer" and matches


def _is_loopback_origin(origin: str) -> bool:
    match = _ORIGIN.fullmatch(origin)
    return match is not None and _is_loopback(match[1])


def _is_loopback(authority: str) -> bool:
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        return False
    host = match[1] or match[2]
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
