"""docs/privacy.md says what the code does."""

from pathlib import Path

from localllm.library.http.client import OUTBOUND_REQUESTS, OutboundRequest

PAGE = Path(__file__).parents[2] / "docs" / "privacy.md"
BEGIN, END = "<!-- connections: begin -->\n", "<!-- connections: end -->\n"
HEAD = "| what for | verbs | asked | request | sent |\n| --- | --- | --- | --- | --- |\n"


def row(connection: OutboundRequest) -> str:
    verbs = ", ".join(f"`{verb}`" for verb in connection.verbs)
    cells = (connection.purpose, verbs, connection.host, connection.request, connection.sent)
    return f"| {' | '.join(cells)} |\n"


def test_the_table_of_connections_is_the_list_of_the_code() -> None:
    text = PAGE.read_text("utf-8")
    table = text[text.index(BEGIN) + len(BEGIN) : text.index(END)]
    assert table == HEAD + "".join(row(each) for each in OUTBOUND_REQUESTS)


def test_a_cell_cannot_break_the_table() -> None:
    for each in OUTBOUND_REQUESTS:
        assert row(each).count("|") == HEAD.splitlines()[0].count("|")
        assert row(each).count("\n") == 1
