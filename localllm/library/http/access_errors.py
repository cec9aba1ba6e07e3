"""Errors for the Hub's 401, 403 and 404, each with what to do about it.

The statuses alone do not say: the Hub answers 401 for a missing repository as for a private one,
and also for a public one when it does not know the token; a gated repository shows its files and
refuses only their bytes.
"""

from localllm.core.text import single_line
from localllm.errors import AccessDenied, HubError, LocalLLMError, NotFound
from localllm.library.http.urls import printable_url

TOKEN_HELP = (
    "set HF_TOKEN, run `hf auth login`, or store it in the keyring (service localllm, user"
    " huggingface)"
)
_UNKNOWN_TOKEN = "invalid credentials"  # of "Invalid credentials in Authorization header"


class InvalidToken(HubError):
    """An endpoint does not know the token that was sent; without one it might respond."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(
            f"{printable_url(endpoint)} does not know your token, so it was asked without one."
            f" Renew the token: {TOKEN_HELP}."
        )


def access_error(
    status: int,
    *,
    code: str,
    message: str,
    sent_token: bool,
    endpoint: str,
    repo: str,
    what: str,
) -> LocalLLMError | None:
    """Return the error that a response means; None for a status that is no refusal.

    `code` and `message` are the response's X-Error-Code and X-Error-Message; `what` names the
    resource in words.
    """
    host = printable_url(endpoint)
    if status == 401 and sent_token and (code != "GatedRepo" or _UNKNOWN_TOKEN in message.lower()):
        return InvalidToken(endpoint)
    if code == "GatedRepo" or status == 403:
        return _gated(repo, host, sent_token)
    if status == 401 or (status == 404 and code == "RepoNotFound"):
        return NotFound(
            f"{host} has no {repo}, or it is private. Check the name; for a private one"
            f" {'use a token that may read it' if sent_token else TOKEN_HELP}."
        )
    if status in (404, 410):
        return NotFound(f"{host} has no {what}{_in_brackets(message)}.")
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


def _in_brackets(message: str) -> str:
    return f" ({single_line(message)[:120]})" if message else ""
