import { t } from "./i18n.js";
import type { Field } from "./schema.js";

interface FieldsProps {
  fields: Field[];
  values: Record<string, string>;
  onChange: (name: string, value: string) => void;
}

/** An input for each kwarg. */
export function Fields({ fields, values, onChange }: FieldsProps) {
  return <>{fields.map((f) => <FieldInput key={f.name} field={f} value={values[f.name] ?? ""} onChange={(v) => onChange(f.name, v)} />)}</>;
}

function FieldInput({ field, value, onChange }: { field: Field; value: string; onChange: (value: string) => void }) {
  const { name, schema, required, kind } = field;
  const id = `kwarg-${name}`;
  const common = { id, name, required, value, "aria-describedby": `${id}-doc`, autocomplete: "off" };
  const initial = schema.default === undefined ? "" : typeof schema.default === "string" ? schema.default : JSON.stringify(schema.default);
  const read = (e: { currentTarget: { value: string } }) => onChange(e.currentTarget.value);
  return (
    <>
      <label for={id}>{schema.title ?? name}{required && <abbr title="*"> *</abbr>} <small id={`${id}-doc`}>{schema.description ?? ""}{kind === "list" ? ` ${t("list")}` : ""}</small></label>
      {kind === "boolean" ? (
        <select {...common} onChange={read}>
          <option value="">{initial && `(${initial})`}</option>
          <option value="true">true</option>
          <option value="false">false</option>
        </select>
      ) : kind === "choice" ? (
        <select {...common} onChange={read}>
          <option value="">{initial && `(${initial})`}</option>
          {schema.enum!.map((one) => <option value={JSON.stringify(one)}>{typeof one === "string" ? one : JSON.stringify(one)}</option>)}
        </select>
      ) : kind === "json" ? (
        <textarea {...common} rows={2} placeholder={initial} onInput={read} spellcheck={false} />
      ) : kind === "number" || kind === "integer" ? (
        <input {...common} type="number" step={kind === "integer" ? 1 : "any"} min={schema.minimum} max={schema.maximum} placeholder={initial} onInput={read} />
      ) : (
        <input {...common} type="text" placeholder={initial} onInput={read} spellcheck={false} />
      )}
    </>
  );
}
