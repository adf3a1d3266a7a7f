import { useEffect, useRef, useState } from "preact/hooks";

import { newId, type FunctionInfo } from "../aipod.js";
import { DropZone } from "./dropzone.js";
import { Fields } from "./fields.js";
import { bytes } from "./format.js";
import { t } from "./i18n.js";
import { fieldsOf, readFields } from "./schema.js";
import type { Store } from "./state.js";

/** The form that makes jobs. */
export function CallForm({ store }: { store: Store }) {
  const functions = store.model?.functions ?? [];
  const [name, setName] = useState("");
  const [version, setVersion] = useState("");
  const [files, setFiles] = useState<File[]>([]);
  const [asJSON, setAsJSON] = useState(false);
  const [text, setText] = useState("{}");
  const [values, setValues] = useState<Record<string, string>>({});
  const [problem, setProblem] = useState("");
  const form = useRef<HTMLFormElement>(null);
  const fn = functions.find((f) => f.name === name) ?? functions.find((f) => f.name === "hello") ?? functions[0];
  const fields = fn && fieldsOf(fn);

  useEffect(() => setProblem(""), [fn?.name, text, values, files]);

  const submit = (event: Event) => {
    event.preventDefault();
    if (!fn) {
      return;
    }
    try {
      const kwargs = fields && !asJSON ? readFields(fields, values) : parseObject(text);
      const call = { func: fn.name, version, kwargs };
      const payloads: (File | undefined)[] = takesPayload(fn) && files.length > 0 ? files : [undefined];
      const most = store.pod?.maxPayload ?? 0;
      for (const file of payloads) {
        if (most > 0 && file && file.size > most) {
          throw new Error(t("tooLarge", { name: file.name, size: bytes(file.size), most: bytes(most) }));
        }
      }
      for (const file of payloads) {
        store.start({ ...call, id: newId(), ...(file && { payload: file }) }, file);
      }
      setFiles([]);
      document.getElementById("job-title")?.focus({ preventScroll: matchMedia("(min-width: 60rem)").matches });
    } catch (err) {
      setProblem(err instanceof Error ? err.message : String(err));
    }
  };

  return (
    <form ref={form} onSubmit={submit} class={fn ? "" : "waiting"}>
      <label for="function">{t("function")}</label>
      <select id="function" value={fn?.name ?? ""} onChange={(e) => { setName(e.currentTarget.value); setAsJSON(false); }} aria-describedby="function-doc">
        {functions.map((f) => <option value={f.name}>{f.name}</option>)}
      </select>
      <p class="hint doc" id="function-doc">{fn?.doc}</p>

      <label for="version">{t("version")} <small>{t("versionHint")}</small></label>
      <input id="version" list="versions" value={version} onInput={(e) => setVersion(e.currentTarget.value.trim())} autocomplete="off" spellcheck={false} />
      <datalist id="versions">{store.model?.versions.map((v) => <option value={v} />)}</datalist>

      {fields && !asJSON
        ? <Fields fields={fields} values={values} onChange={(key, value) => setValues({ ...values, [key]: value })} />
        : (
          <>
            <label for="kwargs">{t("kwargs")}</label>
            <textarea id="kwargs" rows={4} value={text} onInput={(e) => setText(e.currentTarget.value)} spellcheck={false} />
          </>
        )}
      {fields && (
        <button type="button" class="link" onClick={() => switchTo(!asJSON)}>{t(asJSON ? "asFields" : "asJSON")}</button>
      )}

      {fn && takesPayload(fn)
        ? <DropZone files={files} onChange={setFiles} type={fn.payloadType} />
        : <p class="hint none">{fn && t("none")}</p>}

      {problem && <p class="error-text" role="alert">{problem}</p>}
      <button type="submit" class="primary" disabled={!fn}>{files.length > 1 && fn && takesPayload(fn) ? t("runMany", { count: files.length }) : t("run")}</button>
    </form>
  );

  function switchTo(json: boolean) {
    if (json && fields) {
      try {
        setText(JSON.stringify(readFields(fields, values), null, 2));
      } catch {
        setText("{}");
      }
    }
    setAsJSON(json);
  }
}

function takesPayload(fn: FunctionInfo): boolean {
  return fn.payloadType !== "none";
}

function parseObject(text: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text.trim() || "{}");
  } catch (err) {
    throw new Error(t("badJSON", { error: (err as Error).message }));
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new Error(t("badJSON", { error: text.trim().slice(0, 40) }));
  }
  return value as Record<string, unknown>;
}
