"""What the Hub means by 401, 403 and 404, and what to do about it.

It answers 401 for a missing repository as for a private one, and also for a public one when the
token is not known; gated repositories show their files and refuse only the bytes.
"""

from localllm.core.text import single_line
from localllm.errors import AccessDenied, HubError, LocalLLMError, NotFound
from localllm.library.http.client import shown_url

TOKEN_HELP = (
    "set HF_TOKEN, run `hf auth login`, or store it in the keyring (service localllm, user"
    " huggingface)"
)
_UNKNOWN_TOKEN = "invalid credentials"  # of "Invalid credentials in Authorization header"


class TokenRefused(HubError):
    """An endpoint does not know the token that was sent; without one it might answer."""

    def __init__(self, endpoint: str) -> None:
        self.said = (
            f"{shown_url(endpoint)} does not know your token, so it was asked without one. Renew"
            f" the token: {TOKEN_HELP}."
        )
        super().__init__(self.said)


def denial(
    status: int,
    *,
    code: str,
    message: str,
    sent_token: bool,
    endpoint: str,
    repo: str,
    what: str,
) -> LocalLLMError | None:
    """The error that a refusing answer means; None for a status that is no refusal.

    `code` and `message` are the answer's X-Error-Code and X-Error-Message; `what` was asked for,
    in words.
    """
    host = shown_url(endpoint)
    if status == 401 and sent_token and (code != "GatedRepo" or _UNKNOWN_TOKEN in message.lower()):
        return TokenRefused(endpoint)
    if code == "GatedRepo" or status == 403:
        return _gated(repo, host, sent_token)
    if status == 401 or (status == 404 and code == "RepoNotFound"):
        return NotFound(
            f"{host} has no {repo}, or it is private. Check the name; for a private one"
            f" {'use a token that may read it' if sent_token else TOKEN_HELP}."
        )
    if status in (404, 410):
        return NotFound(f"{host} has no {what}{_said(message)}.")
    return None


def _gated(repo: str, host: str, sent_token: bool) -> AccessDenied:
    page = f"{host}/{repo}"
    if sent_token:
        return AccessDenied(
            f"Your token may not read {repo}. Open {page} with the token's account and ask for"
            " access; a fine-grained token must also allow gated repositories."
        )
    return AccessDenied(
        f"{repo} wants a token. Open {page} and accept its terms, make a token at"
        f" {host}/settings/tokens, then {TOKEN_HELP}."
    )


def _said(message: str) -> str:
    return f" ({single_line(message)[:120]})" if message else ""
