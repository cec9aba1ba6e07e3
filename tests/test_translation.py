import pytest

from localllm import translation


@pytest.mark.parametrize("code", ["C", "en_GB.UTF-8", "xx", "POSIX"])
def test_a_language_without_a_catalogue_is_english(code: str) -> None:
    assert translation.set_language(code) == "en"
    assert translation._("Quit") == "Quit"
    assert translation._("") == ""  # gettext's header would come for it
    assert translation.ngettext("{n} model", "{n} models", 2) == "{n} models"
