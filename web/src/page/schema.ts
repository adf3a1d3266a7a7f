import type { FunctionInfo, JSONSchema } from "../aipod.js";

/** A kwarg that the function declares. */
export interface Field {
  name: string;
  schema: JSONSchema;
  required: boolean;
  kind: "text" | "number" | "integer" | "boolean" | "choice" | "list" | "json";
}

/** The fields of a function; undefined if it declares none, so that JSON is asked for. */
export function fieldsOf(fn: FunctionInfo): Field[] | undefined {
  const schema = fn.kwargsSchema;
  if (!schema?.properties) {
    return undefined;
  }
  return Object.entries(schema.properties).map(([name, property]) => ({
    name, schema: property, required: schema.required?.includes(name) ?? false, kind: kindOf(property),
  }));
}

function kindOf(schema: JSONSchema): Field["kind"] {
  const type = Array.isArray(schema.type) ? schema.type.find((one) => one !== "null") : schema.type;
  const items = (schema as { items?: JSONSchema }).items;
  switch (true) {
    case Array.isArray(schema.enum): return "choice";
    case type === "string": return "text";
    case type === "number" || type === "integer" || type === "boolean": return type;
    case type === "array" && items?.type === "string": return "list";
  }
  return "json";
}

/** The kwargs that the fields' values make; those left empty are left out. */
export function readFields(fields: Field[], values: Record<string, string>): Record<string, unknown> {
  const kwargs: Record<string, unknown> = {};
  for (const { name, kind } of fields) {
    const text = (values[name] ?? "").trim();
    if (text === "") {
      continue;
    }
    switch (kind) {
      case "text": kwargs[name] = text; break;
      case "number": case "integer": kwargs[name] = Number(text); break;
      case "boolean": kwargs[name] = text === "true"; break;
      case "list": kwargs[name] = text.split(",").map((s) => s.trim()).filter(Boolean); break;
      case "choice": case "json": kwargs[name] = JSON.parse(text) as unknown; break;
    }
  }
  return kwargs;
}
