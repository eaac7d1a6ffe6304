import json

import ollama
from harness import (
    CALL,
    CHAT,
    FINAL,
    MODEL,
    SCHEMA,
    SUNNY,
    THING,
    TOKEN,
    TOLD,
    URL,
    VECTORS,
    WEATHER,
    main,
    raises,
)

HEADERS = {"Authorization": f"Bearer {TOKEN}"}
client = ollama.Client(host=URL, headers=HEADERS)
vectors = ollama.Client(host=VECTORS, headers=HEADERS)
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}


def ask(text, **more):
    return client.chat(model=MODEL, messages=[{"role": "user", "content": text}], **more)


def chat():
    assert ask(CHAT).message.content == SUNNY


def stream():
    assert "".join(part.message.content for part in ask(CHAT, stream=True)) == SUNNY


def structured():
    assert json.loads(ask(THING, format=SCHEMA).message.content) == {"name": "bee", "size": 3}


def tools():
    first = ask(CALL, tools=[TOOL]).message
    (call,) = first.tool_calls
    assert call.function.arguments == {"city": "Köln"}
    result = {"role": "tool", "tool_name": "get_weather", "content": TOLD}
    talk = [{"role": "user", "content": CALL}, first, result]
    assert client.chat(model=MODEL, messages=talk, tools=[TOOL]).message.content == FINAL


def embeddings():
    assert len(vectors.embed(model=MODEL, input=["a", "b"]).embeddings) == 2


def errors():
    raises(lambda: ask(CHAT, options={"temperature": 9}), ollama.ResponseError)


main(
    chat=chat,
    stream=stream,
    structured=structured,
    tools=tools,
    embeddings=embeddings,
    errors=errors,
)
