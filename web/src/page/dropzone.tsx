import { useEffect, useRef, useState } from "preact/hooks";

import { bytes } from "./format.js";
import { t } from "./i18n.js";

interface DropZoneProps {
  files: File[];
  onChange: (files: File[]) => void;
  type: string;
}

/** Where files are dropped or chosen. */
export function DropZone({ files, onChange, type }: DropZoneProps) {
  const [over, setOver] = useState(false);
  const add = useRef((_: FileList | null | undefined) => {});
  add.current = (list) => onChange([...files, ...(list ?? [])]);

  // A file that misses the zone is meant for it, too.
  useEffect(() => {
    const stop = new AbortController();
    document.addEventListener("dragover", (e) => { e.preventDefault(); setOver(true); }, stop);
    document.addEventListener("dragleave", (e) => { if (!e.relatedTarget) { setOver(false); } }, stop);
    document.addEventListener("drop", (e) => {
      setOver(false);
      if (!e.defaultPrevented) { // by another zone
        e.preventDefault();
        add.current(e.dataTransfer?.files);
      }
    }, stop);
    return () => stop.abort();
  }, []);

  return (
    <div class={`drop ${over ? "over" : ""}`}>
      <input
        type="file" id="files" multiple class="unseen" accept={type === "text/csv" ? ".csv,text/csv" : type || undefined}
        onChange={(e) => { add.current(e.currentTarget.files); e.currentTarget.value = ""; }}
      />
      <label for="files">{t("drop")} <small>{type ? t("dropType", { type }) : t("dropHint")}</small></label>
      {files.length > 1 && <p class="hint">{t("chosen", { count: files.length, size: bytes(files.reduce((sum, f) => sum + f.size, 0)) })}</p>}
      <ul class="files">
        {files.slice(0, 20).map((file, i) => (
          <li>
            <span class="name">{file.name}</span> <small>{bytes(file.size)}</small>
            <button type="button" class="quiet" aria-label={t("remove", { name: file.name })} onClick={() => onChange(files.filter((_, j) => j !== i))}>✕</button>
          </li>
        ))}
      </ul>
    </div>
  );
}
