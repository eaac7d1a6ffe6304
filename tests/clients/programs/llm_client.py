import json
import os
import tempfile
from pathlib import Path

from harness import CALL, CHAT, FINAL, MODEL, SCHEMA, SUNNY, THING, TOKEN, TOLD, URL, main, tells

FOLDER = Path(tempfile.mkdtemp())
os.environ["LLM_USER_PATH"] = str(FOLDER)
(FOLDER / "extra-openai-models.yaml").write_text(
    json.dumps(
        [
            {
                "model_id": "bee",
                "model_name": MODEL,
                "api_base": URL + "/v1",
                "api_key_name": "bee",
                "supports_schema": True,
                "supports_tools": True,
            }
        ]
    )
)
(FOLDER / "keys.json").write_text(json.dumps({"bee": TOKEN}))

import llm

model = llm.get_model("bee")


def get_weather(city: str) -> str:
    """The weather of a city."""
    assert city == "Köln"
    return TOLD


def chat():
    assert model.prompt(CHAT, stream=False).text() == SUNNY


def stream():
    assert "".join(model.prompt(CHAT)) == SUNNY


def structured():
    told = model.prompt(THING, schema=SCHEMA, stream=False).text()
    assert json.loads(told) == {"name": "bee", "size": 3}


def tools():
    told = model.chain(CALL, tools=[get_weather], stream=False).text()
    assert told.endswith(FINAL), told


def errors():
    """The client checks the range of a temperature itself; a seed below 0 reaches the worker."""
    tells(lambda: model.prompt(CHAT, seed=-1, stream=False).text(), Exception, "seed")


main(chat=chat, stream=stream, structured=structured, tools=tools, errors=errors)
