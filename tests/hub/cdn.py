"""The second port: bytes behind signed addresses, and nothing else."""

from typing import TYPE_CHECKING

from tests.hub.handler import FaultyHandler

if TYPE_CHECKING:
    from tests.hub.server import FakeHub


class Cdn(FaultyHandler):
    """Refuses what a bucket refuses: an expired or wrong signature (403), and an address with a
    signature that comes with Authorization besides (400)."""

    hub: "FakeHub"

    def route(self, path: str) -> None:
        if "authorization" in self.request_seen.headers:
            self._error(400, "InvalidArgument", "Only one auth mechanism allowed")
            return
        organisation, name, commit, file = [*path.lstrip("/").split("/", 3), "", "", ""][:4]
        repo = f"{organisation}/{name}"
        given = self.request_seen.parameters
        signature = given.get("X-Signature", "")
        right = self.hub.signature(f"{repo}/{commit}/{file}", self.hub.generation)
        if signature != right or self.hub.link_is_spent(signature):
            self._error(403, "AccessDenied", "Request has expired")
            return
        content = self.hub.file(repo, commit, file)
        if content is None:
            self._error(404, "NoSuchKey", "The specified key does not exist.")
            return
        etag = self.hub.cdn_etag(repo, commit, file)
        self.respond_content(content, etag, {"Content-Type": "application/octet-stream"})

    def _error(self, status: int, code: str, message: str) -> None:
        body = (
            f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
        )
        self.respond(status, body.encode(), {"Content-Type": "application/xml"})
