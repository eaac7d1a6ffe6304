"""The routes of Ollama."""

from __future__ import annotations

from rbee_worker.server.ollama import chat, embed, models, schemas
from rbee_worker.server.operation import OLLAMA, TEXT, WORK, Operation

_OTHERS = (
    ("POST", "/api/pull"),
    ("POST", "/api/push"),
    ("POST", "/api/create"),
    ("POST", "/api/copy"),
    ("DELETE", "/api/delete"),
    ("POST", "/api/blobs/{digest}"),
)

OPERATIONS = (
    Operation(
        "POST",
        "/api/chat",
        chat.chat,
        OLLAMA,
        "Answer a conversation, in Ollama's form",
        body=schemas.ChatEnvelope,
        answer=schemas.ChatLine,
        lines=True,
        errors=WORK,
    ),
    Operation(
        "POST",
        "/api/generate",
        chat.generate,
        OLLAMA,
        "Answer a prompt, in Ollama's form",
        body=schemas.GenerateEnvelope,
        answer=schemas.GenerateLine,
        lines=True,
        errors=WORK,
    ),
    Operation(
        "POST",
        "/api/embed",
        embed.embed,
        OLLAMA,
        "Vectors of texts, in Ollama's form",
        body=schemas.EmbedEnvelope,
        answer=schemas.Embedded,
        errors=WORK,
    ),
    Operation(
        "POST",
        "/api/embeddings",
        embed.old_embed,
        OLLAMA,
        "The vector of a text, in Ollama's first form",
        body=schemas.OldEmbedEnvelope,
        answer=schemas.OldEmbedded,
        errors=WORK,
    ),
    Operation("GET", "/api/tags", models.tags, OLLAMA, "The served model", answer=schemas.Tags),
    Operation(
        "GET", "/api/ps", models.processes, OLLAMA, "The loaded model", answer=schemas.Processes
    ),
    Operation("GET", "/api/version", models.version, OLLAMA, "Its version", answer=schemas.Version),
    Operation(
        "POST",
        "/api/show",
        models.show,
        OLLAMA,
        "What the model is and can do",
        body=schemas.ShowEnvelope,
        answer=schemas.Shown,
        errors=(404, *TEXT),
    ),
    *(
        Operation(
            method,
            path,
            models.refused,
            OLLAMA,
            "Refused: a worker serves one model",
            body=schemas.Unread,
            answer=dict,
        )
        for method, path in _OTHERS
    ),
)
