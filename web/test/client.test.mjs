import assert from "node:assert/strict";
import { test } from "node:test";

import { combine, crc32c } from "../.test/client/crc32c.js";
import { codeName } from "../.test/client/errors.js";
import { newId } from "../.test/client/id.js";
import { Rate } from "../.test/client/rate.js";
import { readPieces, ReadError } from "../.test/client/read.js";
import { Backoff, Turns } from "../.test/client/wait.js";

const pattern = (n) => Uint8Array.from({ length: n }, (_, i) => (i * 2654435761) >>> 13);

test("crc32c is that of RFC 3720", () => {
  assert.equal(crc32c(new TextEncoder().encode("123456789")), 0xe3069283);
  assert.equal(crc32c(new Uint8Array(32)), 0x8a9136aa);
  assert.equal(crc32c(new Uint8Array(0)), 0);
});

test("crc32c goes on, from any address", () => {
  const data = pattern(1000);
  const whole = crc32c(data);
  for (const cut of [0, 1, 7, 8, 9, 500, 999, 1000]) {
    assert.equal(crc32c(data.subarray(cut), crc32c(data.subarray(0, cut))), whole, `cut at ${cut}`);
  }
});

test("combine makes the sum of the whole from those of its parts", () => {
  const data = pattern(5000);
  for (const cut of [0, 1, 1234, 4096, 5000]) {
    const [first, second] = [data.subarray(0, cut), data.subarray(cut)];
    assert.equal(combine(crc32c(first), crc32c(second), second.length), crc32c(data), `cut at ${cut}`);
  }
});

test("newId is a UUIDv7, ascending", async () => {
  const first = newId();
  assert.match(first, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$/);
  await new Promise((resolve) => setTimeout(resolve, 5));
  assert.ok(newId() > first);
});

test("codeName", () => {
  assert.equal(codeName(3), "invalid_argument");
  assert.equal(codeName(1), "canceled");
  assert.equal(codeName(99), "unknown");
});

test("Rate looks back a few seconds", () => {
  const rate = new Rate();
  assert.equal(rate.add(0, 0), 0);
  assert.equal(rate.add(1000, 1000), 1000);
  for (let s = 2; s <= 20; s++) {
    rate.add(1000 + (s - 1) * 500, s * 1000);
  }
  assert.equal(Math.round(rate.add(11000, 21000)), 500);
  assert.equal(rate.add(0, 22000), 0, "a count that falls begins anew");
});

test("Backoff ends with its signal", async () => {
  const stop = new AbortController();
  const pause = new Backoff().pause(stop.signal);
  stop.abort(new Error("enough"));
  await assert.rejects(pause, /enough/);
});

test("Turns are given in order", async () => {
  const turns = new Turns(1);
  const order = [];
  await turns.take();
  assert.equal(turns.tryTake(), false);
  const others = [1, 2].map((n) => turns.take().then(() => { order.push(n); turns.give(); }));
  turns.give();
  await Promise.all(others);
  assert.deepEqual(order, [1, 2]);
  assert.equal(turns.tryTake(), true);
});

/** A file of which the first so many reads never end. */
function losing(data, lost) {
  return {
    size: data.length,
    slice: (start, end) => losing(data.subarray(start, end), lost),
    arrayBuffer: () => (lost.count-- > 0 ? new Promise(() => {}) : Promise.resolve(data.slice().buffer)),
  };
}

test("readPieces asks again for what is lost, and gives up in the end", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const passing = async (reading) => {
    let over = false;
    reading.finally(() => (over = true)).catch(() => {});
    while (!over) {
      t.mock.timers.tick(10_000);
      await new Promise((resolve) => setImmediate(resolve));
    }
    return reading;
  };
  const data = pattern(600 << 10);
  const got = [];
  await passing(readPieces(losing(data, { count: 2 }), (piece) => got.push(Buffer.from(piece))));
  assert.deepEqual(new Uint8Array(Buffer.concat(got)), data);
  await assert.rejects(passing(readPieces(losing(data, { count: 3 }), () => {})), ReadError);
});
