// What an application does with the openai SDK for Node; prints what it got as JSON. sdk/test_node.py judges it.
// Arguments: base URL, key, key of an account without money.
import OpenAI from "openai";

const [baseURL, apiKey, poorKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "one two three" }];
const asked = (script, more = {}) => ({ model: "scripted", messages, script, ...more });
const calls = [
  { name: "get_weather", arguments: '{"city": "Paris, the capital of France"}', id: "call_a" },
  { name: "get_time", arguments: '{"zone": "Europe/Paris", "format": "24h"}', id: "call_b" },
];

async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    return {
      class: error.constructor.name,
      status: error.status ?? null,
      code: error.code ?? null,
      type: error.type ?? null,
      param: error.param ?? null,
      requestID: error.requestID ?? null,
      named: error.error?.request_id ?? null,
    };
  }
  return null;
}

async function read(stream) {
  let text = "";
  const finish = [];
  const toolCalls = {};
  for await (const chunk of stream) {
    const [choice] = chunk.choices;
    text += choice.delta.content ?? "";
    if (choice.finish_reason) finish.push(choice.finish_reason);
    for (const delta of choice.delta.tool_calls ?? []) {
      const call = (toolCalls[delta.index] ??= { id: "", name: "", arguments: "" });
      call.id += delta.id ?? "";
      call.name += delta.function?.name ?? "";
      call.arguments += delta.function?.arguments ?? "";
    }
  }
  return { text, finish, calls: Object.values(toolCalls) };
}

const whole = await client.chat.completions.create(asked({}));
const streamed = await client.chat.completions.create(asked({}, { stream: true })).withResponse();
const chunks = [];
const counted = await client.chat.completions.create(
  asked({}, { stream: true, stream_options: { include_usage: true } }),
);
for await (const chunk of counted) chunks.push({ choices: chunk.choices.length, usage: chunk.usage ?? null });
const wholeCalls = await client.chat.completions.create(asked({ tool_calls: calls }));
const models = await client.models.list();

const found = {
  whole: { id: whole.id, requestID: whole._request_id, text: whole.choices[0].message.content, usage: whole.usage },
  streamed: { requestID: streamed.request_id, ...(await read(streamed.data)) },
  chunks,
  wholeCalls: wholeCalls.choices[0].message.tool_calls.map(({ id, function: { name, arguments: text } }) => ({
    id,
    name,
    arguments: text,
  })),
  streamedCalls: await read(await client.chat.completions.create(asked({ tool_calls: calls }, { stream: true }))),
  models: models.data.map((model) => model.id),
  model: (await client.models.retrieve("free")).id,
  failures: {
    model: await failure(client.chat.completions.create({ model: "nothing", messages })),
    key: await failure(new OpenAI({ baseURL, apiKey: "sk-no" }).chat.completions.create(asked({}))),
    route: await failure(client.post("/nothing")),
    balance: await failure(new OpenAI({ baseURL, apiKey: poorKey }).chat.completions.create(asked({}))),
    limit: await failure(client.chat.completions.create(asked({ status: 429 }))),
    upstream: await failure(client.chat.completions.create(asked({ fault: "connect_failed" }))),
    early: await failure(client.chat.completions.create(asked({ status: 500 }, { stream: true }))),
    late: await failure(
      client.chat.completions.create(asked({ fault: "cut", fault_after: 3 }, { stream: true })).then(read),
    ),
  },
};
console.log(JSON.stringify(found));
