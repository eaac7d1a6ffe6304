import asyncio

import pydantic
from harness import CALL, CHAT, FINAL, MODEL, SUNNY, THING, TOKEN, TOLD, URL, VECTORS, main, raises
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.embeddings import Embedder
from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=URL + "/v1", api_key=TOKEN))


class Thing(pydantic.BaseModel):
    name: str
    size: int


def chat():
    assert Agent(model).run_sync(CHAT).output == SUNNY


def stream():
    async def read():
        async with Agent(model).run_stream(CHAT) as told:
            return [part async for part in told.stream_text(delta=True)]

    assert "".join(asyncio.run(read())) == SUNNY


def structured():
    agent = Agent(model, output_type=NativeOutput(Thing))
    assert agent.run_sync(THING).output == Thing(name="bee", size=3)


def tools():
    agent = Agent(model)

    @agent.tool_plain
    def get_weather(city: str) -> str:
        assert city == "Köln"
        return TOLD

    assert agent.run_sync(CALL).output == FINAL


def embeddings():
    provider = OpenAIProvider(base_url=VECTORS + "/v1", api_key=TOKEN)
    told = Embedder(OpenAIEmbeddingModel(MODEL, provider=provider)).embed_documents_sync(["a", "b"])
    assert len(told.embeddings) == 2


def errors():
    raises(lambda: Agent(model).run_sync(CHAT, model_settings={"temperature": 9}), ModelHTTPError)


main(
    chat=chat,
    stream=stream,
    structured=structured,
    tools=tools,
    embeddings=embeddings,
    errors=errors,
)
