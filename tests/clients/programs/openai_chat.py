import json

import openai
import pydantic
from harness import (
    CALL,
    CHAT,
    FINAL,
    MODEL,
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

client = openai.OpenAI(base_url=URL + "/v1", api_key=TOKEN, max_retries=0)
vectors = openai.OpenAI(base_url=VECTORS + "/v1", api_key=TOKEN, max_retries=0)
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}


class Thing(pydantic.BaseModel):
    name: str
    size: int


def ask(text, **more):
    talk = [{"role": "user", "content": text}]
    return client.chat.completions.create(model=MODEL, messages=talk, **more)


def chat():
    assert ask(CHAT).choices[0].message.content == SUNNY


def stream():
    chunks = ask(CHAT, stream=True, stream_options={"include_usage": True})
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == SUNNY


def structured():
    talk = [{"role": "user", "content": THING}]
    told = client.chat.completions.parse(model=MODEL, messages=talk, response_format=Thing)
    assert told.choices[0].message.parsed == Thing(name="bee", size=3)


def tools():
    said = ask(CALL, tools=[TOOL]).choices[0]
    (call,) = said.message.tool_calls
    assert said.finish_reason == "tool_calls"
    assert json.loads(call.function.arguments) == {"city": "Köln"}
    talk = [
        {"role": "user", "content": CALL},
        said.message,
        {"role": "tool", "tool_call_id": call.id, "content": TOLD},
    ]
    last = client.chat.completions.create(model=MODEL, messages=talk, tools=[TOOL])
    assert last.choices[0].message.content == FINAL


def embeddings():
    told = vectors.embeddings.create(model=MODEL, input=["a", "b"])
    assert [len(row.embedding) for row in told.data] == [8, 8]


def errors():
    raises(lambda: ask(CHAT, temperature=9), openai.BadRequestError)


main(
    chat=chat,
    stream=stream,
    structured=structured,
    tools=tools,
    embeddings=embeddings,
    errors=errors,
)
