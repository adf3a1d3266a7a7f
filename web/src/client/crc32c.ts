// CRC-32C (Castagnoli, RFC 3720), which guards each chunk and each whole payload.

const polynomial = 0x82f63b78; // reflected

// table[256 * k + b] is the CRC of the byte b followed by k zero bytes, so that
// eight bytes are taken at a time.
const table = makeTable();

function makeTable(): Uint32Array {
  const table = new Uint32Array(8 * 256);
  for (let b = 0; b < 256; b++) {
    let c = b;
    for (let bit = 0; bit < 8; bit++) {
      c = c & 1 ? (c >>> 1) ^ polynomial : c >>> 1;
    }
    table[b] = c;
  }
  for (let i = 256; i < table.length; i++) {
    const c = table[i - 256]!;
    table[i] = (c >>> 8) ^ table[c & 0xff]!;
  }
  return table;
}

/** The CRC-32C of bytes; crc is that of what comes before them. */
export function crc32c(bytes: Uint8Array, crc = 0): number {
  const t = table;
  let c = ~crc;
  let i = 0;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (const end = bytes.length - 7; i < end; i += 8) {
    c ^= view.getInt32(i, true);
    const d = view.getInt32(i + 4, true);
    c =
      t[1792 + (c & 0xff)]! ^ t[1536 + ((c >>> 8) & 0xff)]! ^ t[1280 + ((c >>> 16) & 0xff)]! ^ t[1024 + (c >>> 24)]! ^
      t[768 + (d & 0xff)]! ^ t[512 + ((d >>> 8) & 0xff)]! ^ t[256 + ((d >>> 16) & 0xff)]! ^ t[d >>> 24]!;
  }
  for (; i < bytes.length; i++) {
    c = (c >>> 8) ^ t[(c ^ bytes[i]!) & 0xff]!;
  }
  return ~c >>> 0;
}

/**
 * The CRC-32C of two pieces one after the other, from that of each and the length
 * of the second in bytes: the pieces of a payload are read in any order.
 */
export function combine(first: number, second: number, length: number): number {
  // Appending a zero bit is a linear map of the CRC; it is squared for each bit of
  // the length.
  let map = new Uint32Array(32);
  map[0] = polynomial;
  for (let bit = 1; bit < 32; bit++) {
    map[bit] = 1 << (bit - 1);
  }
  let crc = first;
  for (let bits = length * 8; bits > 0; bits = Math.floor(bits / 2)) {
    if (bits % 2 === 1) {
      crc = apply(map, crc);
    }
    map = map.map((column) => apply(map, column));
  }
  return (crc ^ second) >>> 0;
}

function apply(map: Uint32Array, vector: number): number {
  let sum = 0;
  for (let bit = 0; vector !== 0; bit++, vector >>>= 1) {
    if (vector & 1) {
      sum ^= map[bit]!;
    }
  }
  return sum >>> 0;
}
