import { stateText } from "./jobview.js";
import { t } from "./i18n.js";
import type { Store } from "./state.js";

const most = 100;

/** The jobs of the pod, the newest first. */
export function JobList({ store }: { store: Store }) {
  const entries = store.entries().slice(0, most);
  if (entries.length === 0) {
    return <p class="hint">{t("noJobs")}</p>;
  }
  return (
    <ul class="jobs">
      {entries.map((e) => (
        <li key={e.id}>
          <button type="button" aria-current={e.id === store.selected} onClick={() => store.select(e.id)}>
            <span class={`chip ${e.state}`}>{stateText(e)}</span>
            <span class="what">{e.func}{e.version && <small> {e.version}</small>}</span>
            <span class="file">{e.own?.file?.name ?? ""}</span>
            <time dateTime={new Date(e.created).toISOString()}>{new Date(e.created).toLocaleTimeString()}</time>
          </button>
        </li>
      ))}
    </ul>
  );
}
