// A worker in Node, 18 or later, without packages: the functions that
// `server check` calls, and hello. The rules are those of docs/workers.md; the
// comments tell them to who ports this to another language.

import { open } from 'node:fs/promises';
import net from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';

// Error codes of the protocol. Any other code is a function that has failed.
const NO_FUNCTION = -32601;
const INVALID = -32602;
const FAILED = -32000;
const NO_VERSION = -32001;
const CANCELED = -32800;

// A Refusal is an error whose message is meant for the caller.
class Refusal extends Error {
  constructor(code, message, data) {
    super(message);
    this.code = code;
    this.data = data;
  }
}

// ---- Functions ----
//
// Each gets a call: what the pod has sent, and
//   call.signal    an AbortSignal for when nobody wants the result any more
//   call.notify    tells the pod something of this call
// and gives what the answer's "result" is to be.

const BLOCK = 1 << 20; // bytes that are copied at once
const TELL = 8 << 20; // bytes of output between two notifications; 16 MiB at most

const functions = {
  hello: {
    doc: 'Says hello: kwargs name="world"',
    async run(call) {
      call.notify('log', { level: 'info', line: `job ${call.job_id}, attempt ${call.attempt}` });
      return { value: { hello: call.kwargs.name ?? 'world', bytes: call.input?.size ?? 0 } };
    },
  },

  echo: {
    doc: 'Gives back the payload as output, or without one the kwargs',
    async run(call) {
      // No payload is null, not an empty file.
      if (call.input === null) return { value: call.kwargs };
      // The payload can be larger than memory: one block is there at a time, and
      // the next is read when it is written.
      const source = await open(call.input.path, 'r');
      try {
        const output = await open(call.output_path, 'wx'); // it isn't there yet
        try {
          const block = Buffer.alloc(BLOCK);
          let size = 0;
          let told = 0;
          for (;;) {
            call.signal.throwIfAborted();
            const { bytesRead } = await source.read(block, 0, BLOCK, null);
            if (bytesRead === 0) break;
            for (let at = 0; at < bytesRead; ) {
              at += (await output.write(block, at, bytesRead - at, null)).bytesWritten;
            }
            size += bytesRead;
            // Once written is early enough: the pod reads the same file, so it need
            // not be synced or closed. What was told must never change.
            if (size - told >= TELL) {
              call.notify('output', { size });
              told = size;
            }
          }
          // The answer tells the last of it. With output_json: true the bytes
          // would be a JSON value.
          return { output_size: size };
        } finally {
          await output.close();
        }
      } finally {
        await source.close();
      }
    },
  },

  progress: {
    doc: 'Tells progress n times: kwargs n=INTEGER',
    async run(call) {
      const { n } = call.kwargs;
      if (!Number.isSafeInteger(n) || n < 0) throw new Refusal(INVALID, 'the kwarg n is not a count: give one, such as 5');
      for (let done = 1; done <= n; done++) {
        call.signal.throwIfAborted();
        call.notify('progress', { done, total: n, unit: 'steps', note: '' });
        await delay(1); // lets other calls run
      }
      return { value: n };
    },
  },

  sleep: {
    doc: 'Sleeps, unless it is canceled: kwargs seconds=NUMBER',
    async run(call) {
      const { seconds } = call.kwargs;
      const most = 2_000_000; // timers have 31 bits of milliseconds
      if (typeof seconds !== 'number' || !(seconds >= 0 && seconds <= most)) {
        throw new Refusal(INVALID, `the kwarg seconds is not a number from 0 to ${most}: give one, such as 1.5`);
      }
      await delay(seconds * 1000, null, { signal: call.signal });
      return { value: null };
    },
  },

  crash: {
    doc: 'Kills its process',
    run() {
      process.kill(process.pid, 'SIGKILL');
      return new Promise(() => {}); // for as long as the signal takes
    },
  },

  noise: {
    doc: 'Prints what is no text, and long lines',
    async run() {
      // Standard output and error are not the protocol's: anything may be printed,
      // and becomes log lines.
      const bytes = Buffer.concat([Buffer.from(Uint8Array.from({ length: 256 }, (_, i) => i)), Buffer.from('\n')]);
      const line = Buffer.concat([Buffer.alloc(1 << 20, 'x'), Buffer.from('\n')]);
      for (const stream of [process.stdout, process.stderr]) {
        for (const text of [bytes, line]) await new Promise((done) => stream.write(text, done));
      }
      return { value: null };
    },
  },
};

// ---- Protocol ----

// The socket is always descriptor 3; AIPOD_FD is for who finds that too magic.
const pod = new net.Socket({ fd: Number(process.env.AIPOD_FD ?? 3), readable: true, writable: true });

// Who sends builds a whole line and writes it with one call: lines of calls that
// run at once must not mix. JSON.stringify never makes a line end.
function send(message) {
  pod.write(JSON.stringify({ jsonrpc: '2.0', ...message }) + '\n');
}

const calls = new Map(); // AbortController by job, of the calls that run

async function answer(id, work) {
  try {
    send({ id, result: await work() });
  } catch (err) {
    send({ id, error: refusal(err) });
  }
}

function refusal(err) {
  if (err instanceof Refusal) return { code: err.code, message: err.message, data: err.data };
  if (err?.name === 'AbortError') return { code: CANCELED, message: 'canceled' };
  // The message goes to the caller, the traceback only to the job's log.
  return { code: FAILED, message: String(err?.message ?? err), data: { traceback: String(err?.stack ?? err) } };
}

function initialize({ protocol, version }) {
  if (protocol !== 1) throw new Refusal(FAILED, `this worker speaks protocol 1, not ${protocol}`);
  // A model with versions loads this one here, however long that takes.
  if (version !== '') throw new Refusal(NO_VERSION, `there is no version ${version}`, { versions: [] });
  return {
    model: 'node',
    functions: Object.entries(functions).map(([name, { doc }]) => ({ name, doc })),
  };
}

async function call(params) {
  if (!Object.hasOwn(functions, params.func)) throw new Refusal(NO_FUNCTION, `there is no function ${params.func}`);
  const controller = new AbortController();
  calls.set(params.job_id, controller);
  try {
    return await functions[params.func].run({
      ...params,
      signal: controller.signal,
      notify: (method, about) => send({ method, params: { job_id: params.job_id, ...about } }),
    });
  } finally {
    calls.delete(params.job_id);
  }
}

// A message with an id is a request and gets one answer, in any order; one without
// is a notification and gets none. The loop that reads never waits for a call, or
// it would learn of no cancellation.
function receive({ id, method, params }) {
  switch (method) {
    case 'initialize':
      return answer(id, async () => initialize(params));
    case 'call':
      return answer(id, () => call(params));
    case 'cancel': // maybe of a call that has ended meanwhile
      return calls.get(params.job_id)?.abort();
    case 'shutdown': // no call runs
      return process.exit(0);
  }
  if (id !== undefined) send({ id, error: { code: NO_FUNCTION, message: `there is no method ${method}` } });
}

// Lines come in pieces, and several at once. A line is decoded when it is whole:
// a piece may end within a character.
let pieces = [];
pod.on('data', (data) => {
  for (;;) {
    const end = data.indexOf(0x0a);
    if (end < 0) break;
    const line = Buffer.concat([...pieces, data.subarray(0, end)]).toString('utf8');
    pieces = [];
    data = data.subarray(end + 1);
    receive(JSON.parse(line));
  }
  if (data.length > 0) pieces.push(data);
});

// Without the pod there is nobody to work for, whatever runs.
pod.on('end', () => process.exit(0));
pod.on('error', () => process.exit(1));

// A beat says that the process is alive while its functions have nothing to tell.
setInterval(() => {
  if (calls.size > 0) send({ method: 'beat', params: {} });
}, 1000);
