import assert from "node:assert/strict";
import { test } from "node:test";

import { fieldsOf, readFields } from "../.test/page/schema.js";
import { bytes, duration } from "../.test/page/format.js";
import { mediaType } from "../.test/page/sniff.js";
import { csvTable, jsonTable } from "../.test/page/table.js";

test("csvTable reads quotes, line ends and empty cells", () => {
  assert.deepEqual(csvTable('a,b\r\n"x ""y"", z\n2",\n,3', false), {
    columns: ["a", "b"], rows: [['x "y", z\n2', ""], ["", "3"]], cut: false,
  });
  assert.deepEqual(csvTable("a,b\n1,2\n3,", true).rows, [["1", "2"]], "a line that may be cut isn't shown");
});

test("jsonTable finds lists that belong together", () => {
  const predicted = { version: "v", classes: ["x", "y"], labels: ["x", "y", "y"], scores: [[1, 0], [0.25, 0.75], [0, 1]] };
  assert.deepEqual(jsonTable(predicted), {
    columns: ["labels", "scores x", "scores y"], rows: [["x", "1", "0"], ["y", "0.25", "0.75"], ["y", "0", "1"]], cut: false,
  });
  assert.deepEqual(jsonTable([{ a: 1 }, { b: [2] }]), { columns: ["a", "b"], rows: [["1", ""], ["", "[2]"]], cut: false });
  for (const none of [1, null, "x", [], [1, 2], {}, { a: 1 }, { features: ["a", "b"] }]) {
    assert.equal(jsonTable(none), undefined, JSON.stringify(none));
  }
});

test("mediaType goes by the first bytes", () => {
  const of = (text, size = text.length) => mediaType(new TextEncoder().encode(text), size);
  assert.equal(mediaType(Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a), 100), "image/png");
  assert.equal(mediaType(Uint8Array.of(0, 1, 2), 3), "application/octet-stream");
  assert.equal(of("a,b\n1,2\n"), "text/csv");
  assert.equal(of("a, b\nand so on\n"), "text/plain");
  assert.equal(of('{"a": 1}'), "application/json");
  assert.equal(of("RIFF....WAVEfmt "), "audio/wav");
  assert.equal(mediaType(new TextEncoder().encode("grüße").subarray(0, 3), 100), "text/plain", "cut within a letter");
});

test("fields are made of a JSON Schema, and kwargs of fields", () => {
  const fields = fieldsOf({ name: "f", doc: "", payloadType: "", kwargsSchema: {
    properties: {
      name: { type: "string" }, n: { type: "integer" }, on: { type: "boolean" }, which: { enum: ["a", 2] },
      list: { type: "array", items: { type: "string" } }, any: {}, maybe: { type: ["number", "null"] },
    },
    required: ["n"],
  } });
  assert.deepEqual(fields.map((f) => f.kind), ["text", "integer", "boolean", "choice", "list", "json", "number"]);
  assert.deepEqual(fields.filter((f) => f.required).map((f) => f.name), ["n"]);
  assert.deepEqual(readFields(fields, { n: "3", on: "false", which: "2", list: "a, b,", any: '{"x":1}', name: " " }),
    { n: 3, on: false, which: 2, list: ["a", "b"], any: { x: 1 } });
  assert.equal(fieldsOf({ name: "f", doc: "", payloadType: "" }), undefined);
});

test("numbers for people", () => {
  assert.deepEqual([0, 999, 1000, 1536, 5 << 20, 3 * 2 ** 40].map(bytes), ["0 B", "999 B", "0.98 KiB", "1.50 KiB", "5.00 MiB", "3.00 TiB"]);
  assert.deepEqual([0, 65, 3599.4, 7207].map(duration), ["0:00", "1:05", "59:59", "2:00:07"]);
});
