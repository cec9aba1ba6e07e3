"""A query and a document as one text, the way a reranker was trained on them."""

import re

import llama_cpp.llama_cpp as llama

from localllm.engine.worker.model import Model


class Pairs:
    """With the model's own template ("tokenizer.chat_template.rerank"), or with the vocabulary's
    special tokens around the two, as llama-server's `format_prompt_rerank`."""

    def __init__(self, model: Model) -> None:
        self._model = model
        native = llama.llama_get_model(model.handle)
        template = llama.llama_model_chat_template(native, b"rerank")
        self._template = template.decode("utf-8", "replace") if template else None
        self._query: tuple[str, list[int]] = ("", [])
        """The last one and its tokens: it is the same for all documents of a request."""

    def tokens(self, query: str, document: str, *, at_most: int | None = None) -> list[int]:
        """The pair; of a document that makes it longer than `at_most` the beginning."""
        if self._template is None:
            if query != self._query[0]:
                self._query = (query, self._plain(query))
            return self._joined(self._query[1], self._plain(document), at_most)
        tokens = self._templated(self._template, query, document)
        while at_most is not None and len(tokens) > at_most and document:
            rest = self._templated(self._template, query, "")
            share = max(0, at_most - len(rest)) / max(1, len(tokens) - len(rest))
            document = document[: min(int(len(document) * share), len(document) - 1)]
            tokens = self._templated(self._template, query, document)
        return tokens

    def _templated(self, template: str, query: str, document: str) -> list[int]:
        named = {"{query}": query, "{document}": document}
        text = re.sub(r"\{query\}|\{document\}", lambda found: named[found[0]], template)
        return self._model.tokenize(text, special=True, ends=False)

    def _plain(self, text: str) -> list[int]:
        return self._model.tokenize(text, special=False, ends=False)

    def _joined(self, query: list[int], document: list[int], at_most: int | None) -> list[int]:
        vocab = self._model.vocab
        separator = [llama.llama_vocab_sep(vocab)] if llama.llama_vocab_get_add_sep(vocab) else []
        end = llama.llama_vocab_eos(vocab)
        ends = [end if end >= 0 else llama.llama_vocab_sep(vocab)]
        ends = ends if llama.llama_vocab_get_add_eos(vocab) else []
        start = [llama.llama_vocab_bos(vocab)] if llama.llama_vocab_get_add_bos(vocab) else []
        before = [token for token in (*start, *query, *ends, *separator) if token >= 0]
        after = [token for token in ends if token >= 0]
        if at_most is not None:
            document = document[: max(0, at_most - len(before) - len(after))]
        return [*before, *document, *after]
