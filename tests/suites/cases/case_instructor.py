"""Instructor, by tools, by JSON schema and by JSON mode."""

from collections.abc import Iterator

import instructor
import openai
import pytest
from expected import BASE_URL, COMPLETION_TOKENS, KEY, PERSON, PROMPT_TOKENS, WHO
from pydantic import BaseModel

MODES = [instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA, instructor.Mode.JSON]


class Person(BaseModel):
    name: str
    born: int
    tags: list[str]


@pytest.fixture(params=MODES, ids=lambda mode: mode.name)
def client(request: pytest.FixtureRequest, model_id: str) -> Iterator[instructor.Instructor]:
    with openai.OpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0) as plain:
        yield instructor.from_openai(plain, mode=request.param, model=model_id)


@pytest.fixture(params=MODES, ids=lambda mode: mode.name)
async def async_client(request: pytest.FixtureRequest, model_id: str) -> instructor.AsyncInstructor:
    async with openai.AsyncOpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0) as plain:
        yield instructor.from_openai(plain, mode=request.param, model=model_id)


def asked() -> dict[str, object]:
    """Made anew each time, for it is changed."""
    return {"messages": [{"role": "user", "content": WHO}], "max_retries": 0}


def test_an_object(client: instructor.Instructor, has_usage: bool) -> None:
    """The object is the upstream's, and so is the usage."""
    person, completion = client.create_with_completion(response_model=Person, **asked())
    assert person.model_dump() == PERSON
    if has_usage:
        usage = completion.usage
        assert (usage.prompt_tokens, usage.completion_tokens) == (PROMPT_TOKENS, COMPLETION_TOKENS)


def test_a_stream_of_partial_objects(client: instructor.Instructor) -> None:
    """It grows, and ends as the upstream's object."""
    partial = list(client.create_partial(response_model=Person, **asked()))
    assert partial[-1].model_dump() == PERSON
    assert len({each.model_dump_json() for each in partial}) > 3


async def test_an_object_by_asyncio(async_client: instructor.AsyncInstructor) -> None:
    """The same, streamed and not."""
    person = await async_client.create(response_model=Person, **asked())
    assert person.model_dump() == PERSON
    partial = [each async for each in async_client.create_partial(response_model=Person, **asked())]
    assert partial[-1].model_dump() == PERSON
