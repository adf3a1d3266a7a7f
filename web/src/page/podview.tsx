import { bytes } from "./format.js";
import { t } from "./i18n.js";
import type { Store } from "./state.js";

/** How the pod is: health, instances, queue. */
export function PodView({ store }: { store: Store }) {
  const pod = store.pod;
  if (!pod || !store.reachable) {
    return <p class="hint">{pod ? t("unreachable") : "…"}</p>;
  }
  const name = (version: string) => version || t("default");
  return (
    <>
      <p class="facts">
        <span>{t(pod.serving ? "serving" : "draining")}</span>
        <span>{t("queue", { count: pod.queued })}</span>
        <span>{t("stored", { size: bytes(pod.stored) })}</span>
      </p>
      {pod.downVersions.length > 0 && <p class="error-text">{t("down", { versions: pod.downVersions.map(name).join(", ") })}</p>}
      <h3>{t("instances")} <small>{pod.instances.length}/{pod.maxInstances}</small></h3>
      {pod.instances.length === 0 ? <p class="hint">{t("noInstances")}</p> : (
        <ul class="plain">
          {pod.instances.map((i) => (
            <li>
              {i.state === "loading" ? t("instanceLoading", { version: name(i.version) })
                : i.state === "retired" ? t("instanceRetired", { version: name(i.version) })
                  : t("instance", { version: name(i.version), busy: i.busy, slots: i.slots })}
            </li>
          ))}
        </ul>
      )}
    </>
  );
}
