/** Something with rows. */
export interface Table {
  columns: string[];
  rows: string[][];
  /** There are more rows than these. */
  cut: boolean;
}

/** The table that CSV text is; cut says that the text is only its beginning. */
export function csvTable(text: string, cut: boolean): Table | undefined {
  const rows: string[][] = [];
  let row: string[] = [];
  let cell = "";
  let quoted = false;
  for (let i = 0; i < text.length; i++) {
    const c = text[i]!;
    if (quoted) {
      if (c !== '"') {
        cell += c;
      } else if (text[i + 1] === '"') {
        cell += '"';
        i++;
      } else {
        quoted = false;
      }
    } else if (c === '"' && cell === "") {
      quoted = true;
    } else if (c === ",") {
      row.push(cell);
      cell = "";
    } else if (c === "\n") {
      rows.push([...row, cell.replace(/\r$/, "")]);
      row = [];
      cell = "";
    } else {
      cell += c;
    }
  }
  if (!cut && (cell !== "" || row.length > 0)) {
    rows.push([...row, cell]);
  }
  const [columns, ...rest] = rows;
  return columns && { columns, rows: rest, cut };
}

/**
 * The table that a JSON value has in it, if it has one: a list of objects, or an
 * object with lists of the same length, such as {"labels": […], "scores": […]}.
 */
export function jsonTable(value: unknown): Table | undefined {
  if (Array.isArray(value)) {
    return objectsTable(value);
  }
  if (typeof value !== "object" || value === null) {
    return undefined;
  }
  const lists = Object.entries(value).filter((entry): entry is [string, unknown[]] => Array.isArray(entry[1]));
  const length = Math.max(0, ...lists.map(([, list]) => list.length));
  const longest = lists.filter(([, list]) => list.length === length);
  if (length === 0) {
    return undefined;
  }
  if (longest.length === 1 && longest[0]![1].every(isObject)) {
    return objectsTable(longest[0]![1]);
  }
  if (longest.length === 1 && !isMatrix(longest[0]![1])) {
    return undefined; // a list is no table
  }
  const columns: string[] = [];
  const cells: ((row: number) => string)[] = [];
  for (const [name, list] of longest) {
    const names = isMatrix(list) ? lists.find(([, other]) => other.length === list[0]!.length && other.every((n) => typeof n === "string"))?.[1] : undefined;
    if (names) {
      names.forEach((part, i) => {
        columns.push(`${name} ${String(part)}`);
        cells.push((row) => cellText((list[row] as unknown[])[i]));
      });
    } else {
      columns.push(name);
      cells.push((row) => cellText(list[row]));
    }
  }
  return { columns, rows: Array.from({ length }, (_, row) => cells.map((cell) => cell(row))), cut: false };
}

function objectsTable(list: unknown[]): Table | undefined {
  if (list.length === 0 || !list.every(isObject)) {
    return undefined;
  }
  const columns = [...new Set(list.slice(0, 100).flatMap((row) => Object.keys(row)))];
  return { columns, rows: list.map((row) => columns.map((c) => cellText(row[c]))), cut: false };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isMatrix(list: unknown[]): list is unknown[][] {
  return list.length > 0 && list.every((row) => Array.isArray(row) && row.length === (list[0] as unknown[]).length);
}

function cellText(value: unknown): string {
  switch (typeof value) {
    case "undefined": return "";
    case "string": return value;
    case "number": return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(6)));
    default: return JSON.stringify(value);
  }
}
