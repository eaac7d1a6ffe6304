import instructor
import openai
import pydantic
from harness import MODEL, THING, TOKEN, URL, main, raises

client = openai.OpenAI(base_url=URL + "/v1", api_key=TOKEN, max_retries=0)


class Thing(pydantic.BaseModel):
    name: str
    size: int


def asked(mode, text, **more):
    able = instructor.from_openai(client, mode=mode)
    talk = [{"role": "user", "content": text}]
    given = {"model": MODEL, "messages": talk, "response_model": Thing, "max_retries": 0, **more}
    return able.chat.completions.create(**given)


def stream():
    able = instructor.from_openai(client, mode=instructor.Mode.JSON_SCHEMA)
    talk = [{"role": "user", "content": THING}]
    parts = list(
        able.chat.completions.create_partial(model=MODEL, messages=talk, response_model=Thing)
    )
    assert (parts[-1].name, parts[-1].size) == ("bee", 3)


def structured():
    made = asked(instructor.Mode.JSON_SCHEMA, THING)
    assert (made.name, made.size) == ("bee", 3)


def tools():
    """The model calls a tool named like the class."""
    made = asked(instructor.Mode.TOOLS, "#4 A thing?")
    assert (made.name, made.size) == ("bee", 3)


def errors():
    raises(lambda: asked(instructor.Mode.JSON_SCHEMA, THING, temperature=9), Exception)


main(stream=stream, structured=structured, tools=tools, errors=errors)
