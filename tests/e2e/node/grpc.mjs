// What a service in Node does with the protos and no stubs: typed chats, error details, money; prints JSON.
// sdk/test_node.py judges it. Arguments: gRPC address, key, folder of the protos.
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [address, key, protos] = process.argv.slice(2);
const definition = loader.loadSync(["worldrouter/v1/chat.proto", "worldrouter/v1/metering.proto"], {
  includeDirs: [protos],
  keepCase: true,
  longs: String,
  enums: String,
  oneofs: true,
  arrays: true,
});
const { ChatService, MeteringService } = grpc.loadPackageDefinition(definition).worldrouter.v1;
const chat = new ChatService(address, grpc.credentials.createInsecure());
const metering = new MeteringService(address, grpc.credentials.createInsecure());

const metadata = () => {
  const made = new grpc.Metadata();
  made.set("authorization", `Bearer ${key}`);
  return made;
};
const options = () => ({ deadline: Date.now() + 10_000 });
const params = (script, more = {}) => ({
  model: "scripted",
  messages: [{ role: "user", content: "one two three" }],
  extra_json: JSON.stringify({ script }),
  ...more,
});

function unary(client, method, request) {
  return new Promise((resolve, reject) => {
    let requestId = null;
    const call = client[method](request, metadata(), options(), (error, answer) =>
      error ? reject(error) : resolve({ answer, requestId }),
    );
    call.on("metadata", (initial) => (requestId = initial.get("x-request-id")[0] ?? null));
  });
}

async function stream(request) {
  const events = [];
  for await (const event of chat.StreamChatCompletion(request, metadata(), options())) events.push(event);
  return events;
}

async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    const [details] = error.metadata.get("grpc-status-details-bin");
    return {
      code: grpc.status[error.code],
      requestId: error.metadata.get("x-request-id")[0] ?? null,
      details: details?.toString("base64") ?? null,
    };
  }
  return null;
}

const whole = await unary(chat, "CreateChatCompletion", { params: params({}) });
const found = {
  whole,
  record: (await unary(metering, "GetUsageRecord", { request_id: whole.requestId })).answer,
  balance: (await unary(metering, "GetBalance", {})).answer,
  streamed: await stream({ params: params({ tool_calls: [{ name: "f", arguments: '{"a": 1}', id: "call_a" }] }) }),
  refused: await failure(unary(chat, "CreateChatCompletion", { params: params({}, { model: "nothing" }) })),
  broken: await failure(stream({ params: params({ fault: "cut", fault_after: 2 }) })),
};
console.log(JSON.stringify(found));
chat.close();
metering.close();
