"""The routes of OpenAI's completions, models, embeddings and speech."""

from __future__ import annotations

from rbee_worker.server import vector_schemas
from rbee_worker.server.openai import (
    chat,
    completions,
    embeddings,
    models,
    schemas,
    speech,
    speech_schemas,
)
from rbee_worker.server.operation import OPENAI, WORK, Operation

OPERATIONS = (
    Operation(
        "POST",
        "/v1/completions",
        completions.completions,
        OPENAI,
        "Continue a prompt",
        body=schemas.CompletionEnvelope,
        params="completions",
        answer=schemas.Completion,
        events=True,
        errors=WORK,
    ),
    Operation(
        "POST",
        "/v1/chat/completions",
        chat.chat_completions,
        OPENAI,
        "Answer a conversation",
        body=schemas.ChatEnvelope,
        params="chat",
        answer=schemas.ChatCompletion,
        events=True,
        errors=WORK,
    ),
    Operation(
        "GET",
        "/v1/models",
        models.models,
        OPENAI,
        "The served model",
        answer=schemas.ModelList,
    ),
    Operation(
        "GET",
        "/v1/models/{model:path}",
        models.model,
        OPENAI,
        "The served model, by its name",
        answer=schemas.ModelCard,
        errors=(404,),
    ),
    Operation(
        "POST",
        "/v1/embeddings",
        embeddings.embeddings,
        OPENAI,
        "Vectors of texts",
        body=vector_schemas.EmbeddingEnvelope,
        answer=vector_schemas.EmbeddingList,
        errors=WORK,
    ),
    Operation(
        "POST",
        "/v1/audio/speech",
        speech.speech,
        OPENAI,
        "A text spoken: WAV, bare samples, or codes",
        body=speech_schemas.SpeechEnvelope,
        params="speech",
        answer=speech_schemas.Codes,
        events=True,
        sounds=("audio/wav", "audio/pcm"),
        errors=WORK,
    ),
)
