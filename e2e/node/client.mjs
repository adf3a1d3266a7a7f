// Calls ai.AI from Node with the libraries that people use there.
//
// Reads one JSON object from standard input:
//
//   {"stubs": DIRECTORY with what protoc-gen-es made of ai/ai.proto,
//    "proto": DIRECTORY with ai/ai.proto,
//    "calls": [{"name", "addr": "HOST:PORT",
//               "library": "grpc-js" | "connect-node",
//               "protocol": "grpc" | "grpc-web" | "connect", "http": "1.1" | "2",
//               "gzip": bool, "func", "kwargs": JSON text, "payload": FILE or "",
//               "headers": {}}]}
//
// Writes one JSON object a line for each call, in their order:
//
//   {"name", "code": "OK" or as the library calls it, "message", "result": text,
//    "beats", "max_gap": longest silence in seconds, "seconds"}
//
// zstd is missing: Node 20 has none in its zlib.

import { createReadStream } from "node:fs";
import { once } from "node:events";
import { pathToFileURL } from "node:url";

import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import {
  compressionGzip,
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
} from "@connectrpc/connect-node";

const pong = "PONG";
const piece = 256 * 1024;

/** Yields the data of the request's messages: the kwargs, then the payload. */
async function* requests(call) {
  yield Buffer.from(call.kwargs);
  if (call.payload) {
    yield* createReadStream(call.payload, { highWaterMark: piece });
  }
}

/** Keeps what the caller of this program wants to know. */
class Record {
  constructor(name) {
    this.begun = this.last = performance.now();
    this.out = { name, code: "OK", message: "", result: "", beats: 0, max_gap: 0 };
  }

  seen() {
    const now = performance.now();
    this.out.max_gap = Math.max(this.out.max_gap, (now - this.last) / 1000);
    this.last = now;
  }

  message(data) {
    this.seen();
    const text = Buffer.from(data).toString();
    if (text === pong) {
      this.out.beats++;
    } else {
      this.out.result = text;
    }
  }

  end() {
    this.seen();
    this.out.seconds = (this.last - this.begun) / 1000;
    return this.out;
  }
}

async function callGrpcJs(call, setup, record) {
  const pkg = grpc.loadPackageDefinition(loader.loadSync("ai/ai.proto", { includeDirs: [setup.proto] }));
  const client = new pkg.ai.AI(call.addr, grpc.credentials.createInsecure(), {
    "grpc.default_compression_algorithm": call.gzip ? grpc.compressionAlgorithms.gzip : grpc.compressionAlgorithms.identity,
    "grpc.max_send_message_length": -1,
    "grpc.max_receive_message_length": -1,
    "grpc.enable_http_proxy": 0,
  });
  const metadata = new grpc.Metadata();
  metadata.set("x-func-name", call.func);
  for (const [key, value] of Object.entries(call.headers ?? {})) {
    metadata.set(key, value);
  }
  const stream = client.chaos(metadata);
  stream.on("data", (raw) => record.message(raw.data));
  const ended = new Promise((resolve) => stream.on("status", resolve));
  stream.on("error", () => {}); // the status says it
  for await (const data of requests(call)) {
    if (!stream.write({ data })) {
      await Promise.race([once(stream, "drain"), ended]);
    }
  }
  stream.end();
  const status = await ended;
  client.close();
  record.out.code = grpc.status[status.code];
  record.out.message = status.details;
}

async function callConnect(call, setup, record) {
  const { AI } = await import(pathToFileURL(`${setup.stubs}/ai/ai_pb.js`));
  const create = {
    grpc: createGrpcTransport,
    "grpc-web": createGrpcWebTransport,
    connect: createConnectTransport,
  }[call.protocol];
  const options = { baseUrl: `http://${call.addr}`, acceptCompression: call.gzip ? [compressionGzip] : [] };
  if (call.protocol !== "grpc") {
    options.httpVersion = call.http;
  }
  if (call.gzip) {
    options.sendCompression = compressionGzip;
  }
  const client = createClient(AI, create(options));
  async function* messages() {
    for await (const data of requests(call)) {
      yield { data };
    }
  }
  try {
    for await (const raw of client.chaos(messages(), { headers: { "x-func-name": call.func, ...call.headers } })) {
      record.message(raw.data);
    }
  } catch (cause) {
    const err = ConnectError.from(cause);
    record.out.code = Code[err.code];
    record.out.message = err.rawMessage;
  }
}

const chunks = [];
for await (const chunk of process.stdin) {
  chunks.push(chunk);
}
const setup = JSON.parse(Buffer.concat(chunks).toString());
for (const call of setup.calls) {
  const record = new Record(call.name);
  await (call.library === "grpc-js" ? callGrpcJs : callConnect)(call, setup, record);
  console.log(JSON.stringify(record.end()));
}
process.exit(0);
