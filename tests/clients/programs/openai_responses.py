import json

import openai
import pydantic
from harness import CALL, CHAT, FINAL, MODEL, SUNNY, THING, TOKEN, TOLD, URL, WEATHER, main, raises

client = openai.OpenAI(base_url=URL + "/v1", api_key=TOKEN, max_retries=0)
TOOL = {"type": "function", "name": "get_weather", "parameters": WEATHER, "strict": False}


class Thing(pydantic.BaseModel):
    name: str
    size: int


def ask(text, **more):
    return client.responses.create(model=MODEL, input=text, **more)


def chat():
    assert ask(CHAT).output_text == SUNNY


def stream():
    with client.responses.stream(model=MODEL, input=CHAT) as events:
        text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
        assert text == events.get_final_response().output_text == SUNNY


def structured():
    told = client.responses.parse(model=MODEL, input=THING, text_format=Thing)
    assert told.output_parsed == Thing(name="bee", size=3)


def tools():
    said = ask(CALL, tools=[TOOL])
    (call,) = [item for item in said.output if item.type == "function_call"]
    assert json.loads(call.arguments) == {"city": "Köln"}
    told = [{"type": "function_call_output", "call_id": call.call_id, "output": TOLD}]
    last = ask(told, tools=[TOOL], previous_response_id=said.id)
    assert last.output_text == FINAL


def errors():
    raises(lambda: ask(CHAT, temperature=9), openai.BadRequestError)


main(chat=chat, stream=stream, structured=structured, tools=tools, errors=errors)
