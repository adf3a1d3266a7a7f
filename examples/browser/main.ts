// A page of one's own on top of a pod, on any origin that the pod allows.
import { Pod, type Job } from "aipod";

const element = <T extends HTMLElement>(id: string) => document.getElementById(id) as T;
const file = element<HTMLInputElement>("file");
const bar = element<HTMLProgressElement>("bar");
const state = element("state");
const cancel = element<HTMLButtonElement>("cancel");
const result = element("result");

const pod = new Pod({ baseUrl: new URLSearchParams(location.search).get("pod") ?? "http://127.0.0.1:50051" });
let job: Job | undefined;

async function follow(one: Job): Promise<void> {
  job = one;
  localStorage.setItem("job", job.id);
  cancel.hidden = false;
  job.subscribe((s) => {
    bar.value = s.size ? s.committed / s.size : 0;
    state.textContent = s.needsPayload ? "Choose the same file again." : s.connection === "connected" ? s.state : `${s.connection}, nothing is lost`;
  });
  try {
    result.textContent = JSON.stringify(await (await job.result()).json(), null, 2);
  } catch (err) {
    result.textContent = String(err);
  }
  cancel.hidden = true;
}

file.onchange = () => {
  const payload = file.files![0]!;
  if (job?.status.needsPayload) {
    job.supply(payload); // of an upload that a reload has cut
  } else {
    void follow(pod.start({ func: "sha256", payload }));
  }
};
cancel.onclick = () => void job?.cancel();

const before = localStorage.getItem("job");
if (before) {
  void follow(pod.attach(before));
}
