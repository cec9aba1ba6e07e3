"""Where the tokens of a prompt came from."""

from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.messages import CacheReuse

COUNT = st.integers(0, 5000)


@given(own=COUNT, shared=COUNT, host=COUNT, checkpoint=COUNT, tokens=COUNT)
def test_what_is_lost_of_a_reuse_is_its_end(
    own: int, shared: int, host: int, checkpoint: int, tokens: int
) -> None:
    whole = CacheReuse(own=own, shared=shared, host=host, checkpoint=checkpoint)
    kept = whole.limited(tokens)
    assert kept.total == min(tokens, whole.total)
    assert whole.limited(whole.total) == whole
    assert kept.own == min(own, tokens)
    assert kept.checkpoint in (0, checkpoint) or kept.total == tokens
