// The upstream of the suites, until standard input ends: aimock, with one rule for all answers; and the same answers without
// anything that an upstream may leave out. Prints {"full": URL, "bare": URL}. Argument: the key that it wants.
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import * as read from "node:stream/consumers";
import { LLMock } from "@copilotkit/aimock";

const [key] = process.argv.slice(2);
const { text: TEXT, calls: CALLS, person, usage } = JSON.parse(readFileSync(new URL("../expected.json", import.meta.url)));
// What the model says where a schema asks for a property of this name.
const VALUES = {
  ...person,
  ...CALLS[0],
  a: 3,
  answer_style: "pirate",
  b: 4,
  input: 3,
  location: "San Francisco, CA",
  punchline: "Because of the mouse.",
  setup: "Why did the cat sit on the computer?",
};

function text({ content }) {
  return typeof content === "string" ? content : (content ?? []).map((part) => part.text ?? "").join("");
}

function fill(schema, asked) {
  const values = { ...VALUES, customer_name: asked.match(/'(.+?)'/u)?.[1], description: asked };
  const known = Object.keys(schema?.properties ?? {}).filter((name) => values[name] !== undefined);
  return JSON.stringify(Object.fromEntries(known.map((name) => [name, values[name]])));
}

// The properties that JSON mode's prompts name in quotes.
function mentioned(messages) {
  const prompt = messages.map(text).join("");
  return Object.fromEntries(Object.keys(VALUES).filter((name) => new RegExp(`["']${name}["']`).test(prompt)).map((name) => [name, {}]));
}

// The tool that the request forces, or the first one that its user names or asks the weather of.
function wanted({ tools, tool_choice: choice }, asked) {
  const named = (name) => tools.filter((tool) => tool.function.name === name);
  if (!tools?.length || choice === "none") return [];
  if (choice?.function) return named(choice.function.name);
  if (choice === "required") return tools.slice(0, 1);
  return asked.includes("weather") ? named("get_weather") : [];
}

function answer(request) {
  const last = request.messages.at(-1);
  const asked = text(request.messages.findLast(({ role }) => role === "user") ?? {});
  const results = request.messages.slice(request.messages.findLastIndex(({ role }) => role !== "tool") + 1);
  const calls = last.role === "tool" ? [] : wanted(request, asked);
  const format = request.response_format?.type ?? "text";
  if (calls.length) {
    const toolCalls = calls.map(({ function: { name, parameters } }) => ({ name, arguments: fill(parameters, asked) }));
    const another = { name: "get_weather", arguments: JSON.stringify(CALLS[1]) };
    return { toolCalls: asked.includes("both") ? [...toolCalls, another] : toolCalls, usage };
  }
  if (format === "json_schema") return { content: fill(request.response_format.json_schema.schema, asked), usage };
  if (format === "json_object") return { content: fill({ properties: mentioned(request.messages) }, asked), usage };
  return { content: results.length ? `Told: ${results.map(text).join(" and ")}` : TEXT, usage };
}

function bare({ choices }) {
  const left = choices.map(({ index, message, delta, finish_reason: reason }) => {
    const { content, tool_calls: calls, role } = message ?? delta;
    const said = { ...(content && { content }), ...(calls && { tool_calls: calls }), ...(message && { role }) };
    return { ...(index && { index }), ...(message ? { message: said } : { delta: said }), ...(reason && { finish_reason: reason }) };
  });
  return { choices: left };
}

function strip(body, isStream) {
  if (!isStream) return JSON.stringify(bare(JSON.parse(body)));
  return body.replace(/^data: (\{.*\})$/gm, (_, chunk) => `data: ${JSON.stringify(bare(JSON.parse(chunk)))}`);
}

const mock = new LLMock({ port: 0, host: "127.0.0.1", auth: { apiKeys: [key] }, chunkSize: 7 });
mock.addFixture({ match: {}, response: answer });
await mock.start();

const stripping = createServer(async (request, response) => {
  const body = await read.buffer(request);
  const headers = { authorization: request.headers.authorization ?? "", "content-type": "application/json" };
  const whole = await fetch(`${mock.url}${request.url}`, { method: "POST", headers, body });
  const kind = whole.headers.get("content-type");
  response.writeHead(whole.status, { "content-type": kind });
  response.end(whole.ok ? strip(await whole.text(), kind.startsWith("text/event-stream")) : await whole.text());
}).listen(0, "127.0.0.1", () => {
  console.log(JSON.stringify({ full: mock.url, bare: `http://127.0.0.1:${stripping.address().port}` }));
});
process.stdin.resume().on("end", () => process.exit());
