import type { CSSProperties } from "react";
import type { Person } from "./api";

const HUES = [25, 70, 120, 165, 205, 250, 295, 340];

/** The same colour for everybody who looks at this person. */
function hueOf(user: string): number {
  let hash = 0;
  for (const character of user) hash = (hash * 31 + (character.codePointAt(0) ?? 0)) >>> 0;
  return HUES[hash % HUES.length] ?? 0;
}

export function hueStyle(user: string): CSSProperties {
  return { "--hue": hueOf(user) } as CSSProperties;
}

export function Avatar({ person }: { person: Person }) {
  const initials = person.name
    .split(/\s+/)
    .map((word) => [...word][0] ?? "")
    .slice(0, 2)
    .join("");
  return (
    <span className="avatar" style={hueStyle(person.user)} aria-hidden="true">
      {initials.toUpperCase()}
    </span>
  );
}
