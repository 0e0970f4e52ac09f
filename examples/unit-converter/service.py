"""What openapi.yaml describes, and /healthz for probes."""

import json
from decimal import Decimal, InvalidOperation
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from converter import UnitError, convert, units


class _Refused(Exception):
    """A request that is answered with a status and what is wrong with it."""

    def __init__(self, status: HTTPStatus, message: str):
        super().__init__(message)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    timeout = 30  # seconds that a client may say nothing

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        try:
            self._answer(HTTPStatus.OK, _route(url.path, parse_qs(url.query)))
        except _Refused as refused:
            self._answer(refused.status, {"error": str(refused)})

    def _answer(self, status: HTTPStatus, body: object) -> None:
        content = json.dumps(body).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_request(self, code="-", size="-") -> None:
        if self.path != "/healthz":
            print(json.dumps({"msg": "request", "method": self.command, "path": self.path, "status": int(code)}))


class Server(ThreadingHTTPServer):
    """The service at an address. Requests that are under way when it closes are answered."""

    daemon_threads = False

    def __init__(self, address: tuple[str, int]):
        super().__init__(address, _Handler)


def _route(path: str, query: dict[str, list[str]]) -> object:
    match path:
        case "/healthz":
            return {"status": "ok"}
        case "/units":
            return units()
        case "/convert":
            return _convert(query)
    raise _Refused(HTTPStatus.NOT_FOUND, f"there is nothing at {path}")


def _convert(query: dict[str, list[str]]) -> object:
    values = {}
    for name in ("value", "from", "to"):
        if len(query.get(name, [])) != 1:
            raise _Refused(HTTPStatus.BAD_REQUEST, f"parameter {name} is wanted once")
        values[name] = query[name][0]
    try:
        value = Decimal(values["value"])
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or abs(value.adjusted()) > 30:
        raise _Refused(HTTPStatus.BAD_REQUEST, f"value {values['value']!r} is no number, or too large or small a one")
    try:
        result = convert(value, values["from"], values["to"])
    except UnitError as error:
        raise _Refused(HTTPStatus.BAD_REQUEST, str(error)) from error
    return {"value": format(result, "f"), "unit": values["to"]}
