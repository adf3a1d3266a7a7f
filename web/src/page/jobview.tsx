import { useEffect, useRef, useState } from "preact/hooks";

import { isFinal, type Job, type JobStatus, type LogLine } from "../aipod.js";
import { bytes, duration } from "./format.js";
import { t } from "./i18n.js";
import { ResultView } from "./resultview.js";
import { useClock, type Entry, type Store } from "./state.js";

/** A job's state in words. */
export function stateText(entry: Entry): string {
  const status = entry.job?.status;
  if (status?.needsPayload) {
    return t("waiting");
  }
  return t(status?.paused ? "paused" : entry.state);
}

/** All that is known of one job. */
export function JobView({ store, entry }: { store: Store; entry: Entry | undefined }) {
  if (!entry?.job) {
    return (
      <>
        <h2 id="job-title" tabIndex={-1}>{t("noJob")}</h2>
        <p class="hint">{t("noJobHint")}</p>
      </>
    );
  }
  const job = entry.job;
  const s = job.status;
  const file = entry.own?.file;
  return (
    <>
      <h2 id="job-title" tabIndex={-1}>
        {s.func || t("job")} {s.version && <small>{s.version}</small>} <span class={`chip ${s.state}`} role="status">{stateText(entry)}</span>
      </h2>
      <p class="facts">
        {file && <span>{file.name}</span>}
        {(s.size ?? 0) > 0 && <span>{bytes(s.size!)}</span>}
        <Elapsed status={s} />
        {s.attempt > 1 && <span>{t("attempt")}: {s.attempt}</span>}
        <code class="id">{s.id}</code>
      </p>
      {s.connection !== "connected" && !isFinal(s.state) && (
        <p class="banner" role="alert">{t(s.connection)} <small>{s.trouble}</small></p>
      )}
      {s.state === "receiving" && (s.size ?? 0) > 0 && <UploadProgress job={job} status={s} name={file?.name} />}
      {s.state === "queued" && s.queuePosition > 0 && <p class="big">{t("position", { n: s.queuePosition })}</p>}
      {s.state === "loading" && <><p class="big">{t("loadingText")}</p><progress aria-label={t("loading")} /></>}
      {s.state === "running" && <RunProgress status={s} />}
      {s.error && (
        <div class="error" role="alert">
          <h3>{t("error")} <code>{s.error.code}</code></h3>
          <p>{s.error.message}</p>
        </div>
      )}
      {s.result && <ResultView result={s.result} name={`${s.func}-${s.id.slice(0, 13)}`} />}
      {(s.log.length > 0 || s.state === "running") && <LogView lines={s.log} />}
      <Actions store={store} job={job} status={s} />
    </>
  );
}

function Elapsed({ status }: { status: JobStatus }) {
  const now = useClock(!isFinal(status.state));
  const to = status.ended?.getTime() ?? now;
  return status.created ? <span>{t("elapsed")}: {duration((to - status.created.getTime()) / 1000)}</span> : null;
}

function UploadProgress({ job, status, name }: { job: Job; status: JobStatus; name: string | undefined }) {
  const size = status.size ?? 0;
  const missing = bytes(size - status.committed);
  const [problem, setProblem] = useState("");
  const choose = (files: FileList | null | undefined) => {
    try {
      if (files?.[0]) {
        job.supply(files[0]);
      }
      setProblem("");
    } catch (err) {
      setProblem((err as Error).message);
    }
  };
  return (
    <div class="progress">
      <div class="row">
        <progress max={size} value={status.committed} aria-label={t("upload")} />
        <strong>{Math.floor((100 * status.committed) / size)} %</strong>
      </div>
      <p class="facts">
        <span>{t("uploadOf", { done: bytes(status.committed), size: bytes(size) })}</span>
        {status.rate > 0 && <span>{t("rate", { rate: bytes(Math.round(status.rate)) })}</span>}
        {status.eta !== undefined && <span>{t("eta", { time: duration(status.eta) })}</span>}
        {!status.needsPayload && (
          <button type="button" onClick={() => (status.paused ? job.resume() : job.pause())}>{t(status.paused ? "resume" : "pause")}</button>
        )}
      </p>
      {status.needsPayload && (
        <div class="drop" onDrop={(e) => { e.preventDefault(); choose(e.dataTransfer?.files); }}>
          <input type="file" id="again" class="unseen" onChange={(e) => choose(e.currentTarget.files)} />
          <p>{name ? t("needsNamed", { missing, name }) : t("needsFile", { missing })}</p>
          <label for="again" class="button">{t("chooseAgain")}</label>
          {problem && <p class="error-text" role="alert">{problem}</p>}
        </div>
      )}
    </div>
  );
}

function RunProgress({ status }: { status: JobStatus }) {
  const p = status.progress;
  const seen = useRef({ status, at: Date.now() });
  if (seen.current.status !== status) {
    seen.current = { status, at: Date.now() };
  }
  const now = useClock(true);
  const age = status.workerAge === undefined ? undefined : status.workerAge + (now - seen.current.at) / 1000;
  return (
    <div class="progress">
      <div class="row">
        <progress aria-label={t("progress")} {...(p && p.total > 0 && { max: p.total, value: p.done })} />
        {p && p.total > 0 && <strong>{Math.floor((100 * p.done) / p.total)} %</strong>}
      </div>
      <p class="facts">
        {p && <span>{p.total > 0 ? t("progressOf", { done: p.done, total: p.total, unit: p.unit }) : t("progressUnknown", { done: p.done, unit: p.unit })}</span>}
        {p?.note && <span>{p.note}</span>}
        {age !== undefined && <span>{t("alive", { seconds: Math.max(0, Math.floor(age)) })}</span>}
      </p>
    </div>
  );
}

const levels: [number, string][] = [[8, "error"], [4, "warn"], [0, "info"], [-4, "debug"]];

/** The lines of a log, the newest in sight unless somebody reads older ones. */
function LogView({ lines }: { lines: readonly LogLine[] }) {
  const box = useRef<HTMLDivElement>(null);
  const atEnd = useRef(true);
  useEffect(() => {
    if (box.current && atEnd.current) {
      box.current.scrollTop = box.current.scrollHeight;
    }
  }, [lines.length]);
  return (
    <>
      <h3>{t("log")} <small>{t("lines", { count: lines.length })}</small></h3>
      <div
        class="log" ref={box} tabIndex={0} role="log" aria-label={t("log")}
        onScroll={(e) => { const b = e.currentTarget; atEnd.current = b.scrollHeight - b.scrollTop - b.clientHeight < 20; }}
      >
        {lines.length === 0 ? <div class="hint">{t("noLog")}</div> : lines.map((l, i) => (
          <div key={i} class={levels.find(([level]) => l.level >= level)?.[1]}>
            {l.time && <time dateTime={l.time.toISOString()}>{l.time.toLocaleTimeString()}</time>} {l.line}
          </div>
        ))}
      </div>
    </>
  );
}

function Actions({ store, job, status }: { store: Store; job: Job; status: JobStatus }) {
  const [problem, setProblem] = useState("");
  const [copied, setCopied] = useState(false);
  const act = async (what: () => Promise<void>) => {
    setProblem("");
    try {
      await what();
    } catch (err) {
      setProblem((err as Error).message);
    }
  };
  const command = `client jobs attach ${status.id} --addr ${location.origin}`;
  return (
    <>
      <div class="actions">
        {!isFinal(status.state) && <button type="button" onClick={() => act(() => job.cancel())}>{t("cancel")}</button>}
        <button type="button" onClick={() => act(() => store.delete(status.id))}>{t("delete")}</button>
        {problem && <span class="error-text" role="alert">{problem}</span>}
      </div>
      <details class="terminal">
        <summary>{t("terminal")}</summary>
        <code tabIndex={0}>{command}</code>
        {navigator.clipboard && (
          <button type="button" class="quiet" onClick={() => act(async () => { await navigator.clipboard.writeText(command); setCopied(true); })}>
            {t(copied ? "copied" : "copy")}
          </button>
        )}
      </details>
    </>
  );
}
