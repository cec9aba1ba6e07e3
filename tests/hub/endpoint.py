"""The first port: search, repositories, trees and where files are."""

import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlencode

from tests.hub.content import Content
from tests.hub.handler import FaultyHandler
from tests.hub.repo import Repo, git_oid, is_lfs

if TYPE_CHECKING:
    from tests.hub.server import FakeHub

_REPO = r"(?P<repo>[^/]+/[^/]+)"
_INFO = re.compile(rf"/api/models/{_REPO}(?:/revision/(?P<revision>.+))?", re.S)
_TREE = re.compile(rf"/api/models/{_REPO}/tree/(?P<revision>[^/]+)(?:/(?P<under>.*))?", re.S)
_RESOLVE = re.compile(rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", re.S)
_CACHED = re.compile(rf"/api/resolve-cache/models/{_REPO}/(?P<revision>[^/]+)/(?P<file>.+)", re.S)
_BAD_TOKEN = "Invalid credentials in Authorization header"


class Endpoint(FaultyHandler):
    """Answers as huggingface.co does, as far as localllm and huggingface_hub ask."""

    hub: "FakeHub"

    def route(self, path: str) -> None:
        if "authorization" in self.request_seen.headers and not self._known:
            self.respond_error(401, _BAD_TOKEN)  # also where no token is needed
        elif path == "/api/models":
            self._search()
        elif match := _TREE.fullmatch(path):
            self._tree(match)
        elif match := _CACHED.fullmatch(path):
            self._small(match)
        elif match := _INFO.fullmatch(path):
            self._info(match)
        elif match := _RESOLVE.fullmatch(path):
            self._resolve(match)
        else:
            self.respond_error(404, "Sorry, we can't find the page you are looking for.")

    @property
    def _known(self) -> bool:
        return self.request_seen.token in self.hub.tokens

    def _search(self) -> None:
        parameters = parse_qsl(self.request_seen.query, keep_blank_values=True)
        given = dict(parameters)
        words = given.get("search", "").lower().split()
        tags = [value for name, value in parameters if name == "filter"]
        found = [
            repo
            for repo in self.hub.repos.values()
            if all(word in repo.name.lower() for word in words)
            and set(tags) <= {*repo.tags, "gguf", *(repo.name.split("/")[:1])}
            and given.get("author", repo.name.split("/")[0]) == repo.name.split("/")[0]
            and (not repo.private or self._known)
        ]
        if given.get("sort") in ("downloads", "likes"):
            found.sort(key=lambda repo: getattr(repo, given["sort"]), reverse=True)
        elif given.get("sort") == "lastModified":
            found.sort(key=lambda repo: repo.updated, reverse=True)
        expand = [value for name, value in parameters if name == "expand"]
        self._page([self._listed(repo, given, expand) for repo in found])

    def _listed(self, repo: Repo, given: dict[str, str], expand: list[str]) -> dict[str, object]:
        details = repo.details()
        if expand:
            return {name: details[name] for name in ("_id", "id", *expand) if name in details}
        return details if "full" in given else repo.summary()

    def _page(self, entries: list[dict[str, object]]) -> None:
        """One page of a listing; a Link header leads to the next."""
        given = self.request_seen.parameters
        start = int(given.get("cursor", "0"))
        end = start + min(self.hub.page, int(given.get("limit", "1000")))
        headers = {}
        if end < len(entries):
            query = [pair for pair in parse_qsl(self.request_seen.query) if pair[0] != "cursor"] + [
                ("cursor", str(end))
            ]
            address = f"{self.hub.endpoint}{quote(self.request_seen.path)}?{urlencode(query)}"
            headers["Link"] = f'<{address}>; rel="next"'
        self.respond_json(entries[start:end], headers)

    def _info(self, match: re.Match[str]) -> None:
        if found := self._find(match, metadata=True):
            repo, commit = found
            self.respond_json(repo.info(commit, blobs="blobs" in self.request_seen.parameters))

    def _tree(self, match: re.Match[str]) -> None:
        if found := self._find(match, metadata=True):
            repo, commit = found
            recursive = self.request_seen.parameters.get("recursive", "").lower() == "true"
            self._page(repo.tree(commit, match["under"] or "", recursive=recursive))

    def _resolve(self, match: re.Match[str]) -> None:
        found = self._find(match, metadata=False)
        if found is None:
            return
        repo, commit = found
        content = repo.commits[commit].get(match["file"])
        if content is None:
            self.respond_error(404, "Entry not found", "EntryNotFound")
            return
        self._lead(repo, commit, match["file"], content)

    def _lead(self, repo: Repo, commit: str, file: str, content: Content) -> None:
        """Say where a file is: on the CDN, or here for a small one."""
        headers = {
            "X-Repo-Commit": commit,
            "Accept-Ranges": "bytes",
            "X-Linked-Size": str(content.size),
            "Content-Type": "text/plain; charset=utf-8",
        }
        if is_lfs(file, content):
            address = self.hub.link(repo.name, commit, file)
            headers |= {"X-Linked-ETag": f'"{content.sha256}"', "Location": address}
            self.respond(302, f"Found. Redirecting to {address}".encode(), headers)
        else:
            address = f"/api/resolve-cache/models/{repo.name}/{commit}/{file}"
            etag = f'"{git_oid(content.sha256)}"'
            headers |= {"X-Linked-ETag": etag, "Location": quote(address, errors="surrogatepass")}
            self.respond(307, b"Temporary Redirect", headers)

    def _small(self, match: re.Match[str]) -> None:
        found = self._find(match, metadata=False)
        content = found[0].commits[found[1]].get(match["file"]) if found else None
        if found and content:
            etag = f'"{git_oid(content.sha256)}"'
            headers = {"X-Repo-Commit": found[1], "Content-Type": "text/plain; charset=utf-8"}
            self.respond_content(content, etag, headers)
        elif found:
            self.respond_error(404, "Entry not found", "EntryNotFound")

    def _find(self, match: re.Match[str], *, metadata: bool) -> tuple[Repo, str] | None:
        """The repository and commit of a request; None after an error was answered."""
        repo = self.hub.repos.get(match["repo"])
        if repo is None or (repo.private and not self._known):
            if self._known:
                self.respond_error(404, "Repository not found", "RepoNotFound")
            else:
                self.respond_error(401, "Invalid username or password.")
            return None
        if not metadata and repo.gated and self.request_seen.token not in self.hub.members:
            self._gated(repo)
            return None
        commit = repo.resolved(match["revision"] or "main")
        if commit is None:
            self.respond_error(404, f"Invalid rev id: {match['revision']}", "RevisionNotFound")
            return None
        return repo, commit

    def _gated(self, repo: Repo) -> None:
        restricted = f"Access to model {repo.name} is restricted"
        if self._known:
            why = f"{restricted} and you are not in the authorized list. Visit the page to ask."
            self.respond_error(403, why, "GatedRepo")
        else:
            why = f"{restricted}. You must have access to it and be authenticated. Please log in."
            self.respond_error(401, why, "GatedRepo")
