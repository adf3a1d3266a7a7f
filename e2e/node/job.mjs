// Runs a job of aipod.v1.JobService from Node in half-duplex steps, as a browser
// does: CreateJob, WriteInput, WatchJob.
//
// Reads one JSON object from standard input:
//
//   {"stubs": DIRECTORY with what protoc-gen-es made of aipod/v1/job.proto,
//    "addr": "HOST:PORT", "protocol": "grpc-web" | "connect", "http": "1.1" | "2",
//    "job": ID, "func", "kwargs": JSON text, "payload": FILE, "piece": bytes of a chunk}
//
// Each chunk is sent twice, and the stream of events is left and taken up again
// after each 3 of them: neither may change anything. Writes one JSON object:
//
//   {"states": those that came, in order, "result": JSON text, "output": base64,
//    "seqs": of all events, "watches": streams}

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

import { createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-node";

const setup = JSON.parse(readFileSync(0, "utf8"));
const { JobService, State } = await import(pathToFileURL(`${setup.stubs}/aipod/v1/job_pb.js`));

const options = { baseUrl: `http://${setup.addr}`, httpVersion: setup.http, useBinaryFormat: true };
const transport = setup.protocol === "connect" ? createConnectTransport(options) : createGrpcWebTransport(options);
const client = createClient(JobService, transport);

const jobId = setup.job;
const spec = { func: setup.func, kwargsJson: Buffer.from(setup.kwargs) };
await client.createJob({ jobId, spec });

const payload = readFileSync(setup.payload);
for (let offset = 0; offset < payload.length; offset += setup.piece) {
  const chunk = { offset: BigInt(offset), data: payload.subarray(offset, offset + setup.piece) };
  await client.writeInput({ jobId, chunk });
  const { committed } = await client.writeInput({ jobId, chunk });
  if (committed !== BigInt(Math.min(offset + setup.piece, payload.length))) {
    throw new Error(`${committed} bytes are committed after the chunk at ${offset}`);
  }
}
await client.writeInput({ jobId, closeInput: { size: BigInt(payload.length) } });

const out = { states: [], result: "", output: "", seqs: [], watches: 0 };
const output = [];
let afterSeq = 0n;
let outputOffset = 0n;
for (let ended = false; !ended; ) {
  out.watches++;
  let events = 0;
  const leave = new AbortController(); // break alone lets the stream go on
  const watch = { jobId, afterSeq, outputOffset, maxChunk: 256 * 1024 };
  for await (const { event } of client.watchJob(watch, { signal: leave.signal })) {
    const { seq, event: what } = event;
    if (seq > 0n) {
      afterSeq = seq;
      out.seqs.push(Number(seq));
    }
    if (what.case === "heartbeat" && out.states.at(-1) !== State[what.value.state]) {
      out.states.push(State[what.value.state]);
    } else if (what.case === "output") {
      output.push(Buffer.from(what.value.data));
      outputOffset += BigInt(what.value.data.length);
    } else if (what.case === "done") {
      out.result = Buffer.from(what.value.resultJson).toString();
      ended = true;
    } else if (what.case === "failed") {
      throw new Error(`${what.value.code}: ${what.value.message}`);
    }
    if (++events > 3) {
      break;
    }
  }
  leave.abort();
}
out.output = Buffer.concat(output).toString("base64");
await client.deleteJob({ jobId });
// HTTP/2 sessions would keep the process alive for minutes.
process.stdout.write(`${JSON.stringify(out)}\n`, () => process.exit(0));
