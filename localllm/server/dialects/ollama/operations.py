"""The operations of Ollama's API, as `/openapi.json` describes them."""

from localllm.server.dialects.ollama.answer import NDJSON_MEDIA_TYPE, Answer
from localllm.server.dialects.ollama.chat_request import ChatRequest
from localllm.server.dialects.ollama.embeddings import (
    EmbedAnswer,
    EmbedBody,
    EmbeddingsAnswer,
    EmbeddingsBody,
)
from localllm.server.dialects.ollama.errors import refused_operations
from localllm.server.dialects.ollama.generate_request import PromptRequest
from localllm.server.dialects.ollama.models import Running, ShowBody, Shown, Tags, Version
from localllm.server.openapi import Operation

OPERATIONS = (
    Operation(
        method="GET",
        paths=("/",),
        summary="Say that a server is here; a browser is answered 404.",
        media_types=("text/plain; charset=utf-8",),
    ),
    Operation(
        method="GET",
        paths=("/api/version",),
        summary="Name the version of Ollama whose API this is.",
        answer=Version,
    ),
    Operation(
        method="GET",
        paths=("/api/tags",),
        summary="List the models that requests can name.",
        answer=Tags,
    ),
    Operation(
        method="GET",
        paths=("/api/ps",),
        summary="List the models that are in memory.",
        answer=Running,
    ),
    Operation(
        method="POST",
        paths=("/api/show",),
        summary="Describe one model.",
        body=ShowBody,
        answer=Shown,
    ),
    Operation(
        method="POST",
        paths=("/api/chat",),
        summary="Answer a conversation.",
        body=ChatRequest,
        answer=Answer,
        media_types=(NDJSON_MEDIA_TYPE,),
    ),
    Operation(
        method="POST",
        paths=("/api/generate",),
        summary="Answer a prompt, or fill in its middle.",
        body=PromptRequest,
        answer=Answer,
        media_types=(NDJSON_MEDIA_TYPE,),
    ),
    Operation(
        method="POST",
        paths=("/api/embed",),
        summary="Turn texts into vectors.",
        body=EmbedBody,
        answer=EmbedAnswer,
    ),
    Operation(
        method="POST",
        paths=("/api/embeddings",),
        summary="Turn a text into a vector.",
        body=EmbeddingsBody,
        answer=EmbeddingsAnswer,
    ),
    *refused_operations(),
)
