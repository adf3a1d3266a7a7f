// What the bytes of an output are, by how they begin; the pod doesn't say.

import { csvTable } from "./table.js";

const magics: [string, string, number?][] = [
  ["\x89PNG\r\n\x1a\n", "image/png"],
  ["\xff\xd8\xff", "image/jpeg"],
  ["GIF8", "image/gif"],
  ["WEBP", "image/webp", 8],
  ["WAVE", "audio/wav", 8],
  ["ID3", "audio/mpeg"],
  ["\xff\xfb", "audio/mpeg"],
  ["OggS", "audio/ogg"],
  ["fLaC", "audio/flac"],
  ["ftyp", "video/mp4", 4],
  ["\x1aE\xdf\xa3", "video/webm"],
  ["%PDF-", "application/pdf"],
  ["PK\x03\x04", "application/zip"],
  ["\x1f\x8b", "application/gzip"],
];

/** The media type of bytes of which head are the first, and of which there are size. */
export function mediaType(head: Uint8Array, size: number): string {
  const latin = Array.from(head.subarray(0, 16), (b) => String.fromCharCode(b)).join("");
  for (const [magic, type, offset = 0] of magics) {
    if (latin.startsWith(magic, offset)) {
      return type;
    }
  }
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(head, { stream: size > head.length });
  } catch {
    return "application/octet-stream";
  }
  if (/[\x00-\x08\x0e-\x1a\x1c-\x1f]/.test(text)) {
    return "application/octet-stream";
  }
  if (/^\s*[[{]/.test(text)) {
    return "application/json";
  }
  const table = csvTable(text, size > head.length);
  return table && table.columns.length > 1 && table.rows.length > 0 && table.rows.every((row) => row.length === table.columns.length)
    ? "text/csv" : "text/plain";
}
