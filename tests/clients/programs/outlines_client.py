import json

import openai
import outlines
import pydantic
from harness import CHAT, MODEL, SUNNY, THING, TOKEN, URL, main, raises

client = openai.OpenAI(base_url=URL + "/v1", api_key=TOKEN, max_retries=0)
model = outlines.from_openai(client, MODEL)


class Thing(pydantic.BaseModel):
    name: str
    size: int


def chat():
    assert model(CHAT) == SUNNY


def stream():
    assert "".join(model.stream(CHAT)) == SUNNY


def structured():
    assert json.loads(model(THING, Thing)) == {"name": "bee", "size": 3}


def errors():
    raises(lambda: model(CHAT, temperature=9), Exception)


main(chat=chat, stream=stream, structured=structured, errors=errors)
