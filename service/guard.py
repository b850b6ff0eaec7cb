"""Every route says which scope it needs; keys are checked before a byte of the body is read."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from starlette.types import Message

from service.gateway import Gateway
from service.problems import documented
from xmag.db.keys import Principal
from xmag.errors import Code, RequestError

Scope = Literal["open", "submit", "read", "releases"]
MAX_BODY = 64 * 1024
MAX_TOKEN = 256

Handler = Callable[[Request], Awaitable[Response]]


def scope(needed: Scope, *codes: Code) -> dict[str, Any]:
    """Keyword arguments of a route: the scope it needs and the problems it documents."""
    common = (Code.DATABASE_UNAVAILABLE,) if needed == "open" else ALWAYS
    return {"openapi_extra": {"x-scope": needed}, "responses": documented(*codes, *common)}


ALWAYS = (Code.UNAUTHENTICATED, Code.FORBIDDEN, Code.INTERNAL, Code.DATABASE_UNAVAILABLE)


class GuardedRoute(APIRoute):
    """Authenticates, authorises, caps and checks the kind of the body, then lets the framework parse it."""

    @property
    def needed(self) -> Scope:
        """The declared scope; a route without one is a mistake found when the app is made."""
        needed: Scope = (self.openapi_extra or {})["x-scope"]
        return needed

    def get_route_handler(self) -> Callable[[Request], Any]:
        """Wrap the framework's handler."""
        inner = super().get_route_handler()
        needed, has_body = self.needed, self.body_field is not None

        async def handle(request: Request) -> Response:
            if needed != "open":
                request.state.principal = await authorise(request, needed)
            if has_body:
                request = await _with_body(request)
            return await inner(request)

        return handle


async def authorise(request: Request, needed: str) -> Principal:
    """Whose request this is; raises UNAUTHENTICATED and FORBIDDEN (which names the scope)."""
    principal = await gateway_of(request).principal(_token(request))
    if principal is None:
        raise RequestError(Code.UNAUTHENTICATED, "the key is unknown, expired or revoked: ask for a new one")
    if needed not in principal.scopes and "admin" not in principal.scopes:
        raise RequestError(Code.FORBIDDEN, f"the key lacks the scope `{needed}`")
    return principal


def gateway_of(request: Request) -> Gateway:
    """The app's one gateway."""
    gateway: Gateway = request.app.state.gateway
    return gateway


def principal_of(request: Request) -> Principal:
    """Who was found by `GuardedRoute`."""
    principal: Principal = request.state.principal
    return principal


OneGateway = Annotated[Gateway, Depends(gateway_of)]
Caller = Annotated[Principal, Depends(principal_of)]


def _token(request: Request) -> str:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    token = token.strip()
    if kind.lower() != "bearer" or not token:
        raise RequestError(Code.UNAUTHENTICATED, "send `Authorization: Bearer <key>`")
    if len(token) > MAX_TOKEN or not (token.isascii() and token.isprintable()):
        raise RequestError(Code.UNAUTHENTICATED, "the key is unknown, expired or revoked: ask for a new one")
    return token


async def _with_body(request: Request) -> Request:
    """The same request with its whole, small JSON body at hand."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError(Code.UNSUPPORTED_MEDIA, "send the body as `Content-Type: application/json`")
    declared = request.headers.get("content-length", "0")
    body = b""
    if not declared.isdecimal() or int(declared) <= MAX_BODY:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                break
        else:
            return Request(request.scope, _replay(body, request))
    raise RequestError(Code.TOO_LARGE, f"a body may hold at most {MAX_BODY} bytes")


def _replay(body: bytes, request: Request) -> Callable[[], Awaitable[Message]]:
    rest: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return rest.pop() if rest else await request.receive()

    return receive
