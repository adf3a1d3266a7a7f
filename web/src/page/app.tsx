import { useEffect, useState } from "preact/hooks";

import { CallForm } from "./callform.js";
import { currentLang, setLang, t } from "./i18n.js";
import { JobList } from "./joblist.js";
import { JobView } from "./jobview.js";
import { PodView } from "./podview.js";
import { Store, useStore } from "./state.js";
import { setting } from "./store.js";

const store = new Store();

/** The page: a form, the chosen job, all jobs, the pod. */
export function App() {
  useStore(store);
  const [, render] = useState(0);
  const changeLang = () => {
    setLang(currentLang() === "zh" ? "en" : "zh");
    render((n) => n + 1);
  };
  const model = store.model?.name ?? "";
  useEffect(() => {
    const stop = (e: DragEvent) => e.preventDefault(); // or the browser would leave the page and show the file
    addEventListener("dragover", stop);
    addEventListener("drop", stop);
  }, []);
  document.title = model ? t("title", { model }) : "aipod";
  const entry = store.entries().find(({ id }) => id === store.selected);
  return (
    <>
      <a class="skip" href="#call" onClick={(e) => { e.preventDefault(); document.getElementById("function")?.focus(); }}>{t("skip")}</a>
      <header>
        <h1><img src="./favicon.svg" alt="" width="28" height="28" /> aipod <span class="model">{model}</span></h1>
        <PodState store={store} />
        <span class="grow" />
        <button type="button" class="quiet" onClick={changeLang} lang={currentLang() === "zh" ? "en" : "zh-CN"}>{t("language")}</button>
        <button type="button" class="quiet" onClick={toggleTheme} aria-label={t("theme")} title={t("theme")}>◐</button>
      </header>
      <Banner store={store} />
      <main>
        <div class="column">
          <section class="card" aria-labelledby="call-title" id="call">
            <h2 id="call-title">{t("call")}</h2>
            <CallForm store={store} />
          </section>
          <section class="card" aria-labelledby="pod-title" id="pod">
            <h2 id="pod-title">{t("pod")}</h2>
            <PodView store={store} />
          </section>
        </div>
        <div class="column">
          <section class="card" aria-labelledby="job-title" id="job">
            <JobView store={store} entry={entry} key={store.selected ?? ""} />
          </section>
          <section class="card" aria-labelledby="jobs-title" id="jobs">
            <h2 id="jobs-title">{t("jobs")} <small>{t("others")}</small></h2>
            <JobList store={store} />
          </section>
        </div>
      </main>
    </>
  );
}

function PodState({ store }: { store: Store }) {
  const kind = !store.pod ? "" : !store.reachable ? "bad" : store.pod.serving ? "good" : "warn";
  const text = !store.reachable ? "" : store.pod && t(store.pod.serving ? "serving" : "draining");
  return <span class={`chip ${kind}`} hidden={!text}>{text}</span>;
}

/** What is wrong with the way to the pod. */
function Banner({ store }: { store: Store }) {
  const text = navigator.onLine === false ? t("offline") : store.reachable ? "" : t("unreachable");
  return <div role="alert" class="banner" hidden={!text}>{text}</div>;
}

function toggleTheme(): void {
  const dark = document.documentElement.dataset["theme"] ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  const next = dark === "dark" ? "light" : "dark";
  document.documentElement.dataset["theme"] = next;
  setting("theme", next);
}
