// What this browser remembers of its jobs, so that it finds them again. The pod
// has everything else.

/** A job that was started here. */
export interface Remembered {
  id: string;
  func: string;
  version: string;
  created: number; // as Date.now
  file?: { name: string; size: number };
}

const key = "aipod.jobs";
const most = 100;

export function remembered(): Remembered[] {
  try {
    const list: unknown = JSON.parse(localStorage.getItem(key) ?? "[]");
    return Array.isArray(list) ? (list as Remembered[]).filter((job) => typeof job?.id === "string") : [];
  } catch {
    return []; // somebody else wrote it, or storage is off
  }
}

export function remember(job: Remembered): void {
  save([job, ...remembered()].slice(0, most));
}

export function forget(id: string): void {
  save(remembered().filter((job) => job.id !== id));
}

function save(list: Remembered[]): void {
  try {
    localStorage.setItem(key, JSON.stringify(list));
  } catch {
    // Without storage the page works, but forgets.
  }
}

/** A choice of the user's that outlives the page. */
export function setting(name: "theme" | "lang", value?: string): string | null {
  try {
    if (value !== undefined) {
      localStorage.setItem(`aipod.${name}`, value);
    }
    return localStorage.getItem(`aipod.${name}`);
  } catch {
    return value ?? null;
  }
}
