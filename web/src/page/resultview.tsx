import { useEffect, useState } from "preact/hooks";

import type { Result } from "../aipod.js";
import { bytes } from "./format.js";
import { t } from "./i18n.js";
import { JSONTree } from "./jsontree.js";
import { csvTable, jsonTable, type Table } from "./table.js";
import { mediaType } from "./sniff.js";

/** Outputs up to this size, in bytes, are loaded and shown unasked. */
const unasked = 16 << 20;

/** How much of a text is shown, in bytes. */
const maxText = 256 << 10;

/** How many rows of a table are shown. */
const maxRows = 500;

interface Shown {
  blob: Blob;
  url: string;
  type: string;
  text?: string;
  value?: unknown;
  table?: Table;
}

/** A result as what it is. */
export function ResultView({ result, name }: { result: Result; name: string }) {
  const size = result.size ?? result.text?.length ?? 0;
  const [wanted, setWanted] = useState(size <= unasked);
  const [loaded, setLoaded] = useState(0);
  const [shown, setShown] = useState<Shown>();
  const [problem, setProblem] = useState("");

  useEffect(() => {
    if (!wanted) {
      return undefined;
    }
    const stop = new AbortController();
    let url = "";
    const load = async () => {
      const one = await show(await result.blob(setLoaded, stop.signal), result);
      url = one.url;
      if (stop.signal.aborted) {
        URL.revokeObjectURL(url);
        return;
      }
      setShown(one);
      if (size > unasked) {
        download(one.url, fileName(name, one.type));
      }
    };
    load().catch((err: unknown) => stop.signal.aborted || setProblem((err as Error).message));
    return () => {
      stop.abort();
      URL.revokeObjectURL(url);
    };
  }, [wanted, result]);

  return (
    <div class="result">
      <h3>{t("result")} {result.size !== undefined && <small>{bytes(size)}</small>}</h3>
      {problem && <p class="error-text" role="alert">{problem}</p>}
      {shown ? <Body shown={shown} /> : wanted ? !problem && size > 1 << 20 && (
        <div class="progress">
          <progress max={size} value={loaded} aria-label={t("download")} />
          <p class="hint">{t("loadingResult", { done: bytes(loaded), size: bytes(size) })}</p>
        </div>
      ) : <p><button type="button" onClick={() => setWanted(true)}>{t("downloadSize", { size: bytes(size) })}</button></p>}
      {shown && size > 0 && <p><a class="button" href={shown.url} download={fileName(name, shown.type)}>{t("download")}</a></p>}
    </div>
  );
}

async function show(blob: Blob, result: Result): Promise<Shown> {
  const head = new Uint8Array(await blob.slice(0, 4096).arrayBuffer());
  const type = result.isJSON ? "application/json" : mediaType(head, blob.size);
  const typed = blob.slice(0, blob.size, type);
  const shown: Shown = { blob: typed, type, url: URL.createObjectURL(typed) };
  if (type === "application/json" && blob.size <= unasked) {
    try {
      shown.value = JSON.parse(await blob.text());
      const table = jsonTable(shown.value);
      if (table) {
        shown.table = table;
      }
    } catch {
      shown.type = "text/plain"; // which it only seemed to be
    }
  }
  if (shown.type.startsWith("text/")) {
    shown.text = await blob.slice(0, maxText).text();
    const table = shown.type === "text/csv" ? csvTable(shown.text, blob.size > maxText) : undefined;
    if (table) {
      shown.table = table;
    }
  }
  return shown;
}

function Body({ shown }: { shown: Shown }) {
  const { type, url, blob, table, text, value } = shown;
  if (blob.size === 0) {
    return <p class="hint">{t("empty")}</p>;
  }
  switch (true) {
    case type.startsWith("image/"):
      return <img class="media" src={url} alt={t("result")} />;
    case type.startsWith("audio/"):
      return <audio class="media" controls src={url} aria-label={t("result")} />;
    case type.startsWith("video/"):
      return <video class="media" controls src={url} aria-label={t("result")} />;
    case value !== undefined:
      return <>{table && <TableView table={table} />}<JSONTree value={value} open={!table} /></>;
    case table !== undefined:
      return <TableView table={table!} />;
    case text !== undefined:
      return (
        <>
          <pre class="text" tabIndex={0}>{text}</pre>
          {blob.size > maxText && <p class="hint">{t("truncated", { size: bytes(maxText) })}</p>}
        </>
      );
  }
  return <p class="hint">{type}</p>;
}

function TableView({ table }: { table: Table }) {
  const rows = table.rows.slice(0, maxRows);
  const note = table.cut || rows.length < table.rows.length
    ? t("firstRows", { shown: rows.length, count: table.cut ? "…" : table.rows.length }) : t("rows", { count: table.rows.length });
  return (
    <>
      <div class="table" tabIndex={0} role="region" aria-label={t("table")}>
        <table>
          <thead><tr>{table.columns.map((c) => <th scope="col">{c}</th>)}</tr></thead>
          <tbody>{rows.map((row) => <tr>{row.map((cell) => <td>{cell}</td>)}</tr>)}</tbody>
        </table>
      </div>
      <p class="hint">{note}</p>
    </>
  );
}

const extensions: Record<string, string> = {
  "application/json": "json", "text/csv": "csv", "text/plain": "txt", "image/png": "png", "image/jpeg": "jpg", "image/gif": "gif",
  "image/webp": "webp", "audio/wav": "wav", "audio/mpeg": "mp3", "audio/ogg": "ogg", "audio/flac": "flac", "video/mp4": "mp4",
  "video/webm": "webm", "application/pdf": "pdf", "application/zip": "zip", "application/gzip": "gz",
};

function fileName(name: string, type: string): string {
  return `${name}.${extensions[type] ?? "bin"}`;
}

function download(url: string, name: string): void {
  const a = document.createElement("a");
  a.href = url;
  a.download = name;
  a.click();
}
