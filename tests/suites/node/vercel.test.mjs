// The Vercel AI SDK, by both of its providers, in front of an upstream that says all and of one that leaves out what it may.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, isStepCount, Output, streamText, tool } from "ai";
import { z } from "zod";

const { SUITES_BASE_URL: baseURL, SUITES_KEY: apiKey } = process.env;
const expected = JSON.parse(readFileSync(new URL("../expected.json", import.meta.url)));
const told = `Told: ${expected.calls.map(({ city, days }) => `${days} days of sun in ${city}`).join(" and ")}`;
const compatible = createOpenAICompatible({
  name: "worldrouter", baseURL, apiKey, includeUsage: true, supportsStructuredOutputs: true,
});
const providers = {
  "openai-compatible": (model) => compatible.chatModel(model),
  openai: (model) => createOpenAI({ baseURL, apiKey }).chat(model),
};
const tools = {
  get_weather: tool({
    description: "The weather of a city.",
    inputSchema: z.object({ city: z.string(), days: z.number() }),
    execute: async ({ city, days }) => `${days} days of sun in ${city}`,
  }),
};
const person = Output.object({ schema: z.object({ name: z.string(), born: z.number(), tags: z.array(z.string()) }) });

async function all(stream) {
  const found = [];
  for await (const each of stream) found.push(each);
  return found;
}

function onError({ error }) {
  throw error;
}

for (const [name, provider] of Object.entries(providers)) {
  for (const id of ["full", "bare"]) {
    const asked = (prompt) => ({ model: provider(id), prompt, maxRetries: 0 });
    const checkUsage = ({ inputTokens, outputTokens }) => {
      if (id === "bare") return;
      assert.deepEqual([inputTokens, outputTokens], [expected.usage.prompt_tokens, expected.usage.completion_tokens]);
    };

    test(`${name} ${id}: an answer`, async () => {
      const { text, finishReason, usage } = await generateText(asked("Hello"));
      assert.equal(text, expected.text);
      assert.equal(finishReason, "stop");
      checkUsage(usage);
    });

    test(`${name} ${id}: a stream`, async () => {
      const result = streamText({ ...asked("Hello"), onError });
      const pieces = await all(result.textStream);
      assert.equal(pieces.join(""), expected.text);
      assert(pieces.length > 3);
      assert.equal(await result.finishReason, "stop");
      checkUsage(await result.usage);
    });

    test(`${name} ${id}: tools`, async () => {
      const { text, steps } = await generateText({ ...asked("How is the weather in both cities?"), tools, stopWhen: isStepCount(3) });
      assert.deepEqual(steps[0].toolCalls.map(({ input }) => input), expected.calls);
      assert.equal(steps[0].finishReason, "tool-calls");
      assert.equal(text, told);
    });

    test(`${name} ${id}: streamed tools`, async () => {
      const result = streamText({ ...asked("How is the weather in both cities?"), tools, stopWhen: isStepCount(3), onError });
      assert.equal((await all(result.textStream)).join(""), told);
      const [first] = await result.steps;
      assert.deepEqual(first.toolCalls.map(({ input }) => input), expected.calls);
      assert.equal(first.finishReason, "tool-calls");
    });

    test(`${name} ${id}: an object`, async () => {
      const { output } = await generateText({ ...asked("Who wrote the first program?"), output: person });
      assert.deepEqual(output, expected.person);
    });

    test(`${name} ${id}: a streamed object`, async () => {
      const result = streamText({ ...asked("Who wrote the first program?"), output: person, onError });
      const partial = await all(result.partialOutputStream);
      assert(partial.length > 3);
      assert.deepEqual(partial.at(-1), expected.person);
      assert.deepEqual(await result.output, expected.person);
    });
  }
}
