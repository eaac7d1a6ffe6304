import anthropic
import pydantic
from harness import CALL, CHAT, FINAL, MODEL, SUNNY, THING, TOKEN, TOLD, URL, WEATHER, main, raises

client = anthropic.Anthropic(base_url=URL, api_key=TOKEN, max_retries=0)
TOOL = {"name": "get_weather", "input_schema": WEATHER}


class Thing(pydantic.BaseModel):
    name: str
    size: int


def said(text, **more):
    talk = [{"role": "user", "content": text}]
    return {"model": MODEL, "max_tokens": 200, "messages": talk, **more}


def chat():
    assert client.messages.create(**said(CHAT)).content[0].text == SUNNY


def stream():
    with client.messages.stream(**said(CHAT)) as events:
        assert "".join(events.text_stream) == SUNNY


def structured():
    told = client.messages.parse(**said(THING), output_format=Thing)
    assert told.parsed_output == Thing(name="bee", size=3)


def tools():
    first = client.messages.create(**said(CALL, tools=[TOOL]))
    (call,) = [block for block in first.content if block.type == "tool_use"]
    assert call.input == {"city": "Köln"}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": TOLD}
    talk = [
        {"role": "user", "content": CALL},
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result]},
    ]
    last = client.messages.create(**said("", tools=[TOOL]) | {"messages": talk})
    assert last.content[0].text == FINAL


def errors():
    call = lambda: client.messages.create(**said(CHAT, extra_body={"temperature": 9}))  # noqa: E731
    raises(call, anthropic.BadRequestError)


main(chat=chat, stream=stream, structured=structured, tools=tools, errors=errors)
