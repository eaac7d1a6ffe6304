import json
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
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

TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}
SAME = {"model": f"openai/{MODEL}", "api_base": URL + "/v1", "api_key": TOKEN}
FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "thing", "schema": SCHEMA, "strict": True},
}


def ask(text, **more):
    return litellm.completion(messages=[{"role": "user", "content": text}], **SAME, **more)


def chat():
    assert ask(CHAT).choices[0].message.content == SUNNY


def stream():
    chunks = ask(CHAT, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == SUNNY


def structured():
    told = ask(THING, response_format=FORMAT).choices[0].message.content
    assert json.loads(told) == {"name": "bee", "size": 3}


def tools():
    first = ask(CALL, tools=[TOOL]).choices[0].message
    (call,) = first.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Köln"}
    result = {"role": "tool", "tool_call_id": call.id, "content": TOLD}
    talk = [{"role": "user", "content": CALL}, first, result]
    last = litellm.completion(messages=talk, tools=[TOOL], **SAME)
    assert last.choices[0].message.content == FINAL


def embeddings():
    told = litellm.embedding(input=["a", "b"], **SAME | {"api_base": VECTORS + "/v1"})
    assert len(told.data) == 2


def errors():
    raises(lambda: ask(CHAT, temperature=9), litellm.BadRequestError)


main(
    chat=chat,
    stream=stream,
    structured=structured,
    tools=tools,
    embeddings=embeddings,
    errors=errors,
)
