import { useState } from "preact/hooks";

import { t } from "./i18n.js";

/** How many children are shown at first, and how many more each time. */
const step = 100;

/** A JSON value that is unfolded as far as one wants. */
export function JSONTree({ value, open }: { value: unknown; open: boolean }) {
  return <div class="tree"><Node value={value} open={open} name={t("tree")} depth={0} /></div>;
}

interface NodeProps {
  value: unknown;
  name: string | undefined;
  open: boolean;
  depth: number;
}

function Node({ value, name, open, depth }: NodeProps) {
  const [unfolded, setUnfolded] = useState(open);
  const [shown, setShown] = useState(step);
  const label = name !== undefined && <span class="key">{name}: </span>;
  if (typeof value !== "object" || value === null) {
    return <div>{label}<span class={value === null ? "null" : typeof value}>{JSON.stringify(value)}</span></div>;
  }
  const list = Array.isArray(value);
  const entries = Object.entries(value);
  const [left, right] = list ? "[]" : "{}";
  if (entries.length === 0) {
    return <div>{label}{left}{right}</div>;
  }
  return (
    <details open={unfolded} onToggle={(e) => setUnfolded(e.currentTarget.open)}>
      <summary>{label}{left}<small>{entries.length}</small>{right}</summary>
      {unfolded && (
        <div class="children">
          {entries.slice(0, shown).map(([key, child]) => (
            <Node key={key} value={child} name={list ? undefined : key} open={depth < 2 && (!list || entries.length <= 10)} depth={depth + 1} />
          ))}
          {entries.length > shown && (
            <button type="button" class="link" onClick={() => setShown(shown + step)}>{t("more", { count: entries.length - shown })}</button>
          )}
        </div>
      )}
    </details>
  );
}
