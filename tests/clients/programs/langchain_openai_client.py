import openai
import pydantic
from harness import CALL, CHAT, FINAL, MODEL, SUNNY, THING, TOKEN, TOLD, URL, VECTORS, main, raises
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

model = ChatOpenAI(model=MODEL, base_url=URL + "/v1", api_key=TOKEN, max_retries=0)


class Thing(pydantic.BaseModel):
    name: str
    size: int


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return TOLD


def chat():
    assert model.invoke(CHAT).content == SUNNY


def stream():
    assert "".join(part.content for part in model.stream(CHAT)) == SUNNY


def structured():
    assert model.with_structured_output(Thing).invoke(THING) == Thing(name="bee", size=3)


def tools():
    able = model.bind_tools([get_weather])
    first = able.invoke(CALL)
    (call,) = first.tool_calls
    assert call["args"] == {"city": "Köln"}
    told = ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])
    assert able.invoke([HumanMessage(CALL), first, told]).content == FINAL


def embeddings():
    """The client counts tokens with OpenAI's tokenizer, unless told that it need not."""
    made = OpenAIEmbeddings(
        model=MODEL,
        base_url=VECTORS + "/v1",
        api_key=TOKEN,
        check_embedding_ctx_length=False,
    )
    assert len(made.embed_documents(["a", "b"])) == 2


def errors():
    raises(lambda: model.bind(temperature=9).invoke(CHAT), openai.BadRequestError)


main(
    chat=chat,
    stream=stream,
    structured=structured,
    tools=tools,
    embeddings=embeddings,
    errors=errors,
)
