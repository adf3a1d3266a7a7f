import { JobError } from "./errors.js";
import { sleep } from "./wait.js";

/** The payload can't be read any more: the file has changed, or is gone. */
export class ReadError extends JobError {}

/** How much of a file is in the page's memory at once, in bytes. */
const pieceSize = 256 << 10;

/** How long a read may take, in milliseconds: a browser may lose one, as Chromium loses those of a blob's stream. */
const readTimeout = 10_000;

/** How often a piece is asked for. */
const maxReads = 3;

/** Reads a part of a file piece by piece. The pieces are no longer there when use, or what it returns, has ended. */
export async function readPieces(data: Blob, use: (piece: Uint8Array<ArrayBuffer>) => unknown): Promise<void> {
  for (let offset = 0; offset < data.size; offset += pieceSize) {
    const buffer = await read(data.slice(offset, offset + pieceSize));
    await use(new Uint8Array(buffer));
    free(buffer);
  }
}

async function read(data: Blob): Promise<ArrayBuffer> {
  for (let times = 0; times < maxReads; times++) {
    const ended = new AbortController();
    const lost = sleep(readTimeout, ended.signal).catch(() => {});
    try {
      const buffer = await Promise.race([data.arrayBuffer(), lost]);
      if (buffer) {
        return buffer;
      }
    } catch (err) {
      throw new ReadError("failed_precondition", `the file can't be read any more: it was changed, moved or removed (${String(err)})`);
    } finally {
      ended.abort();
    }
  }
  throw new ReadError("unavailable", `the file can't be read: ${maxReads} times a read took more than ${readTimeout / 1000} s`);
}

/** Gives a buffer's memory back at once where the browser can: until garbage is collected, 80 MiB gather. */
function free(buffer: ArrayBuffer): void {
  (buffer as { transfer?: (size: number) => ArrayBuffer }).transfer?.(0);
}
